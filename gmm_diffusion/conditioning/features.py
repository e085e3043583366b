"""From data to the feature space in which the mixture lives.

A feature is linear here: centre, project, scale to unit standard deviation. The statistics are
fitted on the training split only and stored with the checkpoint. It is made of the data themselves,
of what a classifier makes of them, or of features that come with them.
"""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from gmm_diffusion.types import Array, Rows

# A TPU rounds the factors of a product to bfloat16 unless it is told not to.
_HIGHEST = jax.lax.Precision.HIGHEST
# Values of examples that are read at once.
_BLOCK_VALUES = 1 << 20
# Values up to which principal components come from the data whole.
_WHOLE_VALUES = 1 << 24
# Passes over more than these, after which the last components of data like images have settled.
_PASSES = 10


@struct.dataclass
class FeatureTransform:
    """Fitted statistics of `features`.

    Attributes:
      mean: `[P]` of the flattened training data.
      directions: `[P, D]` orthonormal columns, or None for all of the data's own coordinates
        (D = P). Features that all examples share are none of them.
      scale: `[D]`, one over the standard deviation of each feature; 0 where no feature differs.
      source: what it is applied to: "data", centred; "own", features that come with them; or
        "classifier", the last hidden layer of one.
    """

    mean: Array
    scale: Array
    directions: Array | None = None
    source: str = struct.field(pytree_node=False, default="data")


def features(transform: FeatureTransform, x: Array) -> Array:
    """`x [B, ...] -> [B, D]` standardised features."""
    flat = x.reshape(x.shape[0], -1) - transform.mean[None]
    if transform.directions is not None:
        flat = jnp.matmul(flat, transform.directions, precision=_HIGHEST)
    return flat * transform.scale[None]


def to_data(transform: FeatureTransform, feature: np.ndarray) -> np.ndarray:
    """The data nearest to the mean that have these features: `[M, D] -> [M, P]`, on the host.

    The inverse of `features` on the space that the features span; coordinates that are constant
    have their one value.

    Raises:
      ValueError: features that are not made of the data themselves.
    """
    if transform.source != "data":
        raise ValueError(
            f"source is {transform.source!r}; only features of 'data' have an inverse."
        )
    scale = np.asarray(transform.scale, np.float64)
    flat = np.divide(feature, scale, out=np.zeros(np.shape(feature)), where=scale > 0)
    if transform.directions is not None:
        flat = flat @ np.asarray(transform.directions, np.float64).T
    return (flat + np.asarray(transform.mean, np.float64)).astype(np.float32)


def block_rows(x: Rows) -> int:
    """How many examples of `x [N, ...]` to read at once: memory holds no copy of all of them."""
    return max(1, _BLOCK_VALUES // int(np.prod(x.shape[1:])))


def in_blocks(x: Rows) -> Iterator[np.ndarray]:
    """`[n, P]` examples at a time of `x [N, ...]`."""
    rows = block_rows(x)
    for start in range(0, len(x), rows):
        block = x[np.arange(start, min(start + rows, len(x)))]
        yield block.reshape(len(block), -1)


def fit_raw(x: Rows, dim: int | None = None, source: str = "data") -> FeatureTransform:
    """The coordinates of `x [N, ...]` themselves that differ, standardised."""
    del dim
    mean = _mean(x)
    # A second pass: one-pass sums lose the small variances.
    squares = sum(((block - mean) ** 2).sum(axis=0) for block in in_blocks(x))
    std = np.sqrt(squares / len(x))
    return _differing(mean, std, source=source)


def fit_pca(x: Rows, dim: int) -> FeatureTransform:
    """The `dim` leading principal components of `x [N, ...]`, each scaled to unit variance.

    Up to 2^24 values are taken whole, by scikit-learn; of more, blocks are read again and again.

    Raises:
      ValueError: if there are fewer points or coordinates than `dim`.
    """
    num, coordinates = len(x), int(np.prod(x.shape[1:]))
    if not 1 <= dim <= min(num, coordinates):
        raise ValueError(
            f"The number of principal components is {dim}; with {num} examples of "
            f"{coordinates} coordinates it must be from 1 to {min(num, coordinates)}."
        )
    if num * coordinates <= _WHOLE_VALUES:
        # Imported late: it takes seconds, and a model that is fitted needs it no more.
        from sklearn.decomposition import PCA

        flat = np.asarray(x[np.arange(num)], np.float32).reshape(num, -1)
        pca = PCA(dim, random_state=0).fit(flat)
        mean, directions = pca.mean_, pca.components_.T
        std = ((flat - mean) @ directions).std(axis=0, dtype=np.float64)
    else:
        mean = _mean(x).astype(np.float32)
        directions, std = _leading(x, mean, dim)
    return _differing(mean, std, directions)


def _mean(x):
    """`[P]` float64."""
    return sum(np.asarray(block, np.float64).sum(axis=0) for block in in_blocks(x)) / len(x)


def _leading(x, mean, dim):
    """Leading directions `[P, dim]` and the standard deviations `[dim]` along them, float64.

    Subspace iteration on the covariance, with more than twice as many directions as are asked for
    (Halko, Martinsson and Tropp 2011, algorithm 4.4): a pass over the data each. Products are
    float32 within a block, their sums over blocks float64.
    """
    wide = min(2 * dim + 10, len(mean))
    basis = np.random.default_rng(0).normal(size=(len(mean), wide))
    for _ in range(_PASSES):
        basis = np.linalg.qr(basis)[0]
        narrow, product = basis.astype(np.float32), np.zeros_like(basis)
        for block in in_blocks(x):
            centred = block - mean
            product += centred.T @ (centred @ narrow)
        basis, last = product, basis
    # What the last pass says of the covariance within the subspace.
    values, vectors = np.linalg.eigh(last.T @ product)
    values, vectors = values[::-1][:dim], vectors[:, ::-1][:, :dim]
    directions = last @ vectors
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, np.arange(dim)])
    return directions, np.sqrt(np.maximum(values, 0.0) / len(x))


def _differing(mean, std, directions=None, source="data"):
    """The transform to those features whose standard deviation is not 0, if there are any.

    A user's columns may be of any units, so that each is compared with its own size. Directions,
    and what a network computes, are of one unit, and have rounding beside their largest.
    """
    computed = directions is not None or source == "classifier"
    least = 1e-6 * std.max() if computed else 1e-7 * np.abs(mean)
    differ = std > np.maximum(least, np.finfo(np.float32).tiny)
    scale = np.divide(1.0, std, out=np.zeros(len(std)), where=differ)
    if differ.any() and not differ.all():
        if directions is None:  # The coordinates themselves.
            directions = np.eye(len(std), dtype=np.float32)
        scale, directions = scale[differ], directions[:, differ]
    return FeatureTransform(
        _float32(mean),
        _float32(scale),
        None if directions is None else _float32(directions),
        source,
    )


def _float32(values):
    return jnp.asarray(np.asarray(values, np.float32))


FEATURES: dict[str, Callable[..., FeatureTransform]] = {
    "pca": fit_pca,
    "raw": fit_raw,
    "own": functools.partial(fit_raw, source="own"),
    "classifier": functools.partial(fit_raw, source="classifier"),
}
