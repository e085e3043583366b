"""The denoising loss, one value per example (arXiv 2206.00364, eq. 2 and table 1)."""

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
) -> Array:
    """`lambda(sigma) |D(x + sigma eps) - x|^2`, averaged over the dimensions of an example.

    Args:
      denoise_fn: the denoiser.
      keys: `[B]` typed keys, one an example, of the noise.
      x: `[B, ...]` clean, centred data.
      sigma: `[B]` noise levels.
      cond: a pytree with leading B, or None.
      sigma_data: RMS of the data.

    Returns:
      `[B]` losses: 1 for a zero network on white data, and never below the data's own floor.
    """
    return loss_and_denoised(denoise_fn, keys, x, sigma, cond, sigma_data=sigma_data)[0]


def loss_and_denoised(
    denoise_fn: DenoiseFn,
    keys: Array,
    x: Array,
    sigma: Array,
    cond: PyTree = None,
    *,
    sigma_data: float,
) -> tuple[Array, Array]:
    """`denoising_loss`, and the denoised data `[B, ...]` for terms that read them."""
    noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)
    denoised = denoise_fn(x + expand_like(sigma, x) * noise, sigma, cond)
    error = jnp.mean(jnp.square(denoised - x), axis=tuple(range(1, x.ndim)))
    return loss_weight(sigma, sigma_data) * error, denoised


def uncertainty_weighted(loss: Array, log_variance: Array) -> Array:
    """`loss / exp(u) + u`, all `[B]` (Karras et al. 2023, arXiv 2312.02696, eq. 15)."""
    return loss * jnp.exp(-log_variance) + log_variance
