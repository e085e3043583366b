"""Points in blocks, so that temporaries stay in a core's cache and memory stays bounded."""

import jax
import numpy as np

from gmm_diffusion.types import AnyArray, Array

# Elements of the largest temporary of a block, for `statistics` and for `expanded_statistics`: a
# core's cache and a few times that, or enough to fill an accelerator.
BLOCK_ELEMENTS = {"cpu": (2**19, 2**21), "other": (2**26, 2**26)}


def split(
    x: AnyArray, point_weights: AnyArray | None, num_components: int
) -> tuple[np.ndarray, np.ndarray]:
    """Points `[B, N, D]` and their weights `[B, N]`, with padding of weight 0."""
    num_points, dim = x.shape
    direct, merged = block_sizes(num_components, dim)
    # A multiple of several small blocks, so that they merge into large ones without a remainder.
    blocks_in_one = merged // direct if num_points > merged else 1
    size = min(direct, num_points)
    num_blocks = -(-num_points // (size * blocks_in_one)) * blocks_in_one
    size = -(-num_points // num_blocks)
    padding = num_blocks * size - num_points
    weights = np.ones(num_points) if point_weights is None else point_weights
    weights = np.pad(weights, (0, padding)).astype(x.dtype)
    points = np.pad(x, ((0, padding), (0, 0)))
    return points.reshape(num_blocks, size, dim), weights.reshape(num_blocks, size)


def block_sizes(num_components: int, dim: int) -> tuple[int, int]:
    """Points in a block of `statistics`, and of `expanded_statistics` (a multiple of it)."""
    elements = BLOCK_ELEMENTS.get(jax.default_backend(), BLOCK_ELEMENTS["other"])
    direct = max(1, elements[0] // (num_components * dim))
    merged = max(1, elements[1] // (num_components + 2 * dim))
    return direct, direct * max(1, merged // direct)


def merge(points: Array, point_weights: Array, num_components: int) -> tuple[Array, Array]:
    """The same points in fewer, larger blocks."""
    num_blocks, size, dim = points.shape
    direct, merged = block_sizes(num_components, dim)
    most = max(1, merged // direct)
    factor = next(f for f in range(min(most, num_blocks), 0, -1) if num_blocks % f == 0)
    shape = (num_blocks // factor, factor * size)
    return points.reshape(*shape, dim), point_weights.reshape(shape)
