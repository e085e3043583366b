"""One EM iteration as two pure functions: data -> sufficient statistics -> parameters.

Statistics are taken in the coordinates `y = root_k^-1 (x - mu_k)` that whiten each component at
the *old* parameters, and a new root is the old root times a root of the whitened second moment.
No covariance is formed, so nothing cancels when means are far apart in units of the standard
deviation, and a condition number costs its square root. Statistics of batches and of devices add.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from gmm_diffusion.mixture.triangular import triangular_inverse
from gmm_diffusion.mixture.whitened import (
    Whitened,
    direct_log_joint,
    expanded_features,
    expanded_log_joint,
    posterior,
    put,
    select,
    white_coordinates,
    white_means,
    whitened,
)
from gmm_diffusion.types import Array, Numbers

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


def whiten(params: Parameters) -> Whitened:
    """What `statistics` needs, computed once for all blocks."""
    num_components, dim = params.means.shape
    if params.kind in ("full", "tied"):
        inverse = triangular_inverse(params.root)
        diagonal = jnp.diagonal(params.root, axis1=-2, axis2=-1)
        log_det = jnp.sum(jnp.log(jnp.abs(diagonal)), axis=-1)
    else:
        inverse = 1 / params.root
        logs = jnp.log(params.root)
        log_det = jnp.sum(logs, axis=-1) if params.kind == "diag" else dim * logs
    log_det = jnp.broadcast_to(log_det, (num_components,))
    return whitened(params.log_weights, log_det, params.means, inverse, params.kind)


def statistics(w: Whitened, x: Array, point_weights: Array) -> Statistics:
    """The E step on one block, from differences.

    Args:
      w: the current mixture.
      x: `[N, D]`.
      point_weights: `[N]`, not negative.
    """
    y = white_coordinates(w, x)
    r, log_prob = posterior(direct_log_joint(w, y), axis=0)
    r = r * point_weights[None, :]
    weighted = r[:, None, :] * y
    if w.kind in ("full", "tied"):
        second = jnp.einsum("kdn,ken->kde", weighted, y, precision=_HIGHEST)
        second = second if w.kind == "full" else jnp.sum(second, axis=0)
    else:
        second = jnp.sum(weighted * y, axis=(2,) if w.kind == "diag" else (1, 2))
    return Statistics(
        total=jnp.sum(point_weights),
        log_likelihood=jnp.sum(point_weights * log_prob),
        count=jnp.sum(r, axis=1),
        first=jnp.sum(weighted, axis=2),
        second=second,
    )


def expanded_statistics(
    w: Whitened, x: Array, point_weights: Array, apart: Array | None = None
) -> Statistics:
    """`statistics` by matrix products; not for "full", and only where `is_accurate(w)`.

    Of the components `apart [M]` they are taken by differences; not for "tied".
    """
    features = expanded_features(w, x)
    joint = expanded_log_joint(w, features)
    if apart is not None:
        few = select(w, apart)
        y_apart = white_coordinates(few, x)
        joint = put(joint, apart, direct_log_joint(few, y_apart))
    r, log_prob = posterior(joint, axis=1)
    r = r * point_weights[:, None]
    # This order of factors is the fast one on a CPU, since the features are the narrower.
    sums = jnp.matmul(features.T, r, precision=_HIGHEST).T
    dim = w.means.shape[1]
    count, first, square = sums[:, 0], sums[:, 1 : 1 + dim], sums[:, 1 + dim :]
    white = white_means(w)
    if w.kind == "diag":
        first, square = first * w.inverse, square * w.inverse**2
        second = square - 2 * white * first + count[:, None] * white**2
    elif w.kind == "spherical":
        first, square = first * w.inverse[:, None], square[:, 0] * w.inverse**2
        second = square - jnp.sum(2 * white * first - count[:, None] * white**2, axis=1)
    else:
        y = features[:, 1 : 1 + dim]
        second = jnp.matmul((y * point_weights[:, None]).T, y, precision=_HIGHEST)
        cross = jnp.matmul((first - 0.5 * count[:, None] * white).T, white, precision=_HIGHEST)
        second = second - cross - cross.T
    first = first - count[:, None] * white
    if apart is not None:
        both = jnp.concatenate([y_apart, y_apart**2], axis=1)
        moments = jnp.einsum("nm,mdn->md", r[:, apart], both, precision=_HIGHEST)
        first = first.at[apart].set(moments[:, :dim])
        square = moments[:, dim:]
        second = second.at[apart].set(square if w.kind == "diag" else jnp.sum(square, axis=1))
    return Statistics(
        total=jnp.sum(point_weights),
        log_likelihood=jnp.sum(point_weights * log_prob),
        count=count,
        first=first,
        second=second,
    )


def zero_statistics(params: Parameters) -> Statistics:
    """The statistics of no points."""
    zero = jnp.zeros((), params.means.dtype)
    second = jnp.zeros_like(params.root)
    return Statistics(
        zero, zero, jnp.zeros_like(params.log_weights), jnp.zeros_like(params.means), second
    )


def update(
    params: Parameters, stats: Statistics, floor: Numbers, key: Array
) -> tuple[Parameters, Array]:
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
        ratio = _difference(stats.second / count[:, None], shift**2)
        root = jnp.sqrt(params.root**2 * ratio + floor)
        means = params.means + params.root * shift
    else:
        ratio = _difference(stats.second / count, jnp.sum(shift**2, axis=-1)) / dim
        root = jnp.sqrt(params.root**2 * ratio + floor)
        means = params.means + params.root[:, None] * shift
    return _reseed(dataclasses.replace(params, means=means, root=root), stats, key)


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
    params = dataclasses.replace(params, log_weights=log_weights, means=means, root=root)
    return params, num_empty.astype(jnp.int32)


def _difference(second: Array, square: Array) -> Array:
    """A variance as a difference of moments, at least what rounding leaves of it."""
    return jnp.maximum(second - square, 4 * jnp.finfo(second.dtype).eps * jnp.abs(square))


def _new_root(root: Array, second: Array, uncentred: Array, floor: Numbers) -> Array:
    """Root of `root second root' + floor I`, lower triangular, `[..., D, D]`."""
    inverse = triangular_inverse(root)
    floor_term = floor * jnp.matmul(inverse, jnp.swapaxes(inverse, -1, -2), precision=_HIGHEST)
    # Rounding in the moments is relative to them before centring; without this the factorisation
    # of a singular one fails.
    rounding = 4 * jnp.finfo(root.dtype).eps * jnp.trace(uncentred, axis1=-2, axis2=-1)
    identity = jnp.broadcast_to(jnp.eye(root.shape[-1], dtype=root.dtype), root.shape)
    moment = second + floor_term + rounding[..., None, None] * identity
    return jnp.matmul(root, jnp.linalg.cholesky(moment), precision=_HIGHEST)
