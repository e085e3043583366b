"""Does guidance keep the variety of a tree? Which components samples occupy, and how wide they lie.

Each sample is given to one component, drawn by its responsibilities. Of true points the counts are
then multinomial with the components' weights, whatever the overlap, and offsets from a branch have
the branch's own variance: what differs is the model's.
"""

import dataclasses

import numpy as np
import scipy.stats

from gmm_diffusion import mixture
from gmm_diffusion.data import toy
from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture import GaussianMixture

# Responsibilities of so many points at a time.
_BLOCK = 1024


@dataclasses.dataclass(frozen=True)
class Tree:
    """One class of `toy.MIXTURES["tree"]` or its smaller sister "branches": K components.

    Attributes:
      mixture: the density of the class.
      weights: `[K]` float64, sum 1.
      depth: `[K]` generation of the branch of each, from 1.
      branch: `[K]` its number, from 0.
      center: `[branches, 2]`.
      axes: `[branches, 2, 2]`, unit vectors along and across, in rows.
      variance: `[branches, 2]`, of points of a branch along and across.
    """

    mixture: GaussianMixture
    weights: np.ndarray
    depth: np.ndarray
    branch: np.ndarray
    center: np.ndarray
    axes: np.ndarray
    variance: np.ndarray


def tree(name: str, label: int) -> Tree:
    """A class of one of `toy.MIXTURES` that is a tree: branches fork into two, half as likely each.

    Raises:
      InputError: a mixture that is none.
    """
    known = toy.MIXTURES[name]()
    own = known.component_class == label
    weights = known.weights[own] / known.weights[own].sum()
    means, covariances = known.means[own], known.covariances[own]
    depth = 1 + np.rint(np.log2(weights.max() / weights)).astype(int)
    branches = 2 ** depth.max() - 1
    each = len(weights) // branches
    halved = np.allclose(weights, weights.max() * 0.5 ** (depth - 1))
    if not halved or each * branches != len(weights) or depth.max() == 1:
        raise InputError(f"toy name is {name!r}; valid are tree and branches.")
    branch = np.repeat(np.arange(branches), each)
    center = means.reshape(branches, each, 2).mean(axis=1)
    step = means[each - 1 :: each] - means[::each]
    along = step / np.linalg.norm(step, axis=1, keepdims=True)
    axes = np.stack([along, np.stack([-along[:, 1], along[:, 0]], axis=1)], axis=1)
    # All pieces of a branch weigh the same: their own variance, and that of their places.
    offsets = np.einsum("bad,bed->bea", axes, means.reshape(branches, each, 2) - center[:, None])
    inner = np.einsum("bad,bde,bae->ba", axes, covariances[::each], axes)
    return Tree(
        GaussianMixture.create(weights, means, covariances, "full"),
        weights,
        depth,
        branch,
        center,
        axes,
        inner + np.mean(offsets**2, axis=1),
    )


def owners(own: Tree, x: np.ndarray, seed: int) -> np.ndarray:
    """The component of each of `x [N, 2]`, drawn by its responsibilities, `[N]`."""
    uniform = np.random.default_rng([seed, 0]).random(len(x))
    found = np.empty(len(x), int)
    for start in range(0, len(x), _BLOCK):
        block = slice(start, start + _BLOCK)
        shares = np.asarray(mixture.responsibilities(own.mixture, x[block]), np.float64)
        steps = np.cumsum(shares, axis=1)
        level = uniform[block] * steps[:, -1]
        found[block] = (steps <= level[:, None]).sum(axis=1)
    return found


def against_multinomial(counts: np.ndarray, weights: np.ndarray) -> float:
    """Pearson's statistic of `counts [K]` by its degrees of freedom: 1 of independent draws.

    Its mean is exactly that, and its standard deviation about `sqrt(2 / (K - 1))`. It grows with
    the number of samples where the law is another one.
    """
    found = scipy.stats.chisquare(counts, counts.sum() * weights)
    return float(found.statistic / (len(counts) - 1))


def by_depth(own: Tree, values: np.ndarray) -> np.ndarray:
    """Sums of `values [K]` over the components of each depth."""
    return np.bincount(own.depth, values)[1:]


def expected_empty(weights: np.ndarray, num: int) -> float:
    """How many components `num` independent draws leave empty, in the mean."""
    return float(np.sum((1 - weights) ** num))


def spread(own: Tree, x: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Mean squares of the offsets from the branches, by their true variance: along and across."""
    branch = own.branch[owner]
    offsets = np.einsum("nad,nd->na", own.axes[branch], x - own.center[branch])
    return np.mean(offsets**2 / own.variance[branch], axis=0)


def measure(own: Tree, x: np.ndarray, inside: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """All of it, of samples of one class.

    Args:
      own: the class.
      x: `[N, 2]`.
      inside: `[N]`, which of them are no outliers: these alone count for `spread`, for a few
        points far out would decide it.
      seed: of the draw of components.

    Returns:
      "outliers" (share), "empty" (components), "components" and "depths" (`against_multinomial`),
      each `[]`, "spread" `[2]` and "mass" `[depths]`, shares with sum 1.
    """
    owner = owners(own, x, seed)
    counts = np.bincount(owner, minlength=len(own.weights))
    mass = by_depth(own, counts)
    return {
        "outliers": np.array(1 - np.mean(inside)),
        "empty": np.array(float(np.sum(counts == 0))),
        "components": np.array(against_multinomial(counts, own.weights)),
        "depths": np.array(against_multinomial(mass, by_depth(own, own.weights))),
        "spread": spread(own, x[inside], owner[inside]),
        "mass": mass / len(x),
    }
