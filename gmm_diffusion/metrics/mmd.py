"""Maximum mean discrepancy between two sets of points."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gmm_diffusion.errors import InputError

# Times the reference's median distance; from its shape as a whole down to thin parts of it.
MULTIPLES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
# The median of so many points' distances is known to a few per cent.
_MEDIAN_POINTS = 1024


def bandwidths(reference: np.ndarray, multiples: tuple[float, ...] = MULTIPLES) -> np.ndarray:
    """Multiples of the median distance between two points of `reference [M, D]`: `[S]`.

    Raises:
      InputError: another shape, fewer than 2 points, or points of which most are the same.
    """
    (reference,) = _checked(reference=reference)
    some = reference[:: -(-len(reference) // _MEDIAN_POINTS)].astype(np.float64)
    first, second = np.triu_indices(len(some), 1)
    median = np.median(np.linalg.norm(some[first] - some[second], axis=1))
    if not median > 0:
        raise InputError("The median distance between points of the reference is 0.")
    return median * np.asarray(multiples)


def squared(
    samples: np.ndarray, reference: np.ndarray, widths: np.ndarray, chunk: int = 256
) -> float:
    """The squared MMD, an unbiased estimate: about 0, and often below, for sets of one law.

    Gretton et al. 2012 (JMLR 13, lemma 6), with the mean over `widths` of the Gaussian kernels
    `exp(-|x - y|^2 / (2 b^2))`.

    Args:
      samples: `[N, D]`, N at least 2.
      reference: `[M, D]`, M at least 2.
      widths: `[S]` of the kernels, positive; see `bandwidths`.
      chunk: rows of a kernel matrix in memory at once.

    Raises:
      InputError: other shapes, fewer than 2 points, or values that are not finite or positive.
    """
    x, y = _checked(samples=samples, reference=reference)
    widths = np.asarray(widths, np.float32)
    if widths.ndim != 1 or not len(widths) or not np.all((widths > 0) & np.isfinite(widths)):
        raise InputError(f"widths is {widths}; it must be positive numbers, at least one.")
    # A point's kernel with itself is 1.
    own, theirs = ((_sum(z, z, widths, chunk) - len(z)) / (len(z) * (len(z) - 1)) for z in (x, y))
    return own + theirs - 2 * _sum(x, y, widths, chunk) / (len(x) * len(y))


def _sum(x, y, widths, chunk):
    """Sum of the kernel over all pairs, the rows of the matrix in float32."""
    return float(np.asarray(_row_sums(x, y, widths, chunk), np.float64).sum())


@functools.partial(jax.jit, static_argnums=3)
def _row_sums(x, y, widths, chunk):
    def row(point):
        # Not by squares and products, which lose what is near.
        distance = jnp.sum(jnp.square(point[:, None] - y.T), axis=0)
        kernels = jnp.exp(-distance[None, :] / (2.0 * jnp.square(widths[:, None])))
        return jnp.sum(jnp.mean(kernels, axis=0))

    return jax.lax.map(row, x, batch_size=min(chunk, len(x)))


def _checked(**sets):
    """The sets as float32."""
    found = {name: np.asarray(x, np.float32) for name, x in sets.items()}
    dim = next(iter(found.values())).shape[-1:]
    for name, x in found.items():
        if x.ndim != 2 or len(x) < 2 or 0 in x.shape or x.shape[1:] != dim:
            raise InputError(
                f"{name} has shape {x.shape}; valid is [N, D], N at least 2, D the same for both."
            )
        if not np.isfinite(x).all():
            raise InputError(f"{name} holds a value that is not finite; valid are finite numbers.")
    return found.values()
