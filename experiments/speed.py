"""Is a gain of conditioning on features speed or quality? Scores of one training at three times.

Points along a spiral, described by their position on it: a feature that is continuous, so that
labels lose some of it however many there are. And the grid of five rows of five modes, described by
the points themselves. Each conditioning is trained once a seed and scored after 1, 3 and 9 times as
many updates.
"""

import dataclasses
import functools
import logging
import pathlib
import tempfile

import jax
import numpy as np

import gmm_diffusion as gd
from gmm_diffusion import config as config_lib
from gmm_diffusion import mixture
from gmm_diffusion.conditioning.settings import KINDS
from gmm_diffusion.data import Dataset, toy
from gmm_diffusion.errors import InputError
from gmm_diffusion.metrics import manifold, sliced_wasserstein
from gmm_diffusion.mixture import GaussianMixture

DATA = ("spiral", "grid")
TIMES = (1, 3, 9)
# What the network is conditioned on; the last two have as many components as each other.
CONDITIONS = ("nothing", "classes", "k-means labels", "mixture")
SCORES = ("defects", "sliced W1", "position error")
_NUM_COMPONENTS = {"spiral": 16, "grid": 25}
_CLASSES = 4
_PIECES = 200
_WIDTH = 0.015
_NUM_TRAIN, _NUM_SAMPLES = 16384, 4096
# Checkpoints fall between calls of so many updates.
_STEPS_PER_CALL = 10


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is trained.

    Attributes:
      data: of `DATA`.
      condition: of `CONDITIONS`.
      num_steps: updates of the shortest training, a multiple of 10.
      batch_size: points an update.
      width: of the MLP.
    """

    data: str
    condition: str
    num_steps: int = 300
    batch_size: int = 512
    width: int = 32

    def __post_init__(self) -> None:
        for name, value, valid in (
            ("data", self.data, DATA),
            ("condition", self.condition, CONDITIONS),
        ):
            if value not in valid:
                raise InputError(f"{name} is {value!r}; valid are {', '.join(valid)}.")
        if self.num_steps < 1 or self.num_steps % _STEPS_PER_CALL:
            raise InputError(
                f"num_steps is {self.num_steps}; valid are multiples of {_STEPS_PER_CALL}."
            )


@dataclasses.dataclass(frozen=True)
class Known:
    """Points whose density is known.

    Attributes:
      mixture: it, mean square 1 an entry.
      place: `[K]` of its components, from 0 to 1 along the spiral; or None.
      label: `[K]` classes of its components.
    """

    mixture: GaussianMixture
    place: np.ndarray | None
    label: np.ndarray

    def draw(self, num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """`[N, 2]` float32 points, and the component of each, `[N]`."""
        rng = np.random.default_rng([seed, 7])
        share = np.asarray(self.mixture.weights, np.float64)
        owner = rng.choice(len(share), num, p=share / share.sum())
        spread = np.sqrt(np.asarray(self.mixture.spectrum))[owner]
        axes = np.asarray(self.mixture.basis)[owner]
        steps = np.einsum("nde,ne->nd", axes, spread * rng.standard_normal((num, 2)))
        return (np.asarray(self.mixture.means)[owner] + steps).astype(np.float32), owner


@functools.cache
def known(name: str) -> Known:
    """The points of `DATA`."""
    if name == "grid":
        mix, label = toy.density("grid")
        return Known(mix, None, label)
    place = (np.arange(_PIECES) + 0.5) / _PIECES
    # Two turns outwards; pieces of equal length in the angle's square root.
    angle = 4 * np.pi * np.sqrt(0.05 + 0.95 * place)
    corners = 4 * np.pi * np.sqrt(0.05 + 0.95 * np.arange(_PIECES + 1) / _PIECES)
    means, ends = (a[:, None] * np.stack([np.cos(a), np.sin(a)], 1) for a in (angle, corners))
    along = np.diff(ends, axis=0)
    length = np.linalg.norm(along, axis=1, keepdims=True)
    scale = np.sqrt(np.mean((means - means.mean(axis=0)) ** 2))
    means, along, length = (means - means.mean(axis=0)) / scale, along / length, length / scale
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    parts = ((along, length[:, 0] / 2), (across, np.full(_PIECES, _WIDTH)))
    covariances = sum((s**2)[:, None, None] * v[:, :, None] * v[:, None, :] for v, s in parts)
    mix = GaussianMixture.create(np.full(_PIECES, 1 / _PIECES), means, covariances, "full")
    return Known(mix, place, (place * _CLASSES).astype(np.int32))


def dataset(name: str) -> Dataset:
    """Of `known`, with classes and, on the spiral, positions as features."""
    truth, parts = known(name), []
    for num, seed in ((_NUM_TRAIN, 0), (2048, 1)):
        x, owner = truth.draw(num, seed)
        place = {} if truth.place is None else {"features": truth.place[owner][:, None]}
        parts.append({"x": x, "label": truth.label[owner]} | place)
    return gd.data.from_arrays(**parts[0], heldout=parts[1], name=name)


def settings(problem: Problem):
    """The conditioning's."""
    number = _NUM_COMPONENTS[problem.data]
    features = "raw" if known(problem.data).place is None else "own"
    fitted = {"features": features, "per_class": False}
    return {
        "nothing": gd.conditioning.Unconditional(),
        "classes": gd.conditioning.Classes(embedding="table"),
        "k-means labels": gd.conditioning.Clusters(number, embedding="table", **fitted),
        "mixture": gd.conditioning.Fitted(number, covariance="full", **fitted),
    }[problem.condition]


def measure(problem: Problem, seed: int) -> dict[str, np.ndarray]:
    """One training: "scores" `[TIMES, SCORES]`, and of true points "floor" `[SCORES]`.

    Defects are samples below the 0.1 % quantile of true points' density. The position error is the
    root mean square distance between a sample's position and that of the held-out point whose
    condition it was given, along a spiral of length 1; NaN where nothing has a position, or nothing
    is asked for.
    """
    truth, data = known(problem.data), dataset(problem.data)
    config = config_lib.default()
    config.data.name, config.data.validation_fraction = "arrays", 0.0
    chosen = settings(problem)
    config.conditioning.kind = KINDS[type(chosen)]
    config.conditioning.update(dataclasses.asdict(chosen))
    config.network.name, config.network.width, config.network.num_blocks = "mlp", problem.width, 3
    config.diffusion.law, config.evaluation.at_end = "auto", False
    config.training.update(
        num_steps=TIMES[-1] * problem.num_steps,
        steps_per_call=_STEPS_PER_CALL,
        batch_size=problem.batch_size,
        seed=seed,
        heldout_every=0,
        tensorboard=False,
    )
    config.checkpoint.update(every=problem.num_steps, keep=TIMES[-1], snapshot_every=0)
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = str(pathlib.Path(folder) / "run")
            gd.train(config, run, data)
            models = [gd.load(run, step=time * problem.num_steps) for time in TIMES]
    finally:
        logging.getLogger().setLevel(level)
    x, owner = truth.draw(_NUM_SAMPLES, 2)
    place = None if truth.place is None else truth.place[owner]
    rows = [score(truth, _samples(problem, model, x, place, owner), place) for model in models]
    if problem.condition == "nothing":
        rows = [[*row[:2], np.nan] for row in rows]
    floor = score(truth, truth.draw(_NUM_SAMPLES, 3)[0], None)
    return {"scores": np.array(rows), "floor": np.array(floor)}


def _samples(problem, model, x, place, owner):
    """One for each held-out point, under the point's own condition."""
    asked = "train"
    if problem.condition == "classes":
        truth = known(problem.data)
        asked = np.eye(truth.label.max() + 1, dtype=np.float32)[truth.label[owner]]
    elif problem.condition != "nothing":
        asked = model.weights(x if place is None else place[:, None].astype(np.float32))
    return model.sample(len(x), asked, seed=1, batch_size=len(x)).x


def score(truth: Known, x: np.ndarray, place: np.ndarray | None) -> list[float]:
    """`SCORES` of samples `[N, 2]`, which were asked to lie at `place [N]`; None asks for none."""
    reference, _ = truth.draw(len(x), 4)
    density = jax.jit(mixture.log_prob)
    threshold_set, _ = truth.draw(65536, 5)
    values, usual = (np.asarray(density(truth.mixture, a)) for a in (x, threshold_set))
    error = np.nan
    if place is not None and truth.place is not None:
        nearest = np.asarray(mixture.responsibilities(truth.mixture, x)).argmax(axis=1)
        error = float(np.sqrt(np.mean((truth.place[nearest] - place) ** 2)))
    defects = float(manifold.density_defects(values, usual))
    return [defects, sliced_wasserstein.distance(x, reference), error]
