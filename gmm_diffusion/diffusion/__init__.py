"""Noise levels, preconditioning and losses of the diffusion model."""
