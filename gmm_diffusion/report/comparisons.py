"""Which of many paired differences are more than chance; plain functions of numbers.

One rule for every table: a difference is taken seed by seed, its interval and its test are
Student's, and where a table holds several the 5 % are those of all of them together (Holm 1979).
"""

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtr

from gmm_diffusion.errors import InputError
from gmm_diffusion.report.summary import LEVEL, half_width


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One paired difference among those of a table.

    Attributes:
      mean: of the differences.
      half: half of Student's interval, by itself; None of fewer than two pairs.
      adjusted: Holm's p value, that of the test after all comparisons of the table are counted;
        None of fewer than two pairs, which are no test.
    """

    mean: float
    half: float | None
    adjusted: float | None

    @property
    def differs(self) -> bool:
        """Whether it is more than chance at 1 - `summary.LEVEL`, all comparisons counted."""
        return self.adjusted is not None and self.adjusted < 1 - LEVEL


def paired_p(differences: Sequence[float]) -> float | None:
    """Two-sided p value of Student's test that paired differences have mean 0.

    None of fewer than two. Of differences without any spread it is 0, or 1 where all are 0.

    Raises:
      InputError: a difference that is not finite.
    """
    values = np.asarray(differences, np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"differences hold {values[~np.isfinite(values)][0]}; valid are finite.")
    if len(values) < 2:
        return None
    spread = values.std(ddof=1) / math.sqrt(len(values))
    if spread == 0:
        return float(values[0] == 0)
    return float(2 * stdtr(len(values) - 1, -abs(values.mean()) / spread))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p values (Scand. J. Statist. 6, 1979, p. 65), `[M]` in the given order.

    Rejecting those below a level keeps the chance of any false one below it, however they depend.

    Raises:
      InputError: a value outside [0, 1].
    """
    p = np.asarray(p_values, np.float64)
    bad = ~((p >= 0) & (p <= 1))
    if bad.any():
        raise InputError(f"p_values hold {p[bad][0]:g}; valid are numbers from 0 to 1.")
    order = np.argsort(p, kind="stable")
    steps = np.minimum(p[order] * (len(p) - np.arange(len(p))), 1.0)
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(steps)
    return adjusted


def compare(differences: Mapping[Any, Sequence[float]]) -> dict[Hashable, Comparison]:
    """All comparisons of a table.

    Args:
      differences: name -> paired differences, one a seed.

    Returns:
      The comparisons by name; those of fewer than two pairs do not count among the others.
    """
    raw = {name: paired_p(values) for name, values in differences.items()}
    tested = {name: p for name, p in raw.items() if p is not None}
    adjusted = dict(zip(tested, map(float, holm(list(tested.values()))), strict=True))
    return {
        name: Comparison(float(np.mean(values)), half_width(values), adjusted.get(name))
        for name, values in differences.items()
    }


def note(found: Mapping[Any, Comparison], baseline: str = "") -> str:
    """What stands below a table of such comparisons."""
    tested = sum(comparison.adjusted is not None for comparison in found.values())
    if not tested:
        return "No difference is tested: that needs two seeds at least."
    against = f" from {baseline}" if baseline else ""
    number = "1 comparison" if tested == 1 else f"{tested} comparisons"
    return (
        f"{number}, paired by seed; \\* marks a difference{against} that is more than chance at "
        f"{100 * (1 - LEVEL):.0f} % with all of them counted (Student's test, Holm's correction)."
    )
