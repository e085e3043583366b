"""The cells of the experiment on attributes: what is trained, kept on disk, and left to do.

As `stability_plan`: a search with seeds of its own finds a loss's best rate and its range of rates;
other seeds run at five multiples of the best rate.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator

import numpy as np

from experiments import attributes, kept, stability
from experiments.attributes import Curves, People, Setting
from experiments.stability_plan import MULTIPLES

# Powers of two, wide enough that the best of no loss is at an end.
EXPONENTS = {"sgd": range(-9, 3), "adam": range(-12, -2)}
FLIPPED = (0.0, 0.1, 0.4)
# Guessing is informed by 0; what is informed by less than a tenth has not learned.
CHANCE = 0.05
_SEARCH_SEED = 1000


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes of the experiment.

    Attributes:
      losses: of `attributes.LOSSES`.
      optimizers: of `attributes.OPTIMIZERS`.
      flipped: shares of wrong labels.
      num_seeds: of the search, and of the comparison.
      num_steps: updates of a run.
    """

    losses: tuple[str, ...] = tuple(attributes.LOSSES)
    optimizers: tuple[str, ...] = tuple(EXPONENTS)
    flipped: tuple[float, ...] = FLIPPED
    num_seeds: int = 8
    num_steps: int = 600

    def settings(self) -> Iterator[Setting]:
        """Every loss by every optimiser with every share of wrong labels."""
        for flipped in self.flipped:
            for optimizer in self.optimizers:
                for loss in self.losses:
                    yield Setting(loss, optimizer, flipped, self.num_steps)

    def grid(self, setting: Setting) -> list[float]:
        """The rates of the search."""
        return [2.0**k for k in EXPONENTS[setting.optimizer]]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One setting's runs.

    Attributes:
      setting: what was trained.
      rates: `[M]`, ascending.
      curves: of `seeds x M` runs, rates running faster.
    """

    setting: Setting
    rates: np.ndarray
    curves: Curves

    def by_seed(self, values: np.ndarray) -> np.ndarray:
        """`[R, ...] -> [seeds, M, ...]`."""
        return values.reshape(-1, len(self.rates), *values.shape[1:])


def run(
    plan: Plan, people: People, out: pathlib.Path, poll: Callable | None = None
) -> list[tuple[Cell, Cell]]:
    """Every cell, `(search, comparison)` by setting; those on disk are read."""
    cells = []
    for setting in plan.settings():
        if poll is not None:
            poll()
        seeds = [_SEARCH_SEED + i for i in range(plan.num_seeds)]
        found = _cell(out, "search", setting, people, seeds, plan.grid(setting))
        best = stability.best_rate(found.rates, found.by_seed(found.curves.accuracy))
        rates = [m * best for m in MULTIPLES]
        own = list(range(plan.num_seeds))
        cells.append((found, _cell(out, "compare", setting, people, own, rates)))
    return cells


def left(plan: Plan, out: pathlib.Path) -> list[int]:
    """Runs of each cell that is not on disk."""
    return [
        plan.num_seeds * number
        for setting in plan.settings()
        for stage, number in (("search", len(plan.grid(setting))), ("compare", len(MULTIPLES)))
        if not _path(out, stage, setting).exists()
    ]


def estimate(plan: Plan, people: People, out: pathlib.Path) -> float:
    """Minutes for what is left, from two short comparisons in the first setting."""
    todo = left(plan, out)
    if not todo:
        return 0.0
    setting = next(iter(plan.settings()))
    seeds, rates = list(range(plan.num_seeds)), plan.grid(setting)[: len(MULTIPLES)]
    seconds, steps = [], (10, 60)
    for num_steps in steps:
        started = time.monotonic()
        attributes.train(dataclasses.replace(setting, num_steps=num_steps), people, seeds, rates)
        seconds.append(time.monotonic() - started)
    # Compilation takes as long whatever the number of steps.
    each = max(seconds[1] - seconds[0], 0.01) / (steps[1] - steps[0]) / (len(seeds) * len(rates))
    return (sum(todo) * each * plan.num_steps + len(todo) * seconds[0]) / 60


def _path(out, stage, setting):
    words = f"{stage} {setting.flipped:g} {setting.optimizer} {setting.loss}".replace(",", "")
    return out / "cells" / (words.replace(" ", "_") + ".npz")


def _cell(out, stage, setting, people, seeds, rates):
    shapes = [list(people.x.shape), list(people.heldout_x.shape)]
    settings = [dataclasses.asdict(setting), seeds, rates, shapes]

    def compute():
        curves = attributes.train(setting, people, seeds, rates)
        print(f"{stage:<8} {setting.flipped:<4g} {setting.optimizer:<5} {setting.loss}", flush=True)
        return dataclasses.asdict(curves)

    found = kept.arrays(_path(out, stage, setting), settings, compute)
    return Cell(setting, np.array(rates), Curves(**found))
