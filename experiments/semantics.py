"""What the two meanings of mixture weights sample, against exact targets.

Under `mixture` semantics weights `w` ask for `sum_k w_k p(x | k)`, `p(x | k)` proportional to
`r_k(x) p(x)`. Where the density of the data is known, points of that law are true points drawn
again with chances `sum_k w_k r_k(x) / base_k`, and its density is that times `p(x)`: an oracle
for every `w`, of which no network has part. Under `example` semantics weights ask for the points
whose own weights they are; of those true points with nearly these weights are the oracle.
"""

import dataclasses
import logging

import numpy as np

import gmm_diffusion as gd
from gmm_diffusion import mixture
from gmm_diffusion.data import toy
from gmm_diffusion.errors import InputError
from gmm_diffusion.metrics import sliced_wasserstein
from gmm_diffusion.model.model import Model

# Components of the fit, over all classes; on moons neighbours overlap.
NUM_COMPONENTS = {"grid": 25, "moons": 8}
# How a network is asked, and of which training: all that there is.
WAYS = ("mixture, drawn", "mixture, literal", "example, drawn", "example, literal")
NUM_SAMPLES = 2048
# Requests of each kind.
OF_A_KIND = 2
# Points of the known law that targets are drawn from.
_POOL = 100_000
# Weights of a point count as asked for where they differ by less, in total variation.
_NEAR = 0.1
_DEFECTS = 1e-3


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is trained.

    Attributes:
      name: of the points, a key of `NUM_COMPONENTS`.
      num_steps: updates.
      batch_size: points an update.
      width: of the MLP.
    """

    name: str
    num_steps: int = 1500
    batch_size: int = 512
    width: int = 32

    def __post_init__(self) -> None:
        if self.name not in NUM_COMPONENTS:
            raise InputError(f"data are {self.name!r}; valid are {', '.join(NUM_COMPONENTS)}.")


def fit(problem: Problem, semantics: str, seed: int) -> Model:
    """A model of the semantics; both of a seed share their data and the order of it."""
    number = NUM_COMPONENTS[problem.name]
    data = toy.load(problem.name, num_train=16384)
    parts = gd.conditioning.Fitted(
        number, semantics=semantics, features="raw", per_class=False, covariance="full"
    )
    network = gd.networks.MLPSettings(problem.width, num_blocks=3)
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.WARNING)
    try:
        return gd.fit(
            data,
            conditioning=parts,
            network=network,
            steps=problem.num_steps,
            batch_size=problem.batch_size,
            seed=seed,
        )
    finally:
        logging.getLogger().setLevel(level)


@dataclasses.dataclass(frozen=True)
class Oracle:
    """True points, and what a model's mixture says of them.

    Attributes:
      x: `[P, 2]` of the known law.
      log_density: `[P]` of it.
      weights: `[P, K]`, responsibilities of the fitted components.
      base: `[K]`, their mean.
    """

    x: np.ndarray
    log_density: np.ndarray
    weights: np.ndarray
    base: np.ndarray

    def target(self, w: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
        """Points of `sum_k w_k p(x | k)`, `w [K]`: `[num, 2]`."""
        chance = self.weights @ (w / self.base)
        return self.x[rng.choice(len(self.x), num, p=chance / chance.sum())]

    def log_target(self, weights: np.ndarray, log_density: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Log-density of the target at points with these weights `[N, K]` and densities `[N]`."""
        with np.errstate(divide="ignore"):
            return log_density + np.log(weights @ (w / self.base))

    def alike(self, w: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray | None:
        """True points whose own weights are nearly `w`: `[num, 2]`; None where hardly any are."""
        near = np.flatnonzero(np.abs(self.weights - w).sum(axis=1) / 2 < _NEAR)
        return self.x[rng.choice(near, num)] if len(near) >= 100 else None


def oracle(problem: Problem, model: Model) -> Oracle:
    """For the mixture of the model; it depends on the data and the fit alone."""
    import jax

    mix, _ = toy.density(problem.name)
    x = np.asarray(mixture.sample(mix, jax.random.key(1), _POOL), np.float32)
    weights = np.asarray(model.weights(x), np.float64)
    return Oracle(
        x, np.asarray(mixture.log_prob(mix, x), np.float64), weights, weights.mean(axis=0)
    )


def requests(known: Oracle, seed: int = 0) -> dict[str, list[np.ndarray]]:
    """Weights that are asked for, by what they are: `[K]`, `OF_A_KIND` of each.

    Neighbours are the pairs with the largest common responsibilities, and far pairs have next to
    none.
    """
    rng = np.random.default_rng(seed)
    size = len(known.base)
    shared = known.weights.T @ known.weights / len(known.weights)
    np.fill_diagonal(shared, -1)
    order = np.argsort(shared[np.triu_indices(size, 1)])
    pairs = np.transpose(np.triu_indices(size, 1))[order]
    one = np.eye(size)
    three = [rng.choice(size, 3, replace=False) for _ in range(OF_A_KIND)]
    far = pairs[rng.choice(len(pairs) // 2, OF_A_KIND, replace=False)]
    return {
        "one component": [one[k] for k in rng.choice(size, OF_A_KIND, replace=False)],
        "two far ones, half and half": [(one[a] + one[b]) / 2 for a, b in far],
        "two far ones, one to seven": [(one[a] + 7 * one[b]) / 8 for a, b in far],
        "two neighbours, half and half": [(one[a] + one[b]) / 2 for a, b in pairs[-OF_A_KIND:]],
        "three, 0.2 0.3 0.5": [np.array([0.2, 0.3, 0.5]) @ one[chosen] for chosen in three],
        "random weights": list(rng.dirichlet(np.ones(size), OF_A_KIND)),
        "the average of training": [known.base],
    }


def drawn(w: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """One component for each sample, `k ~ w`: one-hot `[num, K]`."""
    return np.eye(len(w), dtype=np.float32)[rng.choice(len(w), num, p=w / w.sum())]


def scores(
    problem: Problem, models: dict[str, Model], known: Oracle, seed: int
) -> dict[str, np.ndarray]:
    """Of every way and every kind of request, means over the requests of a kind.

    Args:
      problem: what was trained.
      models: by semantics.
      known: of their mixture.
      seed: of the samples.

    Returns:
      "distance": `[kinds, WAYS + 1]`, sliced W1 to the target of `mixture` semantics, last the
      floor, that of other points of the target; "defects": likewise, the share below the 0.1 %
      quantile of the target's log-density; "alike": `[kinds, WAYS]`, sliced W1 to true points with
      such weights, NaN where there are none.
    """
    kinds = requests(known)
    mix, _ = toy.density(problem.name)
    rng = np.random.default_rng([seed, 1])
    distance, defects = np.zeros((2, len(kinds), len(WAYS) + 1))
    alike = np.full((len(kinds), len(WAYS)), np.nan)
    for row, asked in enumerate(kinds.values()):
        near = []
        for w in asked:
            target = known.target(w, NUM_SAMPLES, rng)
            sets = [_samples(models, way, w, seed, rng) for way in WAYS]
            sets.append(known.target(w, NUM_SAMPLES, rng))
            reference = known.log_target(
                *_of(models, mix, known.target(w, 8 * NUM_SAMPLES, rng)), w
            )
            threshold = np.quantile(reference, _DEFECTS)
            for column, x in enumerate(sets):
                distance[row, column] += sliced_wasserstein.distance(x, target) / len(asked)
                below = known.log_target(*_of(models, mix, x), w) < threshold
                defects[row, column] += below.mean() / len(asked)
            there = known.alike(w, NUM_SAMPLES, rng)
            if there is not None:
                near.append([sliced_wasserstein.distance(x, there) for x in sets[:-1]])
        if len(near) == len(asked):
            alike[row] = np.mean(near, axis=0)
    return {"distance": distance, "defects": defects, "alike": alike}


def _of(models, mix, x):
    """Weights by the fitted mixture and true log-densities of points `[N, 2]`."""
    model = next(iter(models.values()))
    return np.asarray(model.weights(x), np.float64), np.asarray(mixture.log_prob(mix, x))


def _samples(models, way, w, seed, rng):
    semantics, how = way.split(", ")
    asked = drawn(w, NUM_SAMPLES, rng) if how == "drawn" else w.astype(np.float32)
    return models[semantics].sample(NUM_SAMPLES, asked, seed, batch_size=NUM_SAMPLES).x
