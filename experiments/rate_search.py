"""Losses at rates of their own: a search for each one's best, and other seeds at multiples of it.

For each setting a *search* over a grid of rates, with seeds of its own, finds the best rate and the
range of rates that do; the *comparison* trains other seeds at five multiples of that rate. Both are
cells on disk: what is there is not trained again.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from experiments import kept, stability

MULTIPLES = tuple(float(10 ** (k / 2)) for k in (-2, -1, 0, 1, 2))
_SEARCH_SEED = 1000
# Updates of the two trainings whose difference is timed.
_TIMED = (10, 60)


class Plan(Protocol):
    """Sizes of an experiment."""

    @property
    def num_seeds(self) -> int:
        """Of the search, and of the comparison."""

    @property
    def num_steps(self) -> int:
        """Updates of a run."""

    def settings(self) -> Iterator[Any]:
        """What is trained: dataclasses of plain values, `num_steps` one of them."""

    def grid(self, setting: Any) -> list[float]:
        """The rates of the search, ascending."""


@dataclasses.dataclass(frozen=True)
class Task:
    """How an experiment trains.

    Attributes:
      train: `(setting, seeds, rates)` -> curves of `seeds x rates` runs, rates running faster.
      curves: the dataclass of arrays that it returns, `accuracy` among them.
      words: a setting in a few words.
      data: what tells the data apart, as JSON.
    """

    train: Callable[[Any, list[int], list[float]], Any]
    curves: type
    words: Callable[[Any], str]
    data: object


@dataclasses.dataclass(frozen=True)
class Cell:
    """One setting's runs.

    Attributes:
      setting: what was trained.
      rates: `[M]`, ascending.
      curves: of `seeds x M` runs, rates running faster.
    """

    setting: Any
    rates: np.ndarray
    curves: Any

    def by_seed(self, values: np.ndarray) -> np.ndarray:
        """`[R, ...] -> [seeds, M, ...]`."""
        return values.reshape(-1, len(self.rates), *values.shape[1:])


def run(
    plan: Plan, task: Task, out: pathlib.Path, poll: Callable | None = None
) -> list[tuple[Cell, Cell]]:
    """Every cell, `(search, comparison)` by setting; those on disk are read."""
    cells = []
    for setting in plan.settings():
        if poll is not None:
            poll()
        seeds = [_SEARCH_SEED + i for i in range(plan.num_seeds)]
        found = _cell(task, out, "search", setting, seeds, plan.grid(setting))
        best = stability.best_rate(found.rates, found.by_seed(found.curves.accuracy))
        if poll is not None:
            poll()
        rates = [m * best for m in MULTIPLES]
        own = list(range(plan.num_seeds))
        cells.append((found, _cell(task, out, "compare", setting, own, rates)))
    return cells


def left(plan: Plan, task: Task, out: pathlib.Path) -> list[int]:
    """Runs of each cell that is not on disk."""
    return [
        plan.num_seeds * number
        for setting in plan.settings()
        for stage, number in (("search", len(plan.grid(setting))), ("compare", len(MULTIPLES)))
        if not _path(task, out, stage, setting).exists()
    ]


def estimate(plan: Plan, task: Task, out: pathlib.Path) -> float:
    """Minutes for what is left, from two short searches in the first setting."""
    todo = left(plan, task, out)
    if not todo:
        return 0.0
    setting = next(iter(plan.settings()))
    # As many runs at once as in a search, where most of the time goes.
    seeds, rates = list(range(plan.num_seeds)), plan.grid(setting)
    seconds = []
    for num_steps in _TIMED:
        started = time.monotonic()
        task.train(dataclasses.replace(setting, num_steps=num_steps), seeds, rates)
        seconds.append(time.monotonic() - started)
    # Compilation takes as long whatever the number of steps.
    updates = (_TIMED[1] - _TIMED[0]) * len(seeds) * len(rates)
    each = max(seconds[1] - seconds[0], 0.01) / updates
    return (sum(todo) * each * plan.num_steps + len(todo) * seconds[0]) / 60


def _path(task, out, stage, setting):
    return out / "cells" / (f"{stage} {task.words(setting)}".replace(" ", "_") + ".npz")


def _cell(task, out, stage, setting, seeds, rates):
    settings = [dataclasses.asdict(setting), seeds, rates, task.data]

    def compute():
        curves = task.train(setting, seeds, rates)
        print(f"{stage:<8} {task.words(setting)}", flush=True)
        return dataclasses.asdict(curves)

    found = kept.arrays(_path(task, out, stage, setting), settings, compute)
    return Cell(setting, np.array(rates), task.curves(**found))
