"""Starting points of EM, on standardised data: k-means++ or random points."""

import functools
import math

import jax
import jax.numpy as jnp

from gmm_diffusion.mixture.em_steps import Parameters
from gmm_diffusion.types import Array

_HIGHEST = jax.lax.Precision.HIGHEST
_LLOYD_ITERATIONS = 10
# A start narrower than this cannot reach points between its components.
_SMALLEST_VARIANCE = 1e-4
# Restarts find what k-means++ missed of a few clusters, and not of many.
_FEW_COMPONENTS = 64

STARTS = ("k-means++", "random")


def subsample_size(num_points: int, num_components: int) -> int:
    """Points that a start looks at: enough for K clusters, bounded whatever N is."""
    return min(num_points, max(4096, 32 * num_components))


@functools.partial(jax.jit, static_argnames=("num_components", "kind", "start"))
def make_start(key: Array, x: Array, num_components: int, kind: str, start: str) -> Parameters:
    """Parameters to start EM from.

    Args:
      key: a typed key.
      x: `[N, D]`, a random subsample of standardised data.
      num_components: K.
      kind: as in `GaussianMixture`.
      start: "k-means++" (Arthur & Vassilvitskii 2007, then ten Lloyd iterations; the covariance is
        that within clusters; of more than 64 components each seed is the best of several) or
        "random" (distinct points as means, the data's covariance).
    """
    num_points, dim = x.shape
    if start == "random":
        replace = num_components > num_points
        index = jax.random.choice(key, num_points, (num_components,), replace=replace)
        means = x[index]
        counts = jnp.ones(num_components)
        variance = jnp.maximum(jnp.var(x, axis=0), _SMALLEST_VARIANCE)
    else:
        means, counts, variance = _lloyd(x, _seeds(key, x, num_components))
    weights = (counts + 1) / (jnp.sum(counts) + num_components)
    std = jnp.sqrt(variance)
    root = {
        "full": lambda: jnp.broadcast_to(jnp.diag(std), (num_components, dim, dim)),
        "tied": lambda: jnp.diag(std),
        "diag": lambda: jnp.broadcast_to(std, (num_components, dim)),
        "spherical": lambda: jnp.full(num_components, jnp.sqrt(jnp.mean(variance))),
    }[kind]()
    return Parameters(jnp.log(weights).astype(x.dtype), means, root.astype(x.dtype), kind)


def _seeds(key: Array, x: Array, num_components: int) -> Array:
    """k-means++: each next seed with probability proportional to its squared distance.

    Of more than a few it is the one of `2 + ln K` so drawn that leaves the least squared distances,
    the greedy variant that Arthur & Vassilvitskii name in their conclusion.
    """
    first_key, key = jax.random.split(key)
    seeds = jnp.zeros((num_components, x.shape[1]), x.dtype)
    seeds = seeds.at[0].set(x[jax.random.randint(first_key, (), 0, x.shape[0])])

    def step(k, carry):
        seeds, nearest = carry
        nearest = jnp.minimum(nearest, jnp.sum((x - seeds[k - 1][None, :]) ** 2, axis=1))
        index = jax.random.categorical(jax.random.fold_in(key, k), jnp.log(nearest))
        return seeds.at[k].set(x[index]), nearest

    num_tries = 2 + int(math.log(num_components))
    squares = jnp.sum(x**2, axis=1)

    def greedy_step(k, carry):
        seeds, nearest = carry
        tried = jax.random.categorical(
            jax.random.fold_in(key, k), jnp.log(nearest), shape=(num_tries,)
        )
        cross = jnp.matmul(x, x[tried].T, precision=_HIGHEST)
        distance = squares[:, None] - 2 * cross + squares[tried][None, :]
        left = jnp.minimum(nearest[:, None], jnp.maximum(distance, 0))
        best = jnp.argmin(jnp.sum(left, axis=0))
        return seeds.at[k].set(x[tried[best]]), left[:, best]

    if num_components <= _FEW_COMPONENTS:
        far = jnp.full(x.shape[0], jnp.inf, x.dtype)
        return jax.lax.fori_loop(1, num_components, step, (seeds, far))[0]
    nearest = jnp.sum((x - seeds[0][None, :]) ** 2, axis=1)
    return jax.lax.fori_loop(1, num_components, greedy_step, (seeds, nearest))[0]


def _lloyd(x: Array, centers: Array) -> tuple[Array, Array, Array]:
    """Centres `[K, D]`, points in each cluster `[K]`, variance within clusters `[D]`."""
    num_components = centers.shape[0]

    def nearest(centers):
        cross = jnp.matmul(x, centers.T, precision=_HIGHEST)
        return jnp.argmin(jnp.sum(centers**2, axis=1)[None, :] - 2 * cross, axis=1)

    def step(_, centers):
        label = nearest(centers)
        counts = jnp.zeros(num_components, x.dtype).at[label].add(1.0)
        sums = jnp.zeros_like(centers).at[label].add(x)
        return jnp.where(counts[:, None] > 0, sums / jnp.maximum(counts, 1)[:, None], centers)

    centers = jax.lax.fori_loop(0, _LLOYD_ITERATIONS, step, centers)
    label = nearest(centers)
    counts = jnp.zeros(num_components, x.dtype).at[label].add(1.0)
    variance = jnp.mean((x - centers[label]) ** 2, axis=0)
    return centers, counts, jnp.maximum(variance, _SMALLEST_VARIANCE)
