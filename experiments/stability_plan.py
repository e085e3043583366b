"""What the stability experiment trains, see `rate_search`."""

import dataclasses
from collections.abc import Iterator

from experiments.many_classifiers import LOSSES, Curves, Setting, train
from experiments.rate_search import Task
from gmm_diffusion.data import Dataset

# Powers of two, wide enough that the best of no loss is at an end.
_EXPONENTS = {"sgd": range(-10, 9), "adam": range(-14, 2)}


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


def task(data: Dataset) -> Task:
    """Classifiers of these data."""
    return Task(
        train=lambda setting, seeds, rates: train(setting, data, seeds, rates),
        curves=Curves,
        words=lambda s: f"{s.regime} {s.optimizer} {s.loss}",
        data=data.name,
    )
