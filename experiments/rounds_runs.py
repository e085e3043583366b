"""What the experiment on rounds trains: two networks, two weightings, with and without the loss."""

import dataclasses
import fractions
import logging
import math
import pathlib

from ml_collections import ConfigDict

import gmm_diffusion as gd
from experiments.rounds import Denoiser
from gmm_diffusion import config as config_lib
from gmm_diffusion.errors import InputError
from gmm_diffusion.model.model import Model

NETWORKS = ("noise", "edm")
WEIGHTINGS = ("denoising", "likelihood")
# Of a finished run's updates, in hundredths.
SHARES = (2, 5, 10)
# Training reaches so far from the data's size in both directions: the published levels, from 0.01
# to 157, and sqrt(sigma^2 + zeta^2) for the widest published zeta, lie within.
_FARTHEST = 200.0


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is trained.

    Attributes:
      data: a key of `data.toy.MIXTURES`.
      updates: of a run with the loss.
      width: of the MLP of two blocks.
      batch_size: points an update.
      points: of these, those that take part in the loss.
      num_points: evaluations of the loss's integrand a point.
      weight: of the loss.
      zeta: range of the smoothing; that of the paper is (0.011, 90) for data of RMS 1.
      zeta_law: of its logarithm.
      updates_a_call: updates in one compiled call.
    """

    data: str = "dino"
    updates: int = 20_000
    width: int = 128
    batch_size: int = 128
    points: int = 2
    num_points: int = 128
    weight: float = 0.1
    zeta: tuple[float, float] = (0.011, 90.0)
    zeta_law: str = "logistic"
    updates_a_call: int = 50

    def __post_init__(self) -> None:
        # A hundredth of a finished run is a whole number of calls.
        step = 100 * self.updates_a_call // math.gcd(100, self.ratio)
        if self.updates < step or self.updates % step:
            raise InputError(f"updates is {self.updates}; valid are multiples of {step}.")

    @property
    def ratio(self) -> int:
        """Rows of the network in an update with the loss, in units of those without."""
        rows = 1 + fractions.Fraction(2 * self.points * self.num_points, self.batch_size)
        if rows.denominator != 1:
            raise InputError(
                f"num_points is {self.num_points}; valid are multiples of "
                f"{rows.denominator * self.num_points}."
            )
        return int(rows)

    @property
    def longer(self) -> int:
        """Updates without the loss that take as many rows as `updates` with it."""
        return self.ratio * self.updates


@dataclasses.dataclass(frozen=True)
class Arm:
    """One of the trainings of a seed.

    Attributes:
      network: of `NETWORKS`, what it predicts.
      weighting: of `WEIGHTINGS`.
      contrast: whether with the loss.
      tuned: whether from the finished run without the loss, and not from the start.
    """

    network: str
    weighting: str
    contrast: bool
    tuned: bool = False

    def __post_init__(self) -> None:
        for name, value, valid in (
            ("networks", self.network, NETWORKS),
            ("weightings", self.weighting, WEIGHTINGS),
        ):
            if value not in valid:
                raise InputError(f"{name} has {value!r}; valid are {', '.join(valid)}.")

    @property
    def name(self) -> str:
        """Of its files."""
        kind = "with" if self.contrast else "without"
        return "_".join([self.network, self.weighting, kind, *(["tuned"] if self.tuned else [])])


def models(problem: Problem, arm: Arm) -> dict[str, int]:
    """What of a training is sampled: how the tables call it -> the update."""
    if arm.tuned:
        kind = "with" if arm.contrast else "without"
        return {f"{kind}, {s} % more": problem.longer * s // 100 for s in SHARES}
    if arm.contrast:
        return {"with": problem.updates}
    return {"without": problem.updates, "without, equal compute": problem.longer}


def rows(problem: Problem, arm: Arm) -> int:
    """Rows of the network that a training takes, in units of a batch."""
    return max(models(problem, arm).values()) * (problem.ratio if arm.contrast else 1)


def config(problem: Problem, arm: Arm, seed: int, finished: pathlib.Path | None) -> ConfigDict:
    """Of a training; `finished` is the run without the loss that a tuned one starts from."""
    made = config_lib.default()
    made.data.update(name="toy", toy_name=problem.data, validation_fraction=0.0)
    made.conditioning.kind = "none"
    made.network.update(name="mlp", width=problem.width, num_blocks=2)
    made.diffusion.update(
        preconditioning=arm.network,
        weighting=arm.weighting,
        sigma_log_mean=0.0,
        sigma_log_std=math.log(_FARTHEST) / 3,
    )
    made.contrastive.update(
        weight=problem.weight if arm.contrast else 0.0,
        zeta=problem.zeta,
        zeta_law=problem.zeta_law,
        points=problem.points,
        num_points=problem.num_points,
    )
    total = max(models(problem, arm).values())
    made.training.update(
        num_steps=total,
        batch_size=problem.batch_size,
        steps_per_call=problem.updates_a_call,
        seed=seed,
        heldout_every=0,
        log_every=total,
        tensorboard=False,
    )
    decay = max(problem.updates // 4, 1)
    made.optimizer.decay_steps = decay
    made.checkpoint.update(every=problem.updates, keep=problem.ratio, snapshot_every=0)
    made.evaluation.at_end = False
    if arm.tuned:
        made.training.init_from = str(finished)
        # Where the finished run's rate has come to.
        made.optimizer.schedule = "constant"
        made.optimizer.learning_rate /= math.sqrt(problem.longer / decay)
        made.checkpoint.update(every=problem.longer // 100, keep=max(SHARES))
    return made


def check(problem: Problem, arm: Arm) -> None:
    """Raises InputError for settings that no training takes, before any work."""
    config_lib.validate(config(problem, arm, 0, pathlib.Path()))


def trained(
    problem: Problem, arm: Arm, seed: int, folder: pathlib.Path
) -> dict[str, tuple[Denoiser, Model]]:
    """The models of a training, which goes on where it was stopped: name -> denoiser, model."""

    def place(arm):
        return folder / f"{arm.name}_{seed}"

    finished = dataclasses.replace(arm, contrast=False, tuned=False)
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.WARNING)
    try:
        for one in [finished, arm] if arm.tuned else [arm]:
            gd.train(config(problem, one, seed, place(finished)), str(place(one)))
        found = {
            name: gd.load(str(place(arm)), step=step) for name, step in models(problem, arm).items()
        }
    finally:
        logging.getLogger().setLevel(level)
    return {
        name: (Denoiser(model.denoiser, tuple(map(float, model.fitted.transform.mean))), model)
        for name, model in found.items()
    }
