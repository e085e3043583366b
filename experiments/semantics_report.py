"""The tables of the experiment on the meaning of weights."""

import numpy as np

from experiments.semantics import WAYS
from gmm_diffusion.report import comparisons
from gmm_diffusion.report.summary import half_width


def table(kinds: list[str], found: dict[str, np.ndarray]) -> str:
    """Markdown, of one set of points: distances and defects of each way, and the floors.

    Args:
      kinds: names of the rows.
      found: what `semantics.scores` returned, stacked over seeds.
    """
    distance, defects, alike = (found[name] for name in ("distance", "defects", "alike"))
    against = comparisons.compare(
        {
            (row, column): list(distance[:, row, column] - distance[:, row, 0])
            for row in range(len(kinds))
            for column in range(1, len(WAYS))
        }
    )
    rows = []
    for row, kind in enumerate(kinds):
        cells = []
        for column, _ in enumerate(WAYS):
            differs = (row, column) in against and against[row, column].differs
            star = " \\*" if differs else ""
            cells.append(
                f"{_spread(distance[:, row, column])}{star}, "
                f"{100 * defects[:, row, column].mean():.1f} %"
            )
        floor = f"{distance[:, row, -1].mean():.3f}, {100 * defects[:, row, -1].mean():.1f} %"
        rows.append([kind, *cells, floor])
    parts = [_markdown(["asked for", *WAYS, "true points"], rows)]
    parts.append(comparisons.note(against, f"{WAYS[0]!r}"))
    there = [row for row in range(len(kinds)) if np.isfinite(alike[:, row]).all()]
    if there:
        rows = [[kinds[r], *(_spread(alike[:, r, c]) for c in range(len(WAYS)))] for r in there]
        parts.append(_markdown(["points whose own weights are", *WAYS], rows))
    return "\n\n".join(parts)


def _spread(values):
    half = half_width(list(values))
    return f"{values.mean():.3f}" + ("" if half is None else f" ± {half:.3f}")


def _markdown(head, rows):
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)
