"""Markdown of the experiments' reports: tables, and means with their intervals."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from gmm_diffusion.report.comparisons import Comparison
from gmm_diffusion.report.summary import half_width

_STAR = " \\*"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, without a line break at its end."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def mean(values: np.ndarray, digits: int = 3, unit: float = 1.0) -> str:
    """`0.304 ± 0.012`, half of Student's 95 % interval of the mean behind it.

    Args:
      values: `[seeds]`; of fewer than two there is no interval, and of none a dash.
      digits: behind the point.
      unit: that both are multiplied by, 100 for a percentage.
    """
    if not len(values):
        return "-"
    half = half_width(list(values))
    text = f"{unit * np.mean(values):.{digits}f}"
    return text if half is None else f"{text} ± {unit * half:.{digits}f}"


def star(found: Mapping[Any, Comparison], key: Hashable) -> str:
    """What stands behind a cell: a star if it was compared and its difference is no chance."""
    return _STAR if key in found and found[key].differs else ""


def change(comparison: Comparison, digits: int = 3) -> str:
    """`-0.049 ± 0.011 \\*`: a paired difference, with a star where it is more than chance."""
    half = "" if comparison.half is None else f" ± {comparison.half:.{digits}f}"
    return f"{comparison.mean:+.{digits}f}{half}" + (_STAR if comparison.differs else "")
