"""The contrastive diffusion loss: data against smoothed data, told apart by the denoiser.

Wu et al. 2024 (arXiv 2407.08946). A denoiser is trained at noisy data and so knows little of points
that are unlike noisy data of the level it is told; the ratio of densities at a point of smoothed
data asks it exactly there.
"""

import functools

import jax
import jax.numpy as jnp

from gmm_diffusion.diffusion.density_ratio import log_density_ratio, ratio_and_spread
from gmm_diffusion.diffusion.preconditioning import expand_like
from gmm_diffusion.errors import InputError
from gmm_diffusion.random_keys import Contrast, fold_in
from gmm_diffusion.types import Array, DenoiseFn, PyTree

__all__ = ["contrastive_loss", "log_density_ratio", "log_uniform"]


def log_uniform(keys: Array, low: float, high: float) -> Array:
    """One zeta a key, uniform in its logarithm: `[B]` keys -> `[B]`.

    Raises:
      InputError: unless 0 < low <= high.
    """
    if not 0 < low <= high:
        raise InputError(
            f"The range of zeta is ({low}, {high}); it must be two positive numbers, the smaller "
            "first."
        )
    uniform = jax.vmap(jax.random.uniform)(keys)
    return low * (high / low) ** uniform


def contrastive_loss(
    denoise_fn: DenoiseFn,
    keys: Array,
    x: Array,
    label: Array,
    cond: PyTree = None,
    *,
    zeta: tuple[float, float],
    num_points: int = 16,
    **options,
) -> tuple[Array, Array, Array]:
    """`softplus(-label ratio)`, `ratio = log p_0 - log p_zeta` (arXiv 2407.08946, equation 9).

    A noisy ratio biases the loss by up to an eighth of its variance. In many dimensions few
    `num_points` do with the control variate (`variance` in the options); in few there is more
    chance in a ratio than it takes away, and `importance` and more points are needed.

    Args:
      denoise_fn: the denoiser.
      keys: `[B]`, one a point.
      x: `[B, ...]` clean data; those of label -1 are smoothed here.
      label: `[B]`, 1 for data and -1 for smoothed data.
      cond: a pytree with leading B, or None; both densities are given it.
      zeta: range of the smoothing, log-uniform (ours), in the units of `x`.
      num_points: see `density_ratio.integrate`.
      **options: of `density_ratio.integrate`; `sigma_max` may be a function of zeta `[B]`.

    Returns:
      `[B]` losses, `[B]` ratios, and `[B]` estimates of the ratios' standard deviations.

    Raises:
      InputError: an empty range of zeta, or as `density_ratio.integrate`.
    """
    use = functools.partial(fold_in, keys)
    level = log_uniform(use(Contrast.ZETA), *zeta)
    noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(use(Contrast.NOISE))
    x = jnp.where(expand_like(label, x) > 0, x, x + expand_like(level, x) * noise)
    if callable(options.get("sigma_max")):
        options["sigma_max"] = options["sigma_max"](level)
    ratio, spread = ratio_and_spread(
        denoise_fn, use(Contrast.RATIO), x, level, cond, num_points, **options
    )
    return jax.nn.softplus(-label * ratio), ratio, spread
