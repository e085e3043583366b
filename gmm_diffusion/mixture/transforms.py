"""Mixtures made from a mixture (smoothed, conditioned) and samples drawn from one."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture.gaussian_mixture import GaussianMixture
from gmm_diffusion.mixture.triangular import triangular_inverse
from gmm_diffusion.types import Array, Numbers

_HIGHEST = jax.lax.Precision.HIGHEST
_BLOCK_ELEMENTS = 2**22


def smooth(mix: GaussianMixture, sigma: Numbers) -> GaussianMixture:
    """The mixture of `x + sigma * eps`: covariances `Sigma_k + sigma^2 I`.

    Args:
      mix: the mixture of `x`.
      sigma: `[]`, standard deviation of the noise, >= 0.

    Raises:
      ValueError: `sigma` is not a scalar (a noise level per point goes into `log_prob` and others).
    """
    sigma = jnp.asarray(sigma)
    if sigma.shape != ():
        raise ValueError(f"sigma has shape {sigma.shape}; valid is [].")
    return dataclasses.replace(mix, variances=mix.variances + sigma**2)


@functools.partial(jax.jit, static_argnames="n")
def sample(mix: GaussianMixture, key: Array, n: int) -> Array:
    """`n` independent draws, `[n, D]`; deterministic given the key and `n`."""
    component_key, noise_key = jax.random.split(key)
    component = jax.random.categorical(component_key, mix.log_weights, shape=(n,))
    noise = jax.random.normal(noise_key, (n, mix.dim), mix.means.dtype)
    coordinates = noise * jnp.sqrt(mix.spectrum)[component]
    basis = mix.basis
    if basis is not None and mix.kind == "tied":
        coordinates = jnp.matmul(coordinates, basis.T, precision=_HIGHEST)
    elif basis is not None:
        # In blocks, since gathering one basis for each point is [n, D, D].
        coordinates = jax.lax.map(
            lambda pair: jnp.matmul(basis[pair[0]], pair[1], precision=_HIGHEST),
            (component, coordinates),
            batch_size=max(1, min(n, _BLOCK_ELEMENTS // mix.dim**2)),
        )
    return mix.means[component] + coordinates


def condition_on(mix: GaussianMixture, dims: Sequence[int], values: Array) -> GaussianMixture:
    """The mixture of the other dimensions given the values of some.

    The weights become `w_k N(values; mu_k, Sigma_k)` restricted to `dims`, normalised; means and
    covariances are those of a conditional Gaussian (Bishop 2006, eq. 2.81 and 2.82), computed from
    a triangular root of the covariance so that no difference of covariances is formed.

    Args:
      mix: a mixture over D dimensions.
      dims: observed dimensions, distinct, each in [0, D), at least one and fewer than D (static).
      values: `[len(dims)]` in the order of `dims`.

    Returns:
      A mixture of the same kind over the remaining dimensions in increasing order.

    Raises:
      InputError: `dims` or the shape of `values` is not as above.
    """
    dims = tuple(int(d) for d in dims)
    if not 0 < len(set(dims)) == len(dims) < mix.dim or not all(0 <= d < mix.dim for d in dims):
        raise InputError(
            f"dims is {dims}; valid are distinct dimensions in [0, {mix.dim}), at least one and "
            f"fewer than {mix.dim}."
        )
    values = jnp.asarray(values)
    if values.shape != (len(dims),):
        raise InputError(
            f"values has shape {values.shape}; valid for these dims is {(len(dims),)}."
        )
    observed, rest = jnp.array(dims), jnp.array([d for d in range(mix.dim) if d not in dims])
    offsets = values[None, :] - mix.means[:, observed]
    means = mix.means[:, rest]
    if mix.basis is None:
        root = jnp.sqrt(mix.spectrum[:, observed])
        white = offsets / root
        variances = mix.variances[:, rest] if mix.kind == "diag" else mix.variances
        basis = None
    else:
        # Sigma = A A' with A = basis sqrt(variances); the transpose of R in A' = Q R is the lower
        # triangular root with the observed dimensions first.
        order = jnp.concatenate([observed, rest])
        roots = mix.basis[..., order, :] * jnp.sqrt(mix.variances)[..., None, :]
        lower = jnp.swapaxes(jnp.linalg.qr(jnp.swapaxes(roots, -1, -2), mode="r"), -1, -2)
        m = len(dims)
        basis, singular, _ = jnp.linalg.svd(lower[..., m:, m:])
        variances = singular**2
        lower = jnp.broadcast_to(lower, (mix.num_components, mix.dim, mix.dim))
        inverse = triangular_inverse(lower[:, :m, :m])
        white = jnp.einsum("kop,kp->ko", inverse, offsets, precision=_HIGHEST)
        means = means + jnp.einsum("kro,ko->kr", lower[:, m:, :m], white, precision=_HIGHEST)
        root = jnp.abs(jnp.diagonal(lower[:, :m, :m], axis1=-2, axis2=-1))
    log_evidence = -0.5 * jnp.sum(white**2, axis=-1) - jnp.sum(jnp.log(root), axis=-1)
    log_weights = jax.nn.log_softmax(mix.log_weights + log_evidence)
    return GaussianMixture(log_weights, means, variances, basis, mix.kind)
