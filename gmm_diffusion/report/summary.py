"""Means and confidence intervals of metrics over training seeds; plain functions of numbers."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from gmm_diffusion.errors import InputError
from gmm_diffusion.report.results import SEED, Result

LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Summary:
    """One metric of one group of results.

    Attributes:
      mean: over training seeds.
      half: half the width of the interval, or None.
      over: what the interval is over: "seeds", "blocks" or "".
      floor: real held-out data scored the same way.
      values: one a seed, in the order of the seeds.
    """

    mean: float
    half: float | None
    over: str
    floor: float
    values: tuple[float, ...]

    @property
    def seeds(self) -> int:
        """How many."""
        return len(self.values)


@dataclasses.dataclass(frozen=True)
class Group:
    """Results that differ in their training seed only.

    Attributes:
      key: the values of the fields that tell groups apart, in their order.
      metrics: name -> summary.
    """

    key: tuple
    metrics: dict[str, Summary]


def half_width(values: Sequence[float], level: float = LEVEL) -> float | None:
    """Half of Student's interval of the mean of independent values; None of fewer than two."""
    n = len(values)
    if n < 2:
        return None
    quantile = stdtrit(n - 1, 0.5 + level / 2)
    return float(quantile * np.std(values, ddof=1) / math.sqrt(n))


def summarise(values: Sequence[float], blocks: Sequence[float], floor: float) -> Summary:
    """A metric from its values, one a seed, and from the blocks of a single one.

    The blocks of one model say how well it was measured, and nothing of other trainings: they are
    used where there is only one seed.
    """
    if len(values) > 1:
        half, over = half_width(values), "seeds"
    else:
        half = half_width(blocks)
        over = "" if half is None else "blocks"
    return Summary(float(np.mean(values)), half, over, floor, tuple(map(float, values)))


def group(results: list[Result], fields: list[str], others: list[str]) -> list[Group]:
    """Groups by `fields`, ordered by their values.

    Args:
      results: of any number of runs.
      fields: settings that tell groups apart.
      others: settings that must not differ within a group.

    Raises:
      InputError: if one of them does.
    """
    found: dict[str, list[Result]] = {}
    keys = {}
    for result in results:
        key = tuple(result.settings.get(field) for field in fields)
        found.setdefault(str(key), []).append(result)
        keys[str(key)] = key
    groups = []
    for text, members in found.items():
        for field in others:
            values = sorted({str(member.settings.get(field)) for member in members})
            if len(values) > 1:
                raise InputError(
                    f"Runs that would be averaged differ in {field} ({', '.join(values)}); "
                    f"add --by {field}, or choose with --where {field}=VALUE."
                )
        groups.append(Group(keys[text], _summaries(members)))
    return sorted(groups, key=lambda group: [_order(value) for value in group.key])


def _summaries(members):
    names = dict.fromkeys(name for member in members for name in member.metrics)
    summaries = {}
    for name in names:
        having = [member for member in members if name in member.metrics]
        by_seed: dict[int, list[dict]] = {}
        for member in having:
            by_seed.setdefault(member.settings[SEED], []).append(member.metrics[name])
        values = [np.mean([m["value"] for m in by_seed[seed]]) for seed in sorted(by_seed)]
        # Repeated evaluations of one run share their seeds: they are no further blocks.
        blocks = having[0].metrics[name]["blocks"]
        floor = float(np.mean([member.metrics[name]["floor"] for member in having]))
        summaries[name] = summarise(values, blocks, floor)
    return summaries


def _order(value):
    """Numbers by size, then everything else as text."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, value, "") if is_number else (1, 0, str(value))
