"""Costs between distributions on a line or circle in a space of more dimensions.

The model is the target moved by `theta [D]`, and what is learned is `theta` (the parallel lines of
Arjovsky et al. 2017, arXiv 1701.07875, example 1, in more dimensions). Where it is not 0 their
supports share nothing but a null set, so that JS is log 2 and KL infinite whatever the distance; to
have a gradient at all, both distributions are blurred by noise of standard deviation `tau` for
these two.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture import ngmg
from gmm_diffusion.types import Array

SHAPES = ("line", "circle")


def points(shape: str, position: np.ndarray, dim: int) -> np.ndarray:
    """Points of the manifold at `position [N]` in [0, 1): `[N, D]`, on the first axes.

    A line from -1 to 1, or a circle of radius 1.

    Raises:
      InputError: another shape.
    """
    zeros = jnp.zeros_like(position)
    if shape == "line":
        axes = [2 * position - 1, zeros]
    elif shape == "circle":
        axes = [jnp.cos(2 * jnp.pi * position), jnp.sin(2 * jnp.pi * position)]
    else:
        raise InputError(f"shape is {shape!r}; valid are {' and '.join(map(repr, SHAPES))}.")
    return jnp.stack([*axes, *[zeros] * (dim - 2)], axis=1)


def _uniform(x: Array) -> Array:
    return jnp.full(len(x), 1 / len(x))


def log_density(x: Array, data: Array, tau: float) -> Array:
    """Of equally likely points `data [N, D]` blurred by `tau`, at `x [M, D]`: `[M]`.

    It is NGMG's form "log" but for a constant: that form is a likelihood cost.
    """
    constant = 0.5 * x.shape[1] * jnp.log(2 * jnp.pi * tau**2)
    return -ngmg.energy(x, _uniform(data), data, tau, "log") - constant


def kl(y: Array, data: Array, noise: Array, tau: float) -> Array:
    """Monte-Carlo `KL(P_tau || Q_tau)`, one draw `y + tau noise` of P for each of its points."""
    x = y + tau * noise
    return jnp.mean(log_density(x, y, tau) - log_density(x, data, tau))


def js(y: Array, data: Array, noise: Array, tau: float) -> Array:
    """Monte-Carlo Jensen-Shannon divergence of the blurred distributions, from 0 to log 2."""
    total = 0.0
    for own in (y, data):
        x = own + tau * noise
        logs = [log_density(x, sample, tau) for sample in (own, y if own is data else data)]
        total += jnp.mean(jnp.log(2.0) - jnp.logaddexp(0.0, logs[1] - logs[0])) / 2
    return total


def mmd(y: Array, data: Array, noise: Array, scale) -> Array:
    """Squared MMD of the Gaussian kernel, by NGMG: `E k(y, y') + E k(m, m') + 2 E energy(y)`.

    Its gradient with respect to a shift of all `y` is that of NGMG: the other terms do not change.
    """
    del noise
    among = [-jnp.mean(ngmg.energy(a, _uniform(a), a, scale)) for a in (y, data)]
    return among[0] + among[1] + 2 * jnp.mean(ngmg.energy(y, _uniform(data), data, scale))


def ngmg_log(y: Array, data: Array, noise: Array, scale) -> Array:
    """The mean of NGMG's form "log"."""
    del noise
    return jnp.mean(ngmg.energy(y, _uniform(data), data, scale, "log"))


def wasserstein(y: np.ndarray, data: np.ndarray) -> tuple[float, np.ndarray]:
    """W1 of equally many points by optimal assignment, and its gradient by a shift of `y` `[D]`."""
    cost = cdist(y, data)
    rows, columns = linear_sum_assignment(cost)
    offsets = np.asarray(y)[rows] - np.asarray(data)[columns]
    lengths = cost[rows, columns]
    return float(lengths.mean()), (offsets / np.maximum(lengths, 1e-12)[:, None]).mean(axis=0)


# Each `(y [N, D], data [N, D], noise [N, D]) -> []`; W1 has its own way.
COSTS: dict[str, Callable | None] = {
    "W1": None,
    "NGMG, scale 1": functools.partial(mmd, scale=1.0),
    "NGMG, scales 0.5 to 4": functools.partial(mmd, scale=(0.5, 1.0, 2.0, 4.0)),
    "NGMG log, scale 1": functools.partial(ngmg_log, scale=1.0),
    "KL, blur 0.3": functools.partial(kl, tau=0.3),
    "KL, blur 0.03": functools.partial(kl, tau=0.03),
    "JS, blur 0.3": functools.partial(js, tau=0.3),
    "JS, blur 0.03": functools.partial(js, tau=0.03),
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """Sizes.

    Attributes:
      shape: of `SHAPES`.
      dim: D of the space, at least 3.
      batch_size: fresh points of the model, and as many of the data, for each update.
      num_steps: updates of gradient descent.
      start: first distance, in a random direction.
      num_seeds: runs for each rate.
      rates: learning rates tried.
    """

    shape: str = "circle"
    dim: int = 10
    batch_size: int = 64
    num_steps: int = 300
    start: float = 3.0
    num_seeds: int = 5
    rates: tuple[float, ...] = tuple(float(10 ** (k / 2)) for k in range(-8, 6))


def curve(
    name: str, problem: Problem, distances: np.ndarray, num_points: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Cost and its derivative by the distance, `[M]` each, the shift along the last axis.

    The points are evenly spaced and the same on both sides, and the noise has mean 0 exactly, so
    that nothing but the shift differs.
    """
    data = points(problem.shape, (np.arange(num_points) + 0.5) / num_points, problem.dim)
    noise = np.random.default_rng(0).normal(size=data.shape)
    noise = jnp.asarray(noise - noise.mean(axis=0), jnp.float32)
    axis = jnp.eye(problem.dim)[-1]
    cost = COSTS[name]
    if cost is None:
        pairs = [wasserstein(data + d * axis[None], data) for d in distances]
        return np.array([v for v, _ in pairs]), np.array([g[-1] for _, g in pairs])

    @jax.jit
    def one(theta):
        return jax.value_and_grad(lambda t: cost(data + t[None], data, noise))(theta)

    pairs = [one(jnp.float32(d) * axis) for d in distances]
    return np.array([v for v, _ in pairs]), np.array([g[-1] for _, g in pairs])


def learn(name: str, problem: Problem) -> np.ndarray:
    """Distances while learning, `[rates, seeds, T + 1]`; not finite where a run diverged."""
    if COSTS[name] is None:
        return np.array(
            [
                [_learn_wasserstein(problem, seed, rate) for seed in range(problem.num_seeds)]
                for rate in problem.rates
            ]
        )
    rates = jnp.asarray(problem.rates, jnp.float32)
    seeds = jnp.arange(problem.num_seeds)
    run = functools.partial(_learn, COSTS[name], problem)
    runs = jax.vmap(jax.vmap(run, in_axes=(0, None)), in_axes=(None, 0))
    return np.asarray(jax.jit(runs)(seeds, rates))


def _draws(problem, seed, step):
    """Fresh points of model and data, and noise, of one update."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    keys = [jax.random.fold_in(key, i) for i in range(3)]
    places = [jax.random.uniform(k, (problem.batch_size,)) for k in keys[:2]]
    noise = jax.random.normal(keys[2], (problem.batch_size, problem.dim))
    return *(points(problem.shape, p, problem.dim) for p in places), noise


def _start(problem, seed):
    direction = jax.random.normal(jax.random.fold_in(jax.random.key(seed), 2**30), (problem.dim,))
    return problem.start * direction / jnp.linalg.norm(direction)


def _learn(cost, problem, seed, rate):
    def step(theta, i):
        base, data, noise = _draws(problem, seed, i)
        slope = jax.grad(lambda t: cost(base + t[None], data, noise))(theta)
        return theta - rate * slope, jnp.linalg.norm(theta)

    theta, distances = jax.lax.scan(step, _start(problem, seed), jnp.arange(problem.num_steps))
    return jnp.append(distances, jnp.linalg.norm(theta))


def _learn_wasserstein(problem, seed, rate):
    draws = _all_draws(problem, seed)
    theta = np.asarray(_start(problem, seed), np.float64)
    distances = [np.linalg.norm(theta)]
    for base, data in zip(*draws, strict=True):
        theta = theta - rate * wasserstein(base + theta, data)[1]
        distances.append(np.linalg.norm(theta))
    return distances


@functools.lru_cache(maxsize=8)
def _all_draws(problem, seed):
    steps = jnp.arange(problem.num_steps)
    base, data, _ = jax.jit(jax.vmap(functools.partial(_draws, problem, seed)))(steps)
    return np.asarray(base), np.asarray(data)
