"""Density, responsibilities, score and exact denoiser of a mixture, at any noise level.

Each function is written for one point and mapped over the points in blocks, so that memory stays
bounded; squares there are of differences from each mean. Many points at one noise level take the
matrix products of `whitened` where these are accurate. The arithmetic is in log-space throughout.
"""

import math

import jax
import jax.numpy as jnp

from gmm_diffusion.mixture.blocks import block_sizes
from gmm_diffusion.mixture.gaussian_mixture import GaussianMixture
from gmm_diffusion.mixture.whitened import (
    Whitened,
    by_accuracy,
    log_joint,
    posterior,
    whitened,
)
from gmm_diffusion.types import Array, Numbers

_HIGHEST = jax.lax.Precision.HIGHEST
# Below this, compiling two ways costs more than the faster one saves.
_FEW_ELEMENTS = 2**20
# Elements of an expanded block: large, since XLA:CPU uses more threads outside a loop over blocks.
_MANY_ELEMENTS = 2**24


@jax.jit
def log_prob(
    mix: GaussianMixture, x: Array, sigma: Numbers = 0.0, weights: Array | None = None
) -> Array:
    """Natural logarithm of the density of `x + sigma * eps`.

    Args:
      mix: the mixture.
      x: `[N, D]` points.
      sigma: noise standard deviation >= 0, `[]` or one a point `[N]`.
      weights: `[K]` or one set a point `[N, K]`, not negative, used as given (sum 1 for a density)
        in place of the mixture's own. The gradient with respect to a weight of 0 is 0.

    Returns:
      `[N]`, finite also 1e4 standard deviations away.

    Raises:
      ValueError: a wrong shape.
    """
    return _from_log_joint(
        jax.nn.logsumexp, lambda joint: posterior(joint, axis=1)[1], mix, x, sigma, weights
    )


@jax.jit
def responsibilities(
    mix: GaussianMixture, x: Array, sigma: Numbers = 0.0, weights: Array | None = None
) -> Array:
    """Posterior probability of each component given a (noisy) point.

    Args and errors are those of `log_prob`; `weights` need not sum to 1 here.

    Returns:
      `[N, K]`, rows sum to 1; exactly 0 where the weight is 0.
    """
    return _from_log_joint(
        jax.nn.softmax, lambda joint: posterior(joint, axis=1)[0], mix, x, sigma, weights
    )


@jax.jit
def score(
    mix: GaussianMixture, x: Array, sigma: Numbers = 0.0, weights: Array | None = None
) -> Array:
    """Gradient of `log_prob` with respect to `x`, `sum_k r_k (Sigma_k + sigma^2)^-1 (mu_k - x)`.

    Args and errors are those of `log_prob`.

    Returns:
      `[N, D]`.
    """

    def point_score(point, s, log_w):
        r = jax.nn.softmax(_log_joint(mix, point, s, log_w))
        offsets = _to_basis(mix, point[None, :] - mix.means)
        return _from_basis(mix, r, -offsets / (mix.spectrum + s**2))

    return _map_points(point_score, mix, x, sigma, weights)


@jax.jit
def denoise(mix: GaussianMixture, x: Array, sigma: Numbers, weights: Array | None = None) -> Array:
    """Posterior mean of clean data given noisy points: the optimal denoiser (Robbins 1956).

    Equal to `x + sigma^2 score(mix, x, sigma)` (Tweedie's formula), computed as the responsibility-
    weighted mean of the components' own posterior means, which does not cancel at large sigma.

    Args:
      mix: the mixture of clean data.
      x: `[N, D]` noisy points.
      sigma: their noise standard deviation >= 0, `[]` or `[N]`.
      weights: as in `log_prob`.

    Returns:
      `[N, D]`.

    Raises:
      ValueError: a wrong shape.
    """

    def point_denoise(point, s, log_w):
        r = jax.nn.softmax(_log_joint(mix, point, s, log_w))
        offsets = _to_basis(mix, point[None, :] - mix.means)
        spectrum = mix.spectrum
        mean = jnp.einsum("k,kd->d", r, mix.means, precision=_HIGHEST)
        return mean + _from_basis(mix, r, offsets * (spectrum / (spectrum + s**2)))

    return _map_points(point_denoise, mix, x, sigma, weights)


def _log_joint(mix: GaussianMixture, point: Array, sigma: Array, log_weights: Array) -> Array:
    """`log w_k + log N(point; mu_k, Sigma_k + sigma^2)`, `[K]`."""
    offsets = _to_basis(mix, point[None, :] - mix.means)
    spectrum = mix.spectrum + sigma**2
    squared = jnp.sum(offsets**2 / spectrum, axis=-1)
    log_det = jnp.sum(jnp.log(spectrum), axis=-1)
    return log_weights - 0.5 * (squared + log_det + mix.dim * math.log(2 * math.pi))


def _to_basis(mix: GaussianMixture, offsets: Array) -> Array:
    """Coordinates of `offsets [K, D]` along each component's eigenvectors, `[K, D]`."""
    if mix.basis is None:
        return offsets
    axes = "kde,kd->ke" if mix.kind == "full" else "de,kd->ke"
    return jnp.einsum(axes, mix.basis, offsets, precision=_HIGHEST)


def _from_basis(mix: GaussianMixture, r: Array, coordinates: Array) -> Array:
    """`sum_k r_k basis_k coordinates_k`, `[D]`."""
    weighted = r[:, None] * coordinates
    if mix.kind == "full":
        return jnp.einsum("kde,ke->d", mix.basis, weighted, precision=_HIGHEST)
    total = jnp.sum(weighted, axis=0)
    if mix.kind == "tied":
        return jnp.einsum("de,e->d", mix.basis, total, precision=_HIGHEST)
    return total


def safe_log(weights: Array) -> Array:
    """`log(weights)`, -inf with gradient 0 where a weight is 0 (never NaN)."""
    positive = weights > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, weights, 1.0)), -jnp.inf)


def _from_log_joint(of_point, of_block, mix: GaussianMixture, x: Array, sigma, weights) -> Array:
    """`of_point(log_joint [K])` for each point, or `of_block(log_joint [N, K])`, which is the same
    by matrix products, where these pay and are accurate."""

    def differences():
        return _map_points(
            lambda point, s, log_w: of_point(_log_joint(mix, point, s, log_w)),
            mix,
            x,
            sigma,
            weights,
        )

    x, sigma = jnp.asarray(x), jnp.asarray(sigma)
    check_points(mix, x, sigma, weights)
    num_points = x.shape[0]
    one_level = sigma.ndim == 0 and (weights is None or jnp.ndim(weights) == 1)
    if not one_level or num_points * mix.num_components * mix.dim < _FEW_ELEMENTS:
        return differences()
    center = jnp.matmul(mix.weights, mix.means, precision=_HIGHEST)
    w = _whitened(mix, center, sigma, weights)
    if mix.kind == "full":
        size = block_sizes(mix.num_components, mix.dim)[0]
    else:
        size = max(1, _MANY_ELEMENTS // (mix.num_components + 2 * mix.dim))
    num_blocks = -(-num_points // size)
    size = -(-num_points // num_blocks)

    def products(apart=None):
        def one(block):
            return of_block(log_joint(w, block - center[None, :], apart))

        if num_blocks == 1:
            return one(x)
        padded = jnp.pad(x, ((0, num_blocks * size - num_points), (0, 0)))
        values = jax.lax.map(one, padded.reshape(num_blocks, size, mix.dim))
        return values.reshape(-1, *values.shape[2:])[:num_points]

    return by_accuracy(w, products, differences)


def _whitened(mix: GaussianMixture, center: Array, sigma: Array, weights: Array | None) -> Whitened:
    """The mixture of noisy points with `center [D]` as origin."""
    root = jnp.sqrt(mix.spectrum + sigma**2)
    log_weights = mix.log_weights if weights is None else safe_log(jnp.asarray(weights))
    if mix.basis is None:
        inverse = 1 / root if mix.kind == "diag" else 1 / root[:, 0]
    elif mix.kind == "full":
        inverse = jnp.swapaxes(mix.basis, -1, -2) / root[:, :, None]
    else:
        inverse = mix.basis.T / root[0][:, None]
    log_det = jnp.sum(jnp.log(root), axis=-1)
    return whitened(log_weights, log_det, mix.means - center[None, :], inverse, mix.kind)


def _map_points(fn, mix: GaussianMixture, x: Array, sigma, weights: Array | None) -> Array:
    """`fn(point [D], sigma [], log_weights [K])` over the points, in blocks."""
    x, sigma = jnp.asarray(x), jnp.asarray(sigma)
    check_points(mix, x, sigma, weights)
    log_weights = mix.log_weights if weights is None else safe_log(jnp.asarray(weights))
    axes = (0, 0 if sigma.ndim else None, 0 if log_weights.ndim == 2 else None)
    block = block_sizes(mix.num_components, mix.dim)[0]
    if x.shape[0] <= block:
        return jax.vmap(fn, in_axes=axes)(x, sigma, log_weights)
    mapped = [a for a, axis in zip((x, sigma, log_weights), axes, strict=True) if axis == 0]

    def one(arguments):
        arguments = iter(arguments)
        return fn(
            next(arguments),
            next(arguments) if axes[1] == 0 else sigma,
            next(arguments) if axes[2] == 0 else log_weights,
        )

    return jax.lax.map(one, mapped, batch_size=block)


def check_points(mix: GaussianMixture, x: Array, sigma: Array, weights: Array | None) -> None:
    """Raises ValueError where shapes of the arguments of `log_prob` do not fit together."""
    if x.ndim != 2 or x.shape[1] != mix.dim:
        raise ValueError(f"x has shape {x.shape}; valid is [N, {mix.dim}].")
    if sigma.shape not in ((), (x.shape[0],)):
        raise ValueError(f"sigma has shape {sigma.shape}; valid are [] and [{x.shape[0]}].")
    allowed = ((mix.num_components,), (x.shape[0], mix.num_components))
    if weights is not None and jnp.shape(weights) not in allowed:
        raise ValueError(
            f"weights has shape {jnp.shape(weights)}; valid are {allowed[0]} and {allowed[1]}."
        )
