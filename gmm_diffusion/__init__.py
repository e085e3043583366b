"""Diffusion models conditioned on Gaussian mixtures, in JAX."""

__version__ = "0.1.0"
