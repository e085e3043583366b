"""Samplers: from noise to data, given a denoiser."""

from gmm_diffusion.sampling import samplers

__all__ = ["samplers"]
