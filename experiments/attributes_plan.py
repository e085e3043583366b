"""What the experiment on attributes trains, see `rate_search`."""

import dataclasses
from collections.abc import Iterator

from experiments import attributes
from experiments.attributes import Curves, People, Setting
from experiments.rate_search import Task

# Powers of two, wide enough that the best of no loss is at an end.
EXPONENTS = {"sgd": range(-9, 3), "adam": range(-12, -2)}
FLIPPED = (0.0, 0.1, 0.4)
# Guessing is informed by 0; what is informed by less than a tenth has not learned.
CHANCE = 0.05


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


def task(people: People) -> Task:
    """Classifiers of these people's attributes."""
    return Task(
        train=lambda setting, seeds, rates: attributes.train(setting, people, seeds, rates),
        curves=Curves,
        words=lambda s: f"{s.flipped:g} {s.optimizer} {s.loss}".replace(",", ""),
        data=[list(people.x.shape), list(people.heldout_x.shape)],
    )
