"""Squared distances from every component to many points, in the coordinates that whiten each.

Two ways. *Direct*: `y = root^-1 (x - mu)`, then its square; exact wherever the data are.
*Expanded*: `x'Px - 2 x'P mu + mu'P mu` as one matrix product, several times faster for diagonal
covariances, with an absolute error of about `eps * (mu'P mu + |y|^2)`. So points and means are
centred, the error is bounded beforehand from `mu'P mu`, and where the bound is too large the direct
way is taken: for all, or for the few components that are far, such as one of a single point.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import struct

from gmm_diffusion.types import Array

_HIGHEST = jax.lax.Precision.HIGHEST
# In float32 these bound the error of a squared distance by about 2e-3.
_LARGEST_EXPANDED = 2.0**14
_LARGEST_LINEAR = 2.0**20
# One in so many components, rounded up, may be far from the origin before all go the direct way.
_FAR_SHARE = 32

T = TypeVar("T")


@struct.dataclass
class Whitened:
    """A mixture ready for evaluation at many points.

    Attributes:
      log_norm: `[K]`, the logarithm of each weighted component's density at its mean.
      means: `[K, D]`.
      inverse: inverse root of the covariance: full `[K, D, D]`, tied `[D, D]`, diag `[K, D]`,
        spherical `[K]`.
      kind: as in `GaussianMixture` (static).
    """

    log_norm: Array
    means: Array
    inverse: Array
    kind: str = struct.field(pytree_node=False)


def whitened(
    log_weights: Array, log_det_root: Array, means: Array, inverse: Array, kind: str
) -> Whitened:
    """`Whitened` from log weights `[K]`, log determinants of the roots `[K]` and the rest."""
    log_norm = log_weights - log_det_root - 0.5 * means.shape[1] * math.log(2 * math.pi)
    return Whitened(log_norm, means, inverse, kind)


def white_means(w: Whitened) -> Array:
    """`root_k^-1 mu_k`, `[K, D]`."""
    if w.kind == "full":
        return jnp.einsum("ked,kd->ke", w.inverse, w.means, precision=_HIGHEST)
    if w.kind == "tied":
        return jnp.matmul(w.means, w.inverse.T, precision=_HIGHEST)
    return w.means * (w.inverse if w.kind == "diag" else w.inverse[:, None])


def is_accurate(w: Whitened) -> Array:
    """`[]` bool: whether float32 means and points about the origin leave enough digits.

    For `full` this is about `white_coordinates`, whose error is linear in `|root^-1 mu|`; for the
    other kinds about `expanded_log_joint`, whose error is quadratic.
    """
    largest = jnp.max(jnp.sum(white_means(w) ** 2, axis=-1))
    return largest <= (_LARGEST_LINEAR if w.kind == "full" else _LARGEST_EXPANDED)


def by_accuracy(w: Whitened, expanded: Callable[[Array | None], T], direct: Callable[[], T]) -> T:
    """The faster of two ways that is accurate.

    Args:
      w: the mixture.
      expanded: of None, or of the few components `[M]` that it has to treat by differences, which
        are never asked of `full` and `tied`.
      direct: all by differences, in the same shapes.
    """
    num_components = w.means.shape[0]
    few = -(-num_components // _FAR_SHARE)
    # All components of a tied mixture are as narrow, `full` has no expanded form here, and of two
    # components one is not few.
    if w.kind in ("full", "tied") or num_components < 8:
        return jax.lax.cond(is_accurate(w), lambda: expanded(None), direct)
    squares = jax.lax.stop_gradient(jnp.sum(white_means(w) ** 2, axis=-1))
    num_far = jnp.sum(squares > _LARGEST_EXPANDED)
    apart = jax.lax.top_k(squares, few)[1]
    way = jnp.where(num_far == 0, 0, jnp.where(num_far <= few, 1, 2))
    return jax.lax.switch(way, [lambda: expanded(None), lambda: expanded(apart), direct])


def select(w: Whitened, index: Array) -> Whitened:
    """The components `index [M]` of a diag or spherical mixture."""
    return Whitened(w.log_norm[index], w.means[index], w.inverse[index], w.kind)


def white_coordinates(w: Whitened, x: Array) -> Array:
    """`root_k^-1 (x - mu_k)` for `x [N, D]`, `[K, D, N]`: points last, where products are fast."""
    num_components, dim = w.means.shape
    if w.kind == "full":
        rows = w.inverse.reshape(num_components * dim, dim)
        y = jnp.matmul(rows, x.T, precision=_HIGHEST).reshape(num_components, dim, -1)
        return y - white_means(w)[:, :, None]
    if w.kind == "tied":
        y = jnp.matmul(w.inverse, x.T, precision=_HIGHEST)
        return y[None, :, :] - white_means(w)[:, :, None]
    scale = w.inverse[:, :, None] if w.kind == "diag" else w.inverse[:, None, None]
    return (x.T[None, :, :] - w.means[:, :, None]) * scale


def direct_log_joint(w: Whitened, y: Array) -> Array:
    """`log w_k N(x; mu_k, Sigma_k)` from white coordinates `[K, D, N]`, `[K, N]`."""
    return w.log_norm[:, None] - 0.5 * jnp.sum(y**2, axis=1)


def expanded_features(w: Whitened, x: Array) -> Array:
    """`(1, x, x^2)` `[N, 1 + 2D]` for diag, otherwise `(1, x, |x|^2)` `[N, 2 + D]`.

    For tied, x is whitened first.

    Raises:
      ValueError: for `full`, which has no expanded form here.
    """
    if w.kind == "full":
        raise ValueError("kind is 'full'; valid are 'tied', 'diag' and 'spherical'.")
    if w.kind == "tied":
        x = jnp.matmul(x, w.inverse.T, precision=_HIGHEST)
    square = x**2 if w.kind == "diag" else jnp.sum(x**2, axis=1, keepdims=True)
    return jnp.concatenate([jnp.ones_like(x[:, :1]), x, square], axis=1)


def expanded_coefficients(w: Whitened) -> Array:
    """`[K, F]`, whose product with the features is `log w_k N(x; mu_k, Sigma_k)`."""
    white = white_means(w)
    constant = w.log_norm - 0.5 * jnp.sum(white**2, axis=1)
    if w.kind == "diag":
        linear, quadratic = white * w.inverse, -0.5 * w.inverse**2
    elif w.kind == "spherical":
        linear, quadratic = white * w.inverse[:, None], -0.5 * w.inverse[:, None] ** 2
    else:
        linear, quadratic = white, jnp.full_like(white[:, :1], -0.5)
    return jnp.concatenate([constant[:, None], linear, quadratic], axis=1)


def log_joint(w: Whitened, x: Array, apart: Array | None = None) -> Array:
    """`log w_k N(x; mu_k, Sigma_k)`, `[N, K]`, the faster way; only where `is_accurate(w)`.

    `apart [M]`, not of `full`, are components that are taken by differences.
    """
    if w.kind == "full":
        return direct_log_joint(w, white_coordinates(w, x)).T
    joint = expanded_log_joint(w, expanded_features(w, x))
    if apart is None:
        return joint
    few = select(w, apart)
    return put(joint, apart, direct_log_joint(few, white_coordinates(few, x)))


def put(joint: Array, apart: Array, values: Array) -> Array:
    """`joint [N, K]` with `values [M, N]` for the components `apart [M]`."""
    # A pass over all: a CPU scatters one element at a time.
    same = apart[:, None] == jnp.arange(joint.shape[1])[None, :]
    taken = values.T[:, jnp.argmax(same, axis=0)]
    return jnp.where(jnp.any(same, axis=0)[None, :], taken, joint)


def expanded_log_joint(w: Whitened, features: Array) -> Array:
    """`[N, K]` from `[N, F]`."""
    return jnp.matmul(features, expanded_coefficients(w).T, precision=_HIGHEST)


def posterior(joint: Array, axis: int) -> tuple[Array, Array]:
    """Responsibilities and log-density, with one exponential each; `axis` is that of components."""
    largest = jax.lax.stop_gradient(jnp.max(joint, axis=axis, keepdims=True))
    unnormalised = jnp.exp(joint - largest)
    total = jnp.sum(unnormalised, axis=axis, keepdims=True)
    log_prob = jnp.squeeze(largest + jnp.log(total), axis=axis)
    return unnormalised * (1 / total), log_prob
