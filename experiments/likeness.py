"""Do costs between distributions order them as the Wasserstein distance does?

A uniform distribution on a line, circle or sphere in a space of more dimensions is changed in five
ways, each in eight strengths; a cost is like W1 as far as it ranks the changed distributions alike.
The costs are those of `manifold`, whose blurred KL and JS stand for what is infinite or constant
without blur, and the energy distance.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import rankdata

from experiments import manifold
from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture import ngmg
from gmm_diffusion.types import Array

SHAPES = ("line", "circle", "sphere")
CHANGES = ("shift", "scale", "rotation", "dropped modes", "unequal masses")
# Equal pieces of a line or circle, octants of a sphere.
MODES = 8
STRENGTHS = tuple(i / 7 for i in range(8))
_SCALES = (0.5, 1.0, 2.0, 4.0)


@dataclasses.dataclass(frozen=True)
class Problem:
    """Sizes.

    Attributes:
      shape: of `SHAPES`; a line of length 2, a circle or sphere of radius 1.
      dim: D of the space, at least 4.
      num_points: N of each distribution.
      num_seeds: repetitions, with points of their own.
    """

    shape: str
    dim: int
    num_points: int = 200
    num_seeds: int = 8

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise InputError(f"shape is {self.shape!r}; valid are {', '.join(SHAPES)}.")
        if self.dim < 4:
            raise InputError(f"dim is {self.dim}; valid is 4 or more.")


def draw(problem: Problem, weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Points of the manifold, on the first axes, its modes as likely as `weights [MODES]` say.

    Modes have as many points as they should to within one, so that masses are no matter of chance.

    Returns:
      `[N, D]`.
    """
    num = problem.num_points
    share = np.cumsum(weights) / np.sum(weights)
    mode = np.searchsorted(share, (np.arange(num) + rng.random()) / num, side="right")
    x = np.zeros((num, problem.dim))
    if problem.shape == "sphere":
        direction = np.abs(rng.normal(size=(num, 3)))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        x[:, :3] = direction * (1 - 2 * ((mode[:, None] >> np.arange(3)) & 1))
        return x
    position = (mode + rng.random(num)) / MODES
    if problem.shape == "line":
        x[:, 0] = 2 * position - 1
    else:
        x[:, 0], x[:, 1] = np.cos(2 * np.pi * position), np.sin(2 * np.pi * position)
    return x


def changed(problem: Problem, change: str, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Fresh points of the distribution after a change, from none at strength 0 to all of it at 1.

    Shift: by 2 along an axis off the manifold. Scale: by 2.5. Rotation: by a right angle, out of
    the manifold's space. Dropped: the first six of eight modes. Masses: the last mode e^3 times as
    likely as the first, those between in geometric steps.

    Raises:
      InputError: an unknown change.
    """
    weights = np.ones(MODES)
    if change == "dropped modes":
        weights[: round(6 * strength)] = 0
    elif change == "unequal masses":
        weights = np.exp(3 * strength * np.arange(MODES) / (MODES - 1))
    x = draw(problem, weights, rng)
    if change == "shift":
        x[:, -1] += 2 * strength
    elif change == "scale":
        x *= 1 + 1.5 * strength
    elif change == "rotation":
        angle = np.pi / 2 * strength
        first = x[:, 0].copy()
        x[:, 0], x[:, -1] = np.cos(angle) * first, np.sin(angle) * first
    elif change not in CHANGES:
        raise InputError(f"change is {change!r}; valid are {', '.join(CHANGES)}.")
    return x


def energy_distance(y: np.ndarray, data: np.ndarray) -> float:
    """`2 E|y - m| - E|y - y'| - E|m - m'|`, Szekely & Rizzo 2013.

    (J. Stat. Plan. Inference 143, p. 1249, doi 10.1016/j.jspi.2013.03.018.)
    """
    return float(2 * cdist(y, data).mean() - cdist(y, y).mean() - cdist(data, data).mean())


def energy_alone(y: Array, data: Array, noise: Array) -> Array:
    """`1 + E energy(y)`, what NGMG minimises where it trains a network: MMD's term of both sets."""
    del noise
    weights = jnp.full(len(data), 1 / len(data))
    return 1 + jnp.mean(ngmg.energy(y, weights, data, _SCALES))


# Of `manifold`, `(y [N, D], data [N, D], noise [N, D]) -> []`.
_JAX: dict[str, Callable] = {
    "NGMG": functools.partial(manifold.mmd, scale=_SCALES),
    "NGMG, scale 1": functools.partial(manifold.mmd, scale=1.0),
    "NGMG's energy alone": energy_alone,
    "KL, blur 0.3": functools.partial(manifold.kl, tau=0.3),
    "KL, blur 0.03": functools.partial(manifold.kl, tau=0.03),
    "JS, blur 0.3": functools.partial(manifold.js, tau=0.3),
    "JS, blur 0.03": functools.partial(manifold.js, tau=0.03),
}
COSTS = ("W1", *_JAX, "energy distance")


@functools.cache
def _compiled():
    def all_costs(y, data, noise):
        return jnp.stack([cost(y, data, noise) for cost in _JAX.values()])

    return jax.jit(all_costs)


def costs(y: np.ndarray, data: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Every one of `COSTS` between points `y [N, D]` and `data [N, D]`: `[C]`.

    `noise [N, D]` is standard normal, for the costs that blur.
    """
    single = [np.asarray(a, np.float32) for a in (y, data, noise)]
    rest = np.asarray(_compiled()(*single), np.float64)
    return np.array([manifold.wasserstein(y, data)[0], *rest, energy_distance(y, data)])


def measure(problem: Problem) -> np.ndarray:
    """Costs from the uniform distribution: `[seeds, changes, strengths, C]`."""
    found = np.empty((problem.num_seeds, len(CHANGES), len(STRENGTHS), len(COSTS)))
    for seed in range(problem.num_seeds):
        for c, change in enumerate(CHANGES):
            for s, strength in enumerate(STRENGTHS):
                rng = np.random.default_rng([seed, c, s])
                data = draw(problem, np.ones(MODES), rng)
                y = changed(problem, change, strength, rng)
                found[seed, c, s] = costs(y, data, rng.normal(size=y.shape))
    return found


def rank_correlation(values: np.ndarray, reference: np.ndarray) -> float:
    """Spearman's, of `[M]` and `[M]`; 0 where one of them says nothing about the order.

    What differs by less than a millionth of the largest value is equal: a saturated cost has no
    order, whatever rounding makes of it.
    """
    ranks = []
    for x in (values, reference):
        largest = np.abs(x).max()
        ranks.append(rankdata(np.round(x / largest, 6) if largest > 0 else x))
    a, b = (r - r.mean() for r in ranks)
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 0 else 0.0


def correlations(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank correlation of every cost with W1, seed by seed.

    Args:
      found: from `measure`.

    Returns:
      Within each change `[seeds, changes, C]`, and over all changes together `[seeds, C]`.
    """
    within = np.array(
        [
            [[rank_correlation(c, column[0]) for c in column] for column in np.moveaxis(by, -1, 1)]
            for by in found
        ]
    )
    flat = np.moveaxis(found.reshape(len(found), -1, found.shape[-1]), -1, 1)
    return within, np.array([[rank_correlation(c, by[0]) for c in by] for by in flat])


def opposite_pairs(dim: int = 10, num_points: int = 400) -> dict[str, np.ndarray]:
    """Distributions in whose order NGMG and W1 must differ, on the line: name -> costs `[C]`.

    A hundredth of all points thrown far away counts with its distance in W1 (100 away: 1), and in
    a bounded kernel with at most twice its squared share; a small shift of everything counts more
    there. And the energy by itself pulls to where the mixture is densest: all points in the middle
    of the line cost less than the line itself.
    """
    line = np.zeros((num_points, dim))
    line[:, 0] = 2 * (np.arange(num_points) + 0.5) / num_points - 1
    rng = np.random.default_rng(0)
    noise = rng.normal(size=line.shape)
    thrown, shifted = line.copy(), line.copy()
    thrown[rng.permutation(num_points)[: num_points // 100], -1] = 100
    shifted[:, -1] = 0.5
    cases = {
        "the line itself": line,
        "1 % thrown 100 away": thrown,
        "all shifted by 0.5": shifted,
        "all in the middle": np.zeros_like(line),
    }
    return {name: costs(y, line, noise) for name, y in cases.items()}
