"""The law of noise in training: the one place that says what it is."""

import logging

import jax
import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion import config as config_lib
from gmm_diffusion.diffusion import noise_levels
from gmm_diffusion.diffusion.noise_levels import NoiseLaw
from gmm_diffusion.mixture import selection
from gmm_diffusion.model.fitted import FittedStatistics

log = logging.getLogger(__name__)

# Enough points to see parts that hold a twentieth of the data.
_POINTS = 8192
_COMPONENTS = (8, 32)
# With fewer points a component and dimension it is thin along some direction by chance.
_POINTS_A_DIMENSION = 10
# So much of the data lies in parts as thin as tau: a few copies of one point are no detail.
_SHARE = 0.05


def fit(config: ConfigDict, x: np.ndarray) -> NoiseLaw | None:
    """The law for training vectors `x [N, D]`; None where `diffusion.law` is given.

    Tau is read off a mixture of its own, with as many full components as the data support, and not
    off that of the conditioning: models that differ in that alone see the same noise, whatever
    their seed, and a mixture of few components sees nothing of thin lines.

    Raises:
      InputError: `contrastive.zeta` beyond where the law trains.
    """
    if config.diffusion.law == "given":
        return None
    x = x[np.random.default_rng(0).permutation(len(x))[:_POINTS]]
    most = len(x) // (_POINTS_A_DIMENSION * x.shape[1])
    counts = [count for count in _COMPONENTS if count <= most] or [1]
    curve = selection.fit_curve(
        jax.random.key(0), x, counts, "full", max_iterations=100, allow_degenerate=True
    )
    tau = selection.smallest_std(curve.best("bic").mixture, _SHARE)
    covariance = np.atleast_2d(np.cov(x, rowvar=False, dtype=np.float64))
    variances = np.linalg.eigvalsh(covariance)
    rms, spread = float(np.sqrt(variances.mean())), float(np.sqrt(variances.max()))
    made = noise_levels.between(tau, rms, spread)
    log.info(
        "Noise: ln sigma of mean %.2f and standard deviation %.2f in training, for parts as thin "
        "as %.3g in data of RMS %.3g.",
        made.mean,
        made.std,
        tau,
        rms,
    )
    config_lib.check_zeta(config, float(made.mean), float(made.std))
    return made


def law(config: ConfigDict, fitted: FittedStatistics) -> tuple[float, float]:
    """Mean and standard deviation of `ln sigma` in training."""
    if config.diffusion.law == "given":
        return config.diffusion.sigma_log_mean, config.diffusion.sigma_log_std
    assert fitted.noise_law is not None, "a law that is not given is fitted"
    return float(fitted.noise_law.mean), float(fitted.noise_law.std)
