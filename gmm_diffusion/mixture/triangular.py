"""Inverses of many small triangular matrices."""

import jax
import jax.numpy as jnp

from gmm_diffusion.types import Array

_HIGHEST = jax.lax.Precision.HIGHEST


def triangular_inverse(lower: Array) -> Array:
    """Inverse of lower triangular `[..., D, D]`, by doubling the size of inverted diagonal blocks.

    Matrix products only. On a CPU a triangular solve is a LAPACK call for each matrix, whose
    threads wait for each other: on a busy machine it took a thousand times as long as these.
    """
    dim = lower.shape[-1]
    padded = 1 << (dim - 1).bit_length()
    eye = jnp.broadcast_to(jnp.eye(padded, dtype=lower.dtype), (*lower.shape[:-2], padded, padded))
    matrix = eye.at[..., :dim, :dim].set(lower)
    size, inverse = 1, (1 / jnp.diagonal(matrix, axis1=-2, axis2=-1))[..., None, None]
    while size < padded:
        # Blocks below the diagonal, of which each joins two inverted diagonal blocks.
        pairs = padded // (2 * size)
        tiles = matrix.reshape(*lower.shape[:-2], pairs, 2, size, pairs, 2, size)
        tiles = jnp.diagonal(tiles[..., :, 1, :, :, 0, :], axis1=-4, axis2=-2)
        below = jnp.moveaxis(tiles, -1, -3)
        first, second = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
        product = jnp.matmul(
            second, jnp.matmul(below, first, precision=_HIGHEST), precision=_HIGHEST
        )
        top = jnp.concatenate([first, jnp.zeros_like(first)], axis=-1)
        inverse = jnp.concatenate([top, jnp.concatenate([-product, second], axis=-1)], axis=-2)
        size *= 2
    return inverse[..., 0, :dim, :dim]
