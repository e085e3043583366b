"""One EM iteration as two pure functions: data -> sufficient statistics -> parameters.

Statistics are taken in the coordinates `y = root_k^-1 (x - mu_k)` that whiten each component at
the *old* parameters, and a new root is the old root times a root of the whitened second moment.
No covariance is formed, so nothing cancels when means are far apart in units of the standard
deviation, and a condition number costs its square root. Statistics of batches and of devices add.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct

from gmm_diffusion.types import Array

_HIGHEST = jax.lax.Precision.HIGHEST
# Fewer points than this leave a component empty.
_EMPTY = 1e-2


@struct.dataclass
class Parameters:
    """A mixture during the fit.

    Attributes:
      log_weights: `[K]`.
      means: `[K, D]`.
      root: full `[K, D, D]` and tied `[D, D]` lower triangular roots of the covariance, diag
        `[K, D]` and spherical `[K]` standard deviations.
      kind: as in `GaussianMixture` (static).
    """

    log_weights: Array
    means: Array
    root: Array
    kind: str = struct.field(pytree_node=False)


@struct.dataclass
class Statistics:
    """Sums over points; `r` are responsibilities, `a` weights of points.

    Attributes:
      total: `[]`, sum of `a`.
      log_likelihood: `[]`, sum of `a log p(x)`.
      count: `[K]`, sum of `a r`.
      first: `[K, D]`, sum of `a r y`.
      second: sum of `a r y y'`: full `[K, D, D]`, tied `[D, D]` (over components too), diag
        `[K, D]` (diagonal), spherical `[K]` (trace).
    """

    total: Array
    log_likelihood: Array
    count: Array
    first: Array
    second: Array


def statistics(params: Parameters, x: Array, point_weights: Array) -> Statistics:
    """The E step on one block.

    Args:
      params: the current mixture.
      x: `[N, D]`.
      point_weights: `[N]`, not negative.
    """
    num_points, dim = x.shape
    num_components = params.means.shape[0]
    y = _whiten(params, x)
    squared = jnp.sum(y**2, axis=-1)
    log_joint = (params.log_weights - 0.5 * dim * math.log(2 * math.pi) - _log_det_root(params))[
        None, :
    ] - 0.5 * squared
    log_prob = jax.nn.logsumexp(log_joint, axis=-1)
    r = jnp.exp(log_joint - log_prob[:, None]) * point_weights[:, None]
    weighted = r[:, :, None] * y
    if params.kind == "full":
        second = jnp.einsum("nkd,nke->kde", weighted, y, precision=_HIGHEST)
    elif params.kind == "tied":
        rows = num_points * num_components
        second = jnp.matmul(weighted.reshape(rows, dim).T, y.reshape(rows, dim), precision=_HIGHEST)
    elif params.kind == "diag":
        second = jnp.sum(weighted * y, axis=0)
    else:
        second = jnp.sum(r * squared, axis=0)
    return Statistics(
        total=jnp.sum(point_weights),
        log_likelihood=jnp.sum(point_weights * log_prob),
        count=jnp.sum(r, axis=0),
        first=jnp.sum(weighted, axis=0),
        second=second,
    )


def zero_statistics(params: Parameters) -> Statistics:
    """The statistics of no points."""
    zero = jnp.zeros((), params.means.dtype)
    second = jnp.zeros_like(params.root)
    return Statistics(
        zero, zero, jnp.zeros_like(params.log_weights), jnp.zeros_like(params.means), second
    )


def update(params: Parameters, stats: Statistics, floor: Array, key: Array) -> tuple:
    """The M step, with empty components re-seeded.

    Args:
      params: the parameters at which `stats` were taken.
      stats: sums over all points.
      floor: `[]`, added to every covariance's diagonal.
      key: for the means of re-seeded components.

    Returns:
      The new `Parameters`, and `[]` int32, how many components were re-seeded.
    """
    dim = params.means.shape[1]
    count = jnp.maximum(stats.count, jnp.finfo(stats.count.dtype).tiny)
    shift = stats.first / count[:, None]
    if params.kind == "full":
        second = stats.second / count[:, None, None] - shift[:, :, None] * shift[:, None, :]
        root = _new_root(params.root, second, stats.second / count[:, None, None], floor)
        means = params.means + jnp.einsum("kde,ke->kd", params.root, shift, precision=_HIGHEST)
    elif params.kind == "tied":
        between = jnp.matmul(stats.first.T, shift, precision=_HIGHEST)
        scale = 1 / stats.total
        root = _new_root(params.root, (stats.second - between) * scale, stats.second * scale, floor)
        means = params.means + jnp.matmul(shift, params.root.T, precision=_HIGHEST)
    elif params.kind == "diag":
        ratio = jnp.maximum(stats.second / count[:, None] - shift**2, 0.0)
        root = jnp.sqrt(params.root**2 * ratio + floor)
        means = params.means + params.root * shift
    else:
        ratio = jnp.maximum(stats.second / count - jnp.sum(shift**2, axis=-1), 0.0) / dim
        root = jnp.sqrt(params.root**2 * ratio + floor)
        means = params.means + params.root[:, None] * shift
    return _reseed(params.replace(means=means, root=root), stats, key)


def _reseed(params: Parameters, stats: Statistics, key: Array) -> tuple[Parameters, Array]:
    """Splits the heaviest component for every empty one.

    A split needs no point of the data, so that it is the same for a stream and for any number of
    devices.
    """
    empty = stats.count < _EMPTY
    num_empty = jnp.sum(empty)
    heaviest = jnp.argmax(stats.count)
    share = stats.count[heaviest] / (1 + num_empty)
    gets_share = empty | (jnp.arange(empty.shape[0]) == heaviest)
    count = jnp.where(gets_share, share, stats.count)
    noise = jax.random.normal(key, params.means.shape, params.means.dtype)
    if params.kind == "full":
        noise = jnp.matmul(noise, params.root[heaviest].T, precision=_HIGHEST)
    elif params.kind == "tied":
        noise = jnp.matmul(noise, params.root.T, precision=_HIGHEST)
    elif params.kind == "diag":
        noise = noise * params.root[heaviest][None, :]
    else:
        noise = noise * params.root[heaviest]
    means = jnp.where(empty[:, None], params.means[heaviest][None, :] + noise, params.means)
    root = params.root
    if params.kind != "tied":
        mask = empty.reshape((-1,) + (1,) * (root.ndim - 1))
        root = jnp.where(mask, root[heaviest][None], root)
    log_weights = jnp.log(count) - jnp.log(jnp.sum(count))
    params = params.replace(log_weights=log_weights, means=means, root=root)
    return params, num_empty.astype(jnp.int32)


def _new_root(root: Array, second: Array, uncentred: Array, floor: Array) -> Array:
    """Root of `root second root' + floor I`, lower triangular, `[..., D, D]`."""
    inverse = _inverse(root)
    floor_term = floor * jnp.matmul(inverse, jnp.swapaxes(inverse, -1, -2), precision=_HIGHEST)
    # Rounding in the moments is relative to them before centring; without this the factorisation
    # of a singular one fails.
    rounding = 4 * jnp.finfo(root.dtype).eps * jnp.trace(uncentred, axis1=-2, axis2=-1)
    identity = jnp.broadcast_to(jnp.eye(root.shape[-1], dtype=root.dtype), root.shape)
    moment = second + floor_term + rounding[..., None, None] * identity
    return jnp.matmul(root, jnp.linalg.cholesky(moment), precision=_HIGHEST)


def _inverse(root: Array) -> Array:
    identity = jnp.broadcast_to(jnp.eye(root.shape[-1], dtype=root.dtype), root.shape)
    return jax.scipy.linalg.solve_triangular(root, identity, lower=True)


def _whiten(params: Parameters, x: Array) -> Array:
    """`root_k^-1 (x - mu_k)`, `[N, K, D]`."""
    if params.kind == "diag":
        return (x[:, None, :] - params.means[None, :, :]) / params.root[None, :, :]
    if params.kind == "spherical":
        return (x[:, None, :] - params.means[None, :, :]) / params.root[None, :, None]
    inverse = _inverse(params.root)
    if params.kind == "tied":
        white = jnp.matmul(x, inverse.T, precision=_HIGHEST)
        centers = jnp.matmul(params.means, inverse.T, precision=_HIGHEST)
        return white[:, None, :] - centers[None, :, :]
    white = jnp.einsum("nd,ked->nke", x, inverse, precision=_HIGHEST)
    centers = jnp.einsum("kd,ked->ke", params.means, inverse, precision=_HIGHEST)
    return white - centers[None, :, :]


def _log_det_root(params: Parameters) -> Array:
    """`log det root_k`, `[K]`."""
    num_components, dim = params.means.shape
    if params.kind == "diag":
        return jnp.sum(jnp.log(params.root), axis=-1)
    if params.kind == "spherical":
        return dim * jnp.log(params.root)
    diagonal = jnp.diagonal(params.root, axis1=-2, axis2=-1)
    log_det = jnp.sum(jnp.log(jnp.abs(diagonal)), axis=-1)
    return jnp.broadcast_to(log_det, (num_components,))
