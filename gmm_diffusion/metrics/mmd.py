"""Maximum mean discrepancy between two sets of points."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gmm_diffusion import mixture
from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture import GaussianMixture
from gmm_diffusion.mixture.gaussian_mixture import full_covariances

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
    widths = _checked_widths(widths)
    # A point's kernel with itself is 1.
    own, theirs = ((_sum(z, z, widths, chunk) - len(z)) / (len(z) * (len(z) - 1)) for z in (x, y))
    return own + theirs - 2 * _sum(x, y, widths, chunk) / (len(x) * len(y))


def squared_to(
    mix: GaussianMixture, widths: np.ndarray, chunk: int = 256
) -> Callable[[np.ndarray], float]:
    """`samples [N, D] ->` the squared MMD to a mixture itself, unbiased as `squared` is.

    The kernel's mean under a mixture is a Gaussian density of the mixture with the kernel's width
    added, so that a reference adds no chance. Made once for many sets of samples.

    Args:
      mix: the reference.
      widths: as in `squared`.
      chunk: as in `squared`.

    Raises:
      InputError: as `squared`, when made or when called.
    """
    widths = _checked_widths(widths)
    # Of a kernel of width b as a density.
    peaks = (2.0 * np.pi * widths.astype(np.float64) ** 2) ** (mix.dim / 2)
    theirs = np.mean([p * _own(mix, float(b)) for p, b in zip(peaks, widths, strict=True)])

    def distance(samples):
        (x,) = _checked(samples=samples)
        if x.shape[1] != mix.dim:
            raise InputError(f"samples has shape {x.shape}; the mixture has {mix.dim} dimensions.")
        own = (_sum(x, x, widths, chunk) - len(x)) / (len(x) * (len(x) - 1))
        across = [
            p * np.mean(np.exp(np.asarray(mixture.log_prob(mix, x, b), np.float64)))
            for p, b in zip(peaks, widths, strict=True)
        ]
        return float(own + theirs - 2.0 * np.mean(across))

    return distance


def _own(mix, width):
    """The density at 0 of the difference of two independent points, blurred by `width`."""
    weights, means, covariances = (
        np.asarray(a, np.float64) for a in (mix.weights, mix.means, full_covariances(mix))
    )
    total, eye = 0.0, width**2 * np.eye(mix.dim)
    # A row of pairs at a time: all of them would not fit for thousands of components.
    for weight, mean, covariance in zip(weights, means, covariances, strict=True):
        spread = covariances + covariance + eye
        shift = means - mean
        squares = np.einsum("kd,kd->k", shift, np.linalg.solve(spread, shift[..., None])[..., 0])
        log_norm = 0.5 * np.linalg.slogdet(2.0 * np.pi * spread)[1]
        total += weight * (weights @ np.exp(-0.5 * squares - log_norm))
    return total


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


def _checked_widths(widths):
    widths = np.asarray(widths, np.float32)
    if widths.ndim != 1 or not len(widths) or not np.all((widths > 0) & np.isfinite(widths)):
        raise InputError(f"widths is {widths}; it must be positive numbers, at least one.")
    return widths


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
