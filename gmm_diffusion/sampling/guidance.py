"""Guidance: a denoiser pushed away from a worse one, `D = D_guide + scale (D_main - D_guide)`.

Each function takes and returns a `DenoiseFn`, so that kinds of guidance compose, every sampler
takes them, and every evaluation of a step is guided. The worse one differs in

  autoguided        the network: smaller, or trained for less time (Karras et al. 2024,
                    arXiv 2406.02507, equation 3 and section 4)
  classifier_free   the condition: none (Ho & Salimans 2022, arXiv 2207.12598)
  mixture_guided    the condition: a blurred mixture (ours, no paper's)

`scale` is a float, of which 1 returns the main denoiser itself and costs nothing, or traced.
`interval = (low, high)` guides at noise levels inside it only (Kynkaanniemi et al. 2024, arXiv
2404.07724); where the noise level is a scalar, as in every sampler, the guide is not evaluated
outside. `limit` bounds what guidance adds to a sample, in units of sigma (ours; see `push`).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from gmm_diffusion.errors import InputError
from gmm_diffusion.types import Array, Condition, DenoiseFn, PyTree


@struct.dataclass
class ConditionPair:
    """What `mixture_guided` is conditioned on.

    Attributes:
      main: the condition asked for, a pytree with leading B.
      guide: the worse one, of the same structure and shapes.
    """

    main: PyTree
    guide: PyTree


def push(
    main: Array, guide: Array, sigma: Array, scale: Array | float, limit: float | None = None
) -> Array:
    """`main + (scale - 1) (main - guide)`, exactly `main` at scale 1.

    Args:
      main: `[B, ...]` denoised data of the main model.
      guide: `[B, ...]` of the guide.
      sigma: `[]` or `[B]`.
      scale: a float or `[]`.
      limit: None, or the largest root mean square over a sample's entries of what is added,
        divided by sigma. Points that have left the data are where two networks differ without
        meaning; unbounded, they are thrown ever further out.

    Returns:
      `[B, ...]`.
    """
    added = (scale - 1.0) * (main - guide)
    if limit is not None:
        rms = jnp.sqrt(jnp.mean(jnp.square(added), axis=tuple(range(1, added.ndim))))
        allowed = limit * jnp.broadcast_to(sigma, rms.shape)
        factor = jnp.minimum(1.0, allowed / jnp.maximum(rms, jnp.finfo(rms.dtype).tiny))
        added = added * _like(factor, added)
    return main + added


def autoguided(
    main_fn: DenoiseFn,
    guide_fn: DenoiseFn,
    scale: Array | float,
    interval: tuple[float, float] | None = None,
    limit: float | None = None,
) -> DenoiseFn:
    """Guidance by a bad version of the model, a second denoiser (arXiv 2406.02507, equation 3).

    Args:
      main_fn: the denoiser.
      guide_fn: a worse one of the same data under the same condition.
      scale: w; 1 is `main_fn`, 0 is `guide_fn`.
      interval: noise levels `(low, high)` that are guided, both included; None guides all.
      limit: see `push`.

    Raises:
      ValueError: a scale that is not finite, an empty interval, or a limit that is not positive.
    """

    def both(x, sigma, cond):
        return main_fn(x, sigma, cond), guide_fn(x, sigma, cond)

    return _guided(main_fn, both, scale, interval, limit)


def classifier_free(
    denoise_fn: DenoiseFn,
    scale: Array | float,
    interval: tuple[float, float] | None = None,
    limit: float | None = None,
) -> DenoiseFn:
    """Guidance by the null condition, one call on a doubled batch (arXiv 2207.12598).

    Args:
      denoise_fn: a denoiser conditioned on `types.Condition`, trained with label dropout.
      scale: w, so that w - 1 is the published guidance strength.
      interval: as in `autoguided`.
      limit: see `push`.

    Raises:
      ValueError: as `autoguided`; when called, for a condition without a null.
    """

    def null(cond):
        if not isinstance(cond, Condition):
            raise ValueError(
                f"classifier_free needs a types.Condition, whose keep selects the null; "
                f"the condition is {type(cond).__name__}."
            )
        return dataclasses.replace(cond, keep=jnp.zeros_like(cond.keep))

    def both(x, sigma, cond):
        return _doubled(denoise_fn, x, sigma, cond, null(cond))

    return _guided(denoise_fn, both, scale, interval, limit)


def mixture_guided(
    denoise_fn: DenoiseFn,
    scale: Array | float,
    interval: tuple[float, float] | None = None,
    limit: float | None = None,
) -> DenoiseFn:
    """Guidance by the same network under a blurred mixture, one call on a doubled batch.

    Ours: no second network and no label dropout. The blurred condition comes from
    `conditioning.blur_weights` or `conditioning.blur_covariances`.

    Args:
      denoise_fn: a conditioned denoiser.
      scale: w.
      interval: as in `autoguided`.
      limit: see `push`.

    Returns:
      A denoiser whose condition is a `ConditionPair`.

    Raises:
      ValueError: as `autoguided`.
    """

    def main_fn(x, sigma, cond):
        return denoise_fn(x, sigma, cond.main)

    def both(x, sigma, cond):
        return _doubled(denoise_fn, x, sigma, cond.main, cond.guide)

    return _guided(main_fn, both, scale, interval, limit)


def energy_guided(
    denoise_fn: DenoiseFn,
    energy_fn: Callable[[Array, Array, PyTree], Array],
    scale: Array | float,
    interval: tuple[float, float] | None = None,
) -> DenoiseFn:
    """`D - scale sigma^2 grad_x energy`: the score plus `-scale grad_x energy` (method, section 3).

    It approximates, and does not sample, `p(x) exp(-scale energy(x))`.

    Args:
      denoise_fn: the denoiser.
      energy_fn: `(x [B, ...], sigma, cond) -> [B]`, differentiable in `x`.
      scale: strength; 0 returns `denoise_fn` itself.
      interval: as in `autoguided`.

    Raises:
      ValueError: as `autoguided`.
    """
    check(scale, interval, None)
    if _is_number(scale) and scale == 0:
        return denoise_fn

    def pushed(x, sigma, cond):
        slope = jax.grad(lambda x: jnp.sum(energy_fn(x, sigma, cond)))(x)
        return denoise_fn(x, sigma, cond) - scale * _like(jnp.square(sigma), x) * slope

    return _inside(denoise_fn, pushed, interval)


def _guided(main_fn, both, scale, interval, limit):
    """`main_fn` outside the interval; inside, pushed away from the second of `both`."""
    check(scale, interval, limit)
    if _is_number(scale) and scale == 1:
        return main_fn

    def pushed(x, sigma, cond):
        main, guide = both(x, sigma, cond)
        return push(main, guide, sigma, scale, limit)

    return _inside(main_fn, pushed, interval)


def _inside(plain, pushed, interval):
    if interval is None:
        return pushed
    low, high = interval

    def denoise_fn(x, sigma, cond=None):
        sigma = jnp.asarray(sigma)
        inside = (sigma >= low) & (sigma <= high)
        if sigma.ndim == 0:
            return lax.cond(inside, pushed, plain, x, sigma, cond)
        return jnp.where(_like(inside, x), pushed(x, sigma, cond), plain(x, sigma, cond))

    return denoise_fn


def _doubled(denoise_fn, x, sigma, main_cond, guide_cond):
    """The denoiser under two conditions in one call."""
    twice = jnp.concatenate([x, x])
    sigma = jnp.asarray(sigma)
    sigmas = sigma if sigma.ndim == 0 else jnp.concatenate([sigma, sigma])
    conds = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), main_cond, guide_cond)
    return jnp.split(denoise_fn(twice, sigmas, conds), 2)


def _like(values: Array, x: Array) -> Array:
    """`[]` or `[B]` -> a shape that multiplies `x [B, ...]`."""
    values = jnp.asarray(values)
    return values if values.ndim == 0 else values.reshape(values.shape + (1,) * (x.ndim - 1))


def _is_number(scale) -> bool:
    return isinstance(scale, int | float | np.floating | np.integer)


def check(scale: float | Array, interval: tuple[float, float] | None, limit: float | None) -> None:
    """Raises InputError for a scale, an interval of noise levels or a limit that is none."""
    if _is_number(scale) and not np.isfinite(scale):
        raise InputError(f"The guidance scale is {scale}; it must be finite.")
    if interval is not None and not 0 <= interval[0] < interval[1]:
        raise InputError(
            f"The guidance interval is {tuple(interval)}; it must be two noise levels, not "
            "negative, the lower one first."
        )
    if limit is not None and not limit > 0:
        raise InputError(f"The guidance limit is {limit}; it must be positive.")
