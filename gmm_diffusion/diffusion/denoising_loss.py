"""The denoising loss, one value per example (arXiv 2206.00364, eq. 2 and table 1)."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from gmm_diffusion.diffusion.preconditioning import expand_like, loss_weight
from gmm_diffusion.types import Array, DenoiseFn, PyTree


def denoising_loss(
    denoise_fn: DenoiseFn,
    keys: Array,
    x: Array,
    sigma: Array,
    cond: PyTree = None,
    *,
    sigma_data: float,
    preconditioning: str = "edm",
) -> Array:
    """`lambda(sigma) |D(x + sigma eps) - x|^2`, averaged over the dimensions of an example.

    Args:
      denoise_fn: the denoiser.
      keys: `[B]` typed keys, one an example, of the noise.
      x: `[B, ...]` clean, centred data.
      sigma: `[B]` noise levels.
      cond: a pytree with leading B, or None.
      sigma_data: RMS of the data.
      preconditioning: whose weight the loss has, a key of `preconditioning.PRECONDITIONINGS`.

    Returns:
      `[B]` losses: 1 for a zero network on white data, and never below the data's own floor.
    """
    return loss_and_denoised(
        denoise_fn, keys, x, sigma, cond, sigma_data=sigma_data, preconditioning=preconditioning
    )[0]


def loss_and_denoised(
    denoise_fn: DenoiseFn,
    keys: Array,
    x: Array,
    sigma: Array,
    cond: PyTree = None,
    *,
    sigma_data: float,
    preconditioning: str = "edm",
    target_fn: Callable[[Array], Array] | None = None,
) -> tuple[Array, Array]:
    """`denoising_loss`, and the denoised data `[B, ...]` for terms that read them.

    With `target_fn`, `[B, ...]` noisy data -> `[B, ...]`, that takes the place of the clean data in
    the loss. The posterior mean has the same gradient in expectation, and less noise.
    """
    noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)
    noisy = x + expand_like(sigma, x) * noise
    denoised = denoise_fn(noisy, sigma, cond)
    target = x if target_fn is None else target_fn(noisy)
    error = jnp.mean(jnp.square(denoised - target), axis=tuple(range(1, x.ndim)))
    return loss_weight(sigma, sigma_data, preconditioning) * error, denoised


def uncertainty_weighted(loss: Array, log_variance: Array) -> Array:
    """`loss / exp(u) + u`, all `[B]` (Karras et al. 2023, arXiv 2312.02696, eq. 15)."""
    return loss * jnp.exp(-log_variance) + log_variance


def likelihood_weighted(loss: Array, sigma: Array, low: float, high: float, weight: Array) -> Array:
    """`ln(high / low) |x - D|^2 / sigma^2` a dimension, of a loss of `lambda(sigma)`, all `[B]`.

    With `ln sigma` uniform between the ends its mean is the integral over noise levels that, but
    for what no denoiser changes, is the negative log-likelihood a dimension, in nats (Kong et al.
    2023, arXiv 2302.03792, equation 9; Wu et al. 2024, arXiv 2407.08946, section 3): with
    `alpha = -2 ln sigma`, `1/2 dalpha` is `dln sigma`.
    """
    return math.log(high / low) * loss / (weight * jnp.square(sigma))
