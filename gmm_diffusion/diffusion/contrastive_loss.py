"""The contrastive diffusion loss: data against smoothed data, told apart by the denoiser.

Wu et al. 2024 (arXiv 2407.08946). A denoiser is trained at noisy data and so knows little of points
that are unlike noisy data of the level it is told; the ratio of densities at a point of smoothed
data asks it exactly there.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from gmm_diffusion.diffusion import noise_levels
from gmm_diffusion.diffusion.density_ratio import log_density_ratio, ratio_and_spread
from gmm_diffusion.diffusion.preconditioning import expand_like
from gmm_diffusion.errors import InputError
from gmm_diffusion.random_keys import Contrast, fold_in
from gmm_diffusion.types import Array, DenoiseFn, PyTree

__all__ = ["ZETA_LAWS", "contrastive_loss", "log_density_ratio"]


# The law of ln zeta within a range.
ZETA_LAWS: dict[str, Callable[[Array, float, float], Array]] = {
    "uniform": noise_levels.log_uniform,
    "logistic": noise_levels.log_logistic,
}


def contrastive_loss(
    denoise_fn: DenoiseFn,
    keys: Array,
    x: Array,
    label: Array,
    cond: PyTree = None,
    *,
    zeta: tuple[float, float],
    law: str = "uniform",
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
      zeta: range of the smoothing, in the units of `x`.
      law: of its logarithm in that range, a key of `ZETA_LAWS`: logistic in the paper.
      num_points: see `density_ratio.integrate`.
      **options: of `density_ratio.integrate`; `sigma_max` may be a function of zeta `[B]`.

    Returns:
      `[B]` losses, `[B]` ratios, and `[B]` estimates of the ratios' standard deviations.

    Raises:
      InputError: an empty range of zeta, or as `density_ratio.integrate`.
    """
    if not 0 < zeta[0] <= zeta[1]:
        raise InputError(
            f"The range of zeta is {tuple(zeta)}; it must be two positive numbers, the smaller "
            "first."
        )
    use = functools.partial(fold_in, keys)
    level = ZETA_LAWS[law](use(Contrast.ZETA), *zeta)
    noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(use(Contrast.NOISE))
    x = jnp.where(expand_like(label, x) > 0, x, x + expand_like(level, x) * noise)
    if callable(options.get("sigma_max")):
        options["sigma_max"] = options["sigma_max"](level)
    ratio, spread = ratio_and_spread(
        denoise_fn, use(Contrast.RATIO), x, level, cond, num_points, **options
    )
    return jax.nn.softplus(-label * ratio), ratio, spread
