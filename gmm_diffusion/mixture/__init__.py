"""Gaussian mixtures: exact densities at any noise level, fitting, and comparison."""

from gmm_diffusion.mixture.density import denoise, log_prob, responsibilities, score
from gmm_diffusion.mixture.distances import (
    gaussian_wasserstein,
    js_divergence,
    kl_divergence,
    mixture_wasserstein,
)
from gmm_diffusion.mixture.em import FitResult, fit_em
from gmm_diffusion.mixture.em_loop import iterate
from gmm_diffusion.mixture.expansion import even_means, fit_expansion
from gmm_diffusion.mixture.gaussian_mixture import KINDS, GaussianMixture
from gmm_diffusion.mixture.interchange import from_sklearn, to_sklearn
from gmm_diffusion.mixture.selection import (
    SelectionCurve,
    aic,
    bic,
    fit_curve,
    mean_log_likelihood,
    smallest_std,
)
from gmm_diffusion.mixture.streaming import fit_em_stream
from gmm_diffusion.mixture.transforms import condition_on, sample, smooth

__all__ = [
    "KINDS",
    "FitResult",
    "GaussianMixture",
    "SelectionCurve",
    "aic",
    "bic",
    "condition_on",
    "denoise",
    "even_means",
    "fit_curve",
    "fit_em",
    "fit_em_stream",
    "fit_expansion",
    "from_sklearn",
    "gaussian_wasserstein",
    "iterate",
    "js_divergence",
    "kl_divergence",
    "log_prob",
    "mean_log_likelihood",
    "mixture_wasserstein",
    "responsibilities",
    "sample",
    "score",
    "smallest_std",
    "smooth",
    "to_sklearn",
]
