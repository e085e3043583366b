"""Preconditioning: from a raw network to a denoiser.

Karras et al. 2022 (arXiv 2206.00364), section 5 and table 1, and prediction of the noise, as Ho et
al. 2020 (arXiv 2006.11239) have it. A network sees data of unit size and has a target of unit size,
whatever the noise level; a kind is one function and one line in `PRECONDITIONINGS`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from gmm_diffusion.types import Array, DenoiseFn, PyTree


class Coefficients(NamedTuple):
    """Of the shape of the noise levels that they are for.

    Attributes:
      skip: `c_skip`, the share of the noisy data in the denoised.
      out: `c_out`, the size of the network's share.
      weight: `lambda`, `1 / c_out^2`, which makes an error of the network count the same at every
        level.
    """

    skip: Array
    out: Array
    weight: Array


def edm(sigma: Array, sigma_data: float) -> Coefficients:
    """A network of zeros is the best linear denoiser of white data (arXiv 2206.00364, table 1)."""
    total = jnp.square(sigma) + sigma_data**2
    return Coefficients(
        sigma_data**2 / total,
        sigma * sigma_data / jnp.sqrt(total),
        total / jnp.square(sigma * sigma_data),
    )


def noise(sigma: Array, sigma_data: float) -> Coefficients:
    """`D = x - sigma F`: the network is the predicted noise, and one of zeros sees none."""
    del sigma_data
    return Coefficients(jnp.ones_like(sigma), -sigma, 1.0 / jnp.square(sigma))


PRECONDITIONINGS: dict[str, Callable[[Array, float], Coefficients]] = {"edm": edm, "noise": noise}


def expand_like(sigma: Array, x: Array) -> Array:
    """`sigma [B]` or `[]` -> `[B, 1, ...]` with the rank of `x [B, ...]`."""
    sigma = jnp.broadcast_to(jnp.asarray(sigma, x.dtype), x.shape[:1])
    return sigma.reshape(x.shape[:1] + (1,) * (x.ndim - 1))


def c_noise(sigma: Array) -> Array:
    """What the network sees of the noise level, `ln(sigma) / 4`."""
    return jnp.log(sigma) / 4.0


def precondition(
    network_fn: Callable[[Array, Array, PyTree], Array], sigma_data: float, kind: str = "edm"
) -> DenoiseFn:
    """`D(x; sigma, c) = c_skip x + c_out F(c_in x, c_noise, c)`, with `sigma_data` the data's RMS.

    `network_fn(x, c_noise [B], cond)` returns the shape of `x`; `kind` is a key of
    `PRECONDITIONINGS`.
    """

    def denoise_fn(x: Array, sigma: Array, cond: PyTree = None) -> Array:
        sigma = jnp.broadcast_to(jnp.asarray(sigma, jnp.float32), x.shape[:1])
        wide = expand_like(sigma, x)
        made = PRECONDITIONINGS[kind](wide, sigma_data)
        c_in = 1.0 / jnp.sqrt(jnp.square(wide) + sigma_data**2)
        return made.skip * x + made.out * network_fn(c_in * x, c_noise(sigma), cond)

    return denoise_fn


def loss_weight(sigma: Array, sigma_data: float, kind: str = "edm") -> Array:
    """`lambda(sigma)`, which makes the loss of a zero network on white data 1 at every level."""
    return PRECONDITIONINGS[kind](jnp.asarray(sigma), sigma_data).weight
