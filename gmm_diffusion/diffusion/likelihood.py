"""Likelihoods and a reading of the noise level, from a denoiser alone.

The identity of `density_ratio` with a Gaussian as the second density: nothing is left unknown, and
the first may be the data's density or a smoothed one (Kong et al. 2023, arXiv 2302.03792, equation
9, for the former).
"""

import math

import jax
import jax.numpy as jnp

from gmm_diffusion.diffusion.density_ratio import Gaussian, Smoothed, integrate
from gmm_diffusion.errors import InputError
from gmm_diffusion.types import Array, DenoiseFn, PyTree


def log_likelihood(
    denoise_fn: DenoiseFn,
    key: Array,
    x: Array,
    cond: PyTree = None,
    num_points: int = 256,
    *,
    rms: float,
    zeta: Array | float = 0.0,
    **options,
) -> Array:
    """`log p_zeta(x)`, of the data smoothed by zeta, or at zeta 0 of the data themselves.

    Args:
      denoise_fn: the denoiser of the data.
      key: `[]`, or `[B]`, one a point.
      x: `[B, ...]` centred points.
      cond: a pytree with leading B, or None; the likelihood is then given it.
      num_points: evaluations of the integrand a point.
      rms: root mean square of the data's entries; the nearer, the less noise.
      zeta: `[]` or `[B]`.
      **options: of `density_ratio.integrate`; without `variance` the control variate takes
        `rms^2`.

    Returns:
      `[B]`, nats.

    Raises:
      InputError: zeta negative, rms not positive, or as `density_ratio.integrate`.
    """
    if not rms > 0:
        raise InputError(f"rms is {rms}; it must be positive.")
    if not isinstance(zeta, jax.core.Tracer) and jnp.ndim(zeta) == 0 and zeta < 0:
        raise InputError(f"zeta is {zeta}; it must be at least 0.")
    variance = rms**2 + jnp.square(jnp.broadcast_to(jnp.asarray(zeta, x.dtype), x.shape[:1]))
    options.setdefault("variance", rms**2)
    gain = integrate(
        denoise_fn, key, x, Smoothed(zeta), Gaussian(variance), cond, num_points, **options
    )
    squares = jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim)))
    dim = math.prod(x.shape[1:])
    return gain - 0.5 * (squares / variance + dim * jnp.log(2 * math.pi * variance))


def bits_per_dimension(log_likelihood: Array, dim: int, bin_width: float = 1.0) -> Array:
    """Nats of a density -> bits to store an entry that is rounded to a multiple of `bin_width`.

    Args:
      log_likelihood: `[B]`, nats.
      dim: number of entries of an example.
      bin_width: in the units of the data: 2/255 for 8-bit images in [-1, 1] with uniform noise of
        that width added (Theis et al. 2016, arXiv 1511.01844).

    Raises:
      InputError: a bin or a dimension that is not positive.
    """
    if not bin_width > 0 or dim < 1:
        raise InputError(f"bin_width is {bin_width} and dim is {dim}; both must be positive.")
    return -(log_likelihood / dim + math.log(bin_width)) / math.log(2)


def noise_level(
    denoise_fn: DenoiseFn,
    key: Array,
    x: Array,
    levels: Array,
    cond: PyTree = None,
    num_points: int = 256,
    *,
    rms: float,
    **options,
) -> tuple[Array, Array]:
    """Is this noisy, and how much? The most likely of some noise levels.

    Args:
      denoise_fn: the denoiser of clean data.
      key: `[]`, or `[B]`, one a point; all levels see the same noise.
      x: `[B, ...]` centred points.
      levels: `[L]`, not negative.
      cond: a pytree with leading B, or None.
      num_points: evaluations of the integrand a point and level.
      rms: as in `log_likelihood`.
      **options: of `density_ratio.integrate`.

    Returns:
      `[B]` noise levels, and `[B, L]` log-likelihoods of all.

    Raises:
      InputError: as `log_likelihood`.
    """

    def of_level(zeta):
        return log_likelihood(denoise_fn, key, x, cond, num_points, rms=rms, zeta=zeta, **options)

    levels = jnp.asarray(levels, x.dtype)
    found = jax.lax.map(of_level, levels).T
    return levels[jnp.argmax(found, axis=1)], found
