"""Gaussian mixtures: exact densities at any noise level, and fitting."""

from gmm_diffusion.mixture.density import denoise, log_prob, responsibilities, score
from gmm_diffusion.mixture.em import FitResult, fit_em
from gmm_diffusion.mixture.gaussian_mixture import KINDS, GaussianMixture
from gmm_diffusion.mixture.transforms import condition_on, sample, smooth

__all__ = [
    "KINDS",
    "FitResult",
    "GaussianMixture",
    "condition_on",
    "denoise",
    "fit_em",
    "log_prob",
    "responsibilities",
    "sample",
    "score",
    "smooth",
]
