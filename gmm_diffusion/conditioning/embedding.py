"""From mixture weights to the features that the network reads: three embeddings of one `G_w`.

The network sees the distribution `G_w = sum_k w_k N(mu_k, Sigma_k)`. That the condition is a
distribution is Lu et al.'s statement (arXiv 2401.11261); the three ways to embed it are ours:

  mean_embedding  random Fourier features of `G_w`, in closed form
  draws           independent draws from `G_w`, for a small network and a mean over draws
  table           `sqrt(K) w`, for a learned table
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from gmm_diffusion.mixture import GaussianMixture
from gmm_diffusion.mixture.gaussian_mixture import full_covariances
from gmm_diffusion.random_keys import Host
from gmm_diffusion.types import Array, PyTree

# A TPU rounds the factors of a product to bfloat16 unless it is told not to.
_HIGHEST = jax.lax.Precision.HIGHEST


@struct.dataclass
class MeanEmbedding:
    """Fitted statistics of the mean embedding.

    Attributes:
      components: `[K, F]` embedding of each component, before centring.
      center: `[F]` mean over the training weights.
      scale: `[F]` one over the root mean square of each centred entry.
      spread: `[F]`, `o' W o` with W the mean covariance within a component; see `blur`.
    """

    components: Array
    center: Array
    scale: Array
    spread: Array


@struct.dataclass
class Draws:
    """Fitted statistics of the draws.

    Attributes:
      means: `[K, D]`.
      factors: `[K, D, D]` with `Sigma = F F'`.
      weights: `[K]` of the mixture.
      num_draws: L (static).
    """

    means: Array
    factors: Array
    weights: Array
    num_draws: int = struct.field(pytree_node=False, default=64)


@struct.dataclass
class Table:
    """The table has no statistics beside K."""


def random_frequencies(
    mix: GaussianMixture, num_features: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies `[D, F]` and phases `[F]` of the Fourier features.

    In coordinates whitened by the mean covariance within a component, `o ~ N(0, I / l^2)` with `l`
    log-uniform in `[1, 4] sqrt(D)`, so that `o' Sigma o` is about 1 at the most for a typical
    component, whatever the dimension.
    """
    rng = np.random.default_rng([seed, Host.FREQUENCIES])
    dim = mix.means.shape[1]
    values, vectors = np.linalg.eigh(within_covariance(mix))
    whitener = vectors / np.sqrt(np.maximum(values, 1e-12 * values.max()))[None]
    length = np.sqrt(dim) * np.exp(rng.uniform(0.0, np.log(4.0), num_features))
    frequencies = whitener @ (rng.normal(size=(dim, num_features)) / length[None])
    return frequencies, rng.uniform(0.0, 2.0 * np.pi, num_features)


def cosine_means(mix: GaussianMixture, frequencies: np.ndarray, phases: np.ndarray) -> np.ndarray:
    """`sqrt(2) E cos(o.z + b)` under each component, `[K, F]`:

    `sqrt(2) cos(o.mu_k + b) exp(-o' Sigma_k o / 2)`, the real part of the characteristic function.
    """
    spread = np.einsum("df,kde,ef->kf", frequencies, full_covariances(mix), frequencies)
    means = np.asarray(mix.means, np.float64)
    return np.sqrt(2.0) * np.cos(means @ frequencies + phases[None]) * np.exp(-0.5 * spread)


def fit_mean_embedding(
    mix: GaussianMixture, weights: np.ndarray, *, num_features: int = 256, seed: int = 0, **_
) -> MeanEmbedding:
    """Fourier features, centred and scaled to unit RMS over `weights [N, K]` (as trained on)."""
    frequencies, phases = random_frequencies(mix, num_features, seed)
    components = cosine_means(mix, frequencies, phases)
    spread = np.einsum("df,de,ef->f", frequencies, within_covariance(mix), frequencies)
    values = np.asarray(weights, np.float64) @ components
    center = values.mean(axis=0)
    # An entry that hardly varies carries no information; scaling it up would only add rounding.
    rms = np.maximum(np.sqrt(np.mean((values - center) ** 2, axis=0)), 1e-4)
    return MeanEmbedding(
        jnp.asarray(np.asarray(components, np.float32)),
        jnp.asarray(np.asarray(center, np.float32)),
        jnp.asarray(np.asarray(1.0 / rms, np.float32)),
        jnp.asarray(np.asarray(spread, np.float32)),
    )


def blur_mean_embedding(fitted: MeanEmbedding, amount: Array | float) -> MeanEmbedding:
    """Of `Sigma_k + amount W`: in closed form, centred on the blurred average condition.

    The scale stays that of the sharp one, so that every entry fades to 0, the average condition.
    """
    fading = jnp.exp(-0.5 * amount * fitted.spread)
    return dataclasses.replace(
        fitted, components=fitted.components * fading[None], center=fitted.center * fading
    )


def apply_mean_embedding(fitted: MeanEmbedding, weights: Array, keys: Array | None) -> Array:
    """`[B, K] -> [B, F]`."""
    del keys
    # Centred before the product: the difference between two conditions may be a small part of it.
    centered = fitted.components - fitted.center[None]
    return jnp.matmul(weights, centered, precision=_HIGHEST) * fitted.scale[None]


def fit_draws(mix: GaussianMixture, weights: np.ndarray, *, num_draws: int = 64, **_) -> Draws:
    """Factors of the covariances; nothing is learned from `weights`."""
    del weights
    factors = np.linalg.cholesky(full_covariances(mix))
    return Draws(
        jnp.asarray(np.asarray(mix.means, np.float32)),
        jnp.asarray(np.asarray(factors, np.float32)),
        jnp.asarray(np.asarray(mix.weights, np.float32)),
        num_draws,
    )


def blur_draws(fitted: Draws, amount: Array | float) -> Draws:
    """Of `Sigma_k + amount W`."""
    transposed = jnp.swapaxes(fitted.factors, 1, 2)
    covariances = jnp.matmul(fitted.factors, transposed, precision=_HIGHEST)
    within = jnp.einsum("k,kde->de", fitted.weights, covariances, precision=_HIGHEST)
    factors = jnp.linalg.cholesky(covariances + amount * within[None])
    return dataclasses.replace(fitted, factors=factors)


def apply_draws(fitted: Draws, weights: Array, keys: Array | None) -> Array:
    """`[B, K]`, keys `[B] -> [B, L, D]` independent draws from each `G_w`.

    At finite L the network learns `p(x | z_1 .. z_L)`, a blurred `w`.

    Raises:
      ValueError: without keys.
    """
    if keys is None:
        raise ValueError("The embedding 'draws' needs keys, one an example.")
    shape = (fitted.num_draws, fitted.means.shape[1])

    def one(key, own):
        # By inversion, with one random number a draw; the largest stays inside the last step.
        steps = jnp.cumsum(own)
        u = jax.random.uniform(jax.random.fold_in(key, 0), (shape[0], 1), maxval=1 - 1e-6)
        k = jnp.sum(steps[None] <= u * steps[-1], axis=-1)
        eps = jax.random.normal(jax.random.fold_in(key, 1), shape)
        offset = jnp.einsum("lde,le->ld", fitted.factors[k], eps, precision=_HIGHEST)
        return fitted.means[k] + offset

    return jax.vmap(one)(keys, weights)


def fit_table(mix: GaussianMixture, weights: np.ndarray, **_) -> Table:
    """Nothing to fit."""
    del mix, weights
    return Table()


def apply_table(fitted: Table, weights: Array, keys: Array | None) -> Array:
    """`[B, K] -> sqrt(K) w [B, K]`, unit RMS for one-hot weights."""
    del fitted, keys
    return np.sqrt(weights.shape[1]) * weights


def blur_table(fitted: Table, amount: Array | float) -> Table:
    """A table knows no covariances.

    Raises:
      ValueError: always.
    """
    raise ValueError("The embedding 'table' has no covariances to blur; blur the weights instead.")


def within_covariance(mix: GaussianMixture) -> np.ndarray:
    """W, the mean covariance within a component, `[D, D]` float64 on the host."""
    return np.einsum("k,kij->ij", np.asarray(mix.weights, np.float64), full_covariances(mix))


class Embedding(NamedTuple):
    """One way to embed a mixture.

    Attributes:
      fit: `(mixture, weights [N, K], **options) -> fitted`, on the host.
      apply: `(fitted, weights [B, K], keys [B] or None) -> features`.
      fitted_type: type of what `fit` returns.
      blur: `(fitted, amount []) -> fitted` of covariances `Sigma_k + amount W`.
    """

    fit: Callable[..., PyTree]
    apply: Callable[[PyTree, Array, Array | None], Array]
    fitted_type: type
    blur: Callable[[PyTree, Array | float], PyTree]


EMBEDDINGS = {
    "mean_embedding": Embedding(
        fit_mean_embedding, apply_mean_embedding, MeanEmbedding, blur_mean_embedding
    ),
    "draws": Embedding(fit_draws, apply_draws, Draws, blur_draws),
    "table": Embedding(fit_table, apply_table, Table, blur_table),
}
