"""Noise levels: the law of sigma in training and the grid of sigmas in sampling.

Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models"
(arXiv 2206.00364).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from gmm_diffusion.errors import InputError
from gmm_diffusion.types import Array

# The law's ends, tau and RMS, are at most this far apart, and at least that far: three standard
# deviations of ln sigma between the two need room, and float32 a limit.
_LEAST, _MOST = 3.0, 1000.0
# Sampling starts at this many times the largest standard deviation of the data.
_FAR = 20.0
# A denoiser is asked at noise levels within so many standard deviations of ln sigma in training.
_REACH = 3.0
# A logistic law ends so many times its scale from its middle.
_CLIP = 3.0


@struct.dataclass
class NoiseLaw:
    """Noise levels fitted to data.

    Attributes:
      mean: `[]` mean of `ln sigma` in training.
      std: `[]` standard deviation of `ln sigma` in training.
      highest: `[]` noise level that sampling starts from.
    """

    mean: Array
    std: Array
    highest: Array


def between(tau: float, rms: float, spread: float) -> NoiseLaw:
    """The law for data with detail from tau to RMS (ours).

    `ln sigma` has mean `ln sqrt(tau rms)` and standard deviation `ln(rms / tau) / 3`: below tau the
    noise hides nothing, above RMS nothing is left to see, and both lie 1.5 standard deviations out.
    (-2.3, 1.5), which Karras et al. 2024 (arXiv 2406.02507) use for their tree, is tau 0.01 at RMS
    1. Sampling starts at `20 spread`: a Gaussian of that standard deviation ends 0.13 % too narrow
    where sampling is exact, others less.

    Args:
      tau: smallest standard deviation of the data's parts; `rms / tau` is held within 3 and 1000.
      rms: root mean square of the centred data's entries.
      spread: largest standard deviation of the data along any direction.
    """
    ratio = min(max(rms / max(tau, rms / _MOST), _LEAST), _MOST)
    mean, std = math.log(rms) - 0.5 * math.log(ratio), math.log(ratio) / 3
    return NoiseLaw(*(jnp.float32(v) for v in (mean, std, _FAR * spread)))


def log_normal(keys: Array, mean: float, std: float) -> Array:
    """One sigma a key, `ln sigma ~ N(mean, std^2)`: `[B]` keys -> `[B]` (table 1)."""
    return jnp.exp(mean + std * jax.vmap(jax.random.normal)(keys))


def log_uniform(keys: Array, low: float, high: float) -> Array:
    """One level a key, uniform in its logarithm: `[B]` keys -> `[B]`, 0 < low <= high."""
    uniform = jax.vmap(jax.random.uniform)(keys)
    return low * (high / low) ** uniform


def log_logistic(keys: Array, low: float, high: float) -> Array:
    """One level a key, logistic in its logarithm about the middle: `[B]` keys -> `[B]`.

    Truncated to `(low, high)`, 0 < low <= high, three times the scale away, as in Wu et al. 2024
    (arXiv 2407.08946, appendix, after Kong et al. 2023, arXiv 2302.03792).
    """
    ends = jax.nn.sigmoid(jnp.asarray([-_CLIP, _CLIP]))
    share = ends[0] + (ends[1] - ends[0]) * jax.vmap(jax.random.uniform)(keys)
    place = 0.5 * (1.0 + jax.scipy.special.logit(share) / _CLIP)
    return low * (high / low) ** place


def trained_range(log_mean: float, log_std: float) -> tuple[float, float]:
    """The noise levels at which a denoiser is trained often enough to be asked."""
    return math.exp(log_mean - _REACH * log_std), math.exp(log_mean + _REACH * log_std)


def karras(num_steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Array:
    """The EDM grid, `[S+1]` decreasing from `sigma_max` to `sigma_min`, then 0 (eq. 5).

    Raises:
      InputError: fewer than one step, sigmas not positive and increasing, or levels that float32
        cannot tell apart.
    """
    if num_steps < 1:
        raise InputError(f"num_steps is {num_steps}; it must be at least 1.")
    if not (0 < sigma_min < sigma_max and rho > 0):
        raise InputError(
            f"sigma_min is {sigma_min}, sigma_max is {sigma_max} and rho is {rho}; "
            "they must satisfy 0 < sigma_min < sigma_max and rho > 0."
        )
    # In float64, and as a mean of the two ends: the lowest level to the power 1 / rho may be far
    # below the highest one's rounding.
    fraction = np.linspace(0.0, 1.0, num_steps) if num_steps > 1 else np.zeros(1)
    low, high = np.float64(sigma_min) ** (1 / rho), np.float64(sigma_max) ** (1 / rho)
    sigmas = np.append(((1 - fraction) * high + fraction * low) ** rho, 0.0).astype(np.float32)
    if not (np.isfinite(sigmas).all() and (np.diff(sigmas) < 0).all()):
        raise InputError(
            f"sigma_min is {sigma_min}, sigma_max is {sigma_max} and rho is {rho}; between these "
            f"float32 cannot tell {num_steps} levels apart."
        )
    return jnp.asarray(sigmas)
