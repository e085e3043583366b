"""The cells of the stability experiment: what is trained, kept on disk, and left to do.

For each regime, loss and optimiser a *search* over a fine grid of rates, with seeds of its own,
finds the loss's best rate and the range of rates that do; the *comparison* trains other seeds at
five multiples of that best rate.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator

import numpy as np

from experiments import kept, stability
from experiments.many_classifiers import LOSSES, Curves, Setting, train
from gmm_diffusion.data import Dataset

MULTIPLES = tuple(float(10 ** (k / 2)) for k in (-2, -1, 0, 1, 2))
# Powers of two, wide enough that the best of no loss is at an end.
_EXPONENTS = {"sgd": range(-10, 9), "adam": range(-14, 2)}
_SEARCH_SEED = 1000


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes of the experiment.

    Attributes:
      regimes: of `many_classifiers.REGIMES`.
      num_seeds: of the comparison, and of the search.
      num_steps: updates of a run.
      exponents: optimiser -> powers of two that are searched.
      losses: of `many_classifiers.LOSSES`.
    """

    regimes: tuple[str, ...]
    num_seeds: int = 8
    num_steps: int = 600
    exponents: dict = dataclasses.field(default_factory=lambda: dict(_EXPONENTS))
    losses: tuple[str, ...] = tuple(LOSSES)

    def settings(self) -> Iterator[Setting]:
        """Every regime with every loss and optimiser."""
        for regime in self.regimes:
            for optimizer in self.exponents:
                for loss in self.losses:
                    yield Setting(loss, optimizer, regime, self.num_steps)

    def grid(self, setting: Setting) -> list[float]:
        """The rates of the search."""
        return [2.0**k for k in self.exponents[setting.optimizer]]

    def run_steps(self, setting: Setting) -> dict[str, int]:
        """Updates over all runs of each stage."""
        runs = {"search": len(self.grid(setting)), "compare": len(MULTIPLES)}
        return {stage: self.num_seeds * n * self.num_steps for stage, n in runs.items()}


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
        """`[R] -> [seeds, M]`."""
        return values.reshape(-1, len(self.rates))


def search(plan: Plan, setting: Setting, data: Dataset, out: pathlib.Path) -> Cell:
    """The cell of the fine grid, trained or read."""
    seeds = [_SEARCH_SEED + i for i in range(plan.num_seeds)]
    return _cell(out, "search", setting, data, seeds, plan.grid(setting))


def compare(plan: Plan, setting: Setting, data: Dataset, out: pathlib.Path, best: float) -> Cell:
    """The cell of the multiples of the best rate, trained or read."""
    rates = [m * best for m in MULTIPLES]
    return _cell(out, "compare", setting, data, list(range(plan.num_seeds)), rates)


def path(out: pathlib.Path, stage: str, setting: Setting) -> pathlib.Path:
    """The file of a cell."""
    words = f"{stage} {setting.regime} {setting.optimizer} {setting.loss}"
    return out / "cells" / (words.replace(" ", "_") + ".npz")


def left(plan: Plan, out: pathlib.Path) -> list[int]:
    """Updates of each cell that is not on disk."""
    return [
        steps
        for setting in plan.settings()
        for stage, steps in plan.run_steps(setting).items()
        if not path(out, stage, setting).exists()
    ]


def estimate(plan: Plan, data: Dataset, out: pathlib.Path) -> float:
    """Minutes for what is left, from a short search in the first setting."""
    todo = left(plan, out)
    if not todo:
        return 0.0
    setting = next(iter(plan.settings()))
    # As many runs at once as in a search, where most of the time goes.
    seeds, rates = list(range(plan.num_seeds)), plan.grid(setting)
    seconds = []
    for num_steps in (20, 120):
        started = time.monotonic()
        train(dataclasses.replace(setting, num_steps=num_steps), data, seeds, rates)
        seconds.append(time.monotonic() - started)
    # Compilation takes as long whatever the number of steps.
    each = max(seconds[1] - seconds[0], 0.01) / (100 * len(seeds) * len(rates))
    return (sum(todo) * each + len(todo) * seconds[0]) / 60


def run(
    plan: Plan, data: Dataset, out: pathlib.Path, poll: Callable | None = None
) -> list[tuple[Cell, Cell]]:
    """Every cell, `(search, comparison)` by setting; those on disk are read."""
    cells = []
    for setting in plan.settings():
        if poll is not None:
            poll()
        found = search(plan, setting, data, out)
        best = stability.best_rate(found.rates, found.by_seed(found.curves.accuracy))
        if poll is not None:
            poll()
        cells.append((found, compare(plan, setting, data, out, best)))
    return cells


def _cell(out, stage, setting, data, seeds, rates):
    settings = [dataclasses.asdict(setting), seeds, rates, data.name]

    def compute():
        curves = train(setting, data, seeds, rates)
        print(f"{stage:<8} {setting.regime:<15} {setting.optimizer:<5} {setting.loss}", flush=True)
        return dataclasses.asdict(curves)

    found = kept.arrays(path(out, stage, setting), settings, compute)
    return Cell(setting, np.array(rates), Curves(**found))
