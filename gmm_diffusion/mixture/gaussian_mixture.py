"""The Gaussian mixture as a pytree, and its construction from weights, means and covariances.

A covariance is kept as a spectrum: eigenvalues `variances`, and for `full` and `tied` the
eigenvectors `basis`. Adding noise of standard deviation sigma adds sigma^2 to every eigenvalue and
leaves the eigenvectors alone, so that a noise level per point costs no factorisation.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from gmm_diffusion.errors import InputError
from gmm_diffusion.types import Array

KINDS = ("full", "tied", "diag", "spherical")
_HIGHEST = jax.lax.Precision.HIGHEST


def covariance_shape(kind: str, num_components: int, dim: int) -> tuple[int, ...]:
    """Shape of scikit-learn's `covariances_`.

    Returns:
      `[K, D, D]` for "full", `[D, D]` for "tied", `[K, D]` for "diag", `[K]` for "spherical".

    Raises:
      InputError: `kind` is none of these.
    """
    shapes = {
        "full": (num_components, dim, dim),
        "tied": (dim, dim),
        "diag": (num_components, dim),
        "spherical": (num_components,),
    }
    if kind not in shapes:
        raise InputError(f"kind is {kind!r}; valid are {', '.join(map(repr, KINDS))}.")
    return shapes[kind]


@struct.dataclass
class GaussianMixture:
    """`sum_k weights_k N(means_k, covariances_k)`; make one with `create`.

    Gradients with respect to `variances`, `means` and `log_weights` are exact; those through
    `create` from a traced full or tied covariance are undefined where eigenvalues coincide.

    Attributes:
      log_weights: `[K]`, natural logarithms of weights that sum to 1; -inf for a weight of 0.
      means: `[K, D]`, in the units of the data.
      variances: eigenvalues of the covariances, positive: full `[K, D]`, tied `[D]`, diag
        `[K, D]`, spherical `[K]`.
      basis: eigenvectors in columns: full `[K, D, D]`, tied `[D, D]`, otherwise None.
      kind: "full", "tied", "diag" or "spherical" (static).
    """

    log_weights: Array
    means: Array
    variances: Array
    basis: Array | None
    kind: str = struct.field(pytree_node=False)

    @classmethod
    def create(cls, weights: Any, means: Any, covariances: Any, kind: str) -> "GaussianMixture":
        """A mixture from scikit-learn's arrays.

        Values are checked where they are concrete; inside a traced function only shapes are.

        Args:
          weights: `[K]`, not negative, with sum 1 (to 1e-4; then normalised).
          means: `[K, D]`.
          covariances: full `[K, D, D]`, tied `[D, D]`, diag `[K, D]`, spherical `[K]`: variances,
            not standard deviations.
          kind: one of `KINDS`.

        Raises:
          InputError: an unknown kind, a wrong shape, a value that is not finite, negative weights
            or weights that do not sum to 1, a covariance that is not symmetric positive definite.
        """
        shapes = [np.shape(a) for a in (weights, means, covariances)]
        if len(shapes[1]) != 2 or 0 in shapes[1]:
            raise InputError(f"means has shape {shapes[1]}; valid is [K, D] with K, D >= 1.")
        num_components, dim = shapes[1]
        if shapes[0] != (num_components,):
            raise InputError(
                f"weights has shape {shapes[0]}; valid for means of shape {shapes[1]} is "
                f"({num_components},)."
            )
        expected = covariance_shape(kind, num_components, dim)
        if shapes[2] != expected:
            raise InputError(
                f"covariances has shape {shapes[2]}; valid for {kind!r} is {expected}."
            )
        if any(isinstance(a, jax.core.Tracer) for a in (weights, means, covariances)):
            return _create(jnp, weights, means, covariances, kind)
        # Float64 on the host: the eigenvectors of an ill-conditioned covariance are then exact to
        # the precision in which they are stored.
        weights, means, covariances = (
            np.asarray(a, np.float64) for a in (weights, means, covariances)
        )
        _check_values(weights, means, covariances, kind)
        return _create(np, weights / weights.sum(), means, covariances, kind)

    @property
    def num_components(self) -> int:
        """K."""
        return self.means.shape[0]

    @property
    def dim(self) -> int:
        """D."""
        return self.means.shape[1]

    @property
    def weights(self) -> Array:
        """`[K]`, with sum 1."""
        return jnp.exp(self.log_weights)

    @property
    def covariances(self) -> Array:
        """Full `[K, D, D]`, tied `[D, D]`, diag `[K, D]`, spherical `[K]`, as in scikit-learn."""
        if self.basis is None:
            return self.variances
        scaled = self.basis * jnp.expand_dims(self.variances, -2)
        return jnp.matmul(scaled, jnp.swapaxes(self.basis, -1, -2), precision=_HIGHEST)

    @property
    def spectrum(self) -> Array:
        """Eigenvalues of every component's covariance, `[K, D]`, whatever the kind."""
        variances = self.variances
        if self.kind == "tied":
            variances = variances[None, :]
        elif self.kind == "spherical":
            variances = variances[:, None]
        return jnp.broadcast_to(variances, self.means.shape)


def _create(xp, weights, means, covariances, kind: str) -> GaussianMixture:
    """`create` after the checks, in NumPy (`xp = np`, concrete) or JAX (traced)."""
    basis = None
    variances = covariances
    if kind in ("full", "tied"):
        symmetric = (covariances + xp.swapaxes(covariances, -1, -2)) / 2
        variances, basis = xp.linalg.eigh(symmetric)
    positive = weights > 0
    log_weights = xp.where(positive, xp.log(xp.where(positive, weights, 1.0)), -xp.inf)
    to_float = working_precision if xp is np else functools.partial(jnp.asarray, dtype=float)
    return GaussianMixture(
        log_weights=to_float(log_weights),
        means=to_float(means),
        variances=to_float(variances),
        basis=None if basis is None else to_float(basis),
        kind=kind,
    )


def working_precision(a: np.ndarray) -> Array:
    """An array of the host in JAX's default floats; rounded here, which has nothing to compile.

    Concrete also while something is traced, so that what is made of it may be kept.
    """
    with jax.ensure_compile_time_eval():
        return jnp.asarray(np.asarray(a, jax.dtypes.canonicalize_dtype(float)))


def full_covariances(mix: GaussianMixture) -> np.ndarray:
    """`[K, D, D]` float64 covariances on the host, whatever the kind."""
    num_components, dim = mix.means.shape
    covariances = np.asarray(mix.covariances, np.float64)
    eye = np.eye(dim)
    if mix.kind == "full":
        return covariances
    if mix.kind == "tied":
        return np.broadcast_to(covariances, (num_components, dim, dim))
    if mix.kind == "diag":
        return covariances[:, :, None] * eye[None]
    return covariances[:, None, None] * eye[None]


def _check_values(weights, means, covariances, kind: str) -> None:
    for name, value in (("weights", weights), ("means", means), ("covariances", covariances)):
        if not np.isfinite(value).all():
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
            raise InputError(f"{name}{list(where)} is {value[where]}; valid are finite numbers.")
    if (weights < 0).any():
        k = int(np.argmin(weights))
        raise InputError(f"weights[{k}] is {weights[k]:g}; valid are numbers >= 0 with sum 1.")
    if abs(weights.sum() - 1) > 1e-4:
        raise InputError(f"weights sum to {weights.sum():g}; valid are numbers >= 0 with sum 1.")
    if kind in ("full", "tied"):
        asymmetry = np.abs(covariances - np.swapaxes(covariances, -1, -2)).max(axis=(-1, -2))
        largest = np.abs(covariances).max(axis=(-1, -2))
        if (asymmetry > 1e-4 * largest).any():
            k = int(np.argmax(asymmetry - 1e-4 * largest))
            raise InputError(f"covariances{_at(kind, k)} is not symmetric; valid is symmetric.")
        smallest = np.linalg.eigvalsh(covariances)[..., 0]
    else:
        smallest = covariances.min(axis=-1) if kind == "diag" else covariances
    if (smallest <= 0).any():
        k = int(np.argmin(smallest))
        raise InputError(
            f"covariances{_at(kind, k)} has smallest eigenvalue {smallest.flat[k]:g}; valid is "
            "positive definite."
        )


def _at(kind: str, k: int) -> str:
    return "" if kind == "tied" else f"[{k}]"
