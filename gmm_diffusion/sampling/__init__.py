"""Samplers: from noise to data, given a denoiser; and guidance, which makes one of two."""

from gmm_diffusion.sampling import guidance, parallel, samplers, settings

__all__ = ["guidance", "parallel", "samplers", "settings"]
