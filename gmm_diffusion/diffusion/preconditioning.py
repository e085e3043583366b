"""EDM preconditioning: from a raw network to a denoiser (arXiv 2206.00364, section 5, table 1)."""

from collections.abc import Callable

import jax.numpy as jnp

from gmm_diffusion.types import Array, DenoiseFn, PyTree


def expand_like(sigma: Array, x: Array) -> Array:
    """`sigma [B]` or `[]` -> `[B, 1, ...]` with the rank of `x [B, ...]`."""
    sigma = jnp.broadcast_to(jnp.asarray(sigma, x.dtype), x.shape[:1])
    return sigma.reshape(x.shape[:1] + (1,) * (x.ndim - 1))


def c_noise(sigma: Array) -> Array:
    """What the network sees of the noise level, `ln(sigma) / 4`."""
    return jnp.log(sigma) / 4.0


def precondition(
    network_fn: Callable[[Array, Array, PyTree], Array], sigma_data: float
) -> DenoiseFn:
    """`D(x; sigma, c) = c_skip x + c_out F(c_in x, c_noise, c)`, with `sigma_data` the data's RMS.

    `network_fn(x, c_noise [B], cond)` returns the shape of `x`. A network that returns zero gives
    the best linear denoiser of white data.
    """

    def denoise_fn(x: Array, sigma: Array, cond: PyTree = None) -> Array:
        sigma = jnp.broadcast_to(jnp.asarray(sigma, jnp.float32), x.shape[:1])
        wide = expand_like(sigma, x)
        total = jnp.square(wide) + sigma_data**2
        c_skip = sigma_data**2 / total
        c_out = wide * sigma_data / jnp.sqrt(total)
        c_in = 1.0 / jnp.sqrt(total)
        return c_skip * x + c_out * network_fn(c_in * x, c_noise(sigma), cond)

    return denoise_fn


def loss_weight(sigma: Array, sigma_data: float) -> Array:
    """`lambda(sigma)`, which makes the loss of a zero network 1 at every noise level."""
    return (jnp.square(sigma) + sigma_data**2) / jnp.square(sigma * sigma_data)
