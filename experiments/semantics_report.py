"""The tables of the experiment on the meaning of weights."""

import numpy as np

from experiments import markdown
from experiments.semantics import WAYS
from gmm_diffusion.report import comparisons


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
            own = markdown.mean(distance[:, row, column])
            star = markdown.star(against, (row, column))
            cells.append(f"{own}{star}, {100 * defects[:, row, column].mean():.1f} %")
        floor = f"{distance[:, row, -1].mean():.3f}, {100 * defects[:, row, -1].mean():.1f} %"
        rows.append([kind, *cells, floor])
    parts = [markdown.table(["asked for", *WAYS, "true points"], rows)]
    parts.append(comparisons.note(against, f"{WAYS[0]!r}"))
    there = [row for row in range(len(kinds)) if np.isfinite(alike[:, row]).all()]
    if there:
        rows = [[kinds[row], *map(markdown.mean, alike[:, row].T)] for row in there]
        parts.append(markdown.table(["points whose own weights are", *WAYS], rows))
    return "\n\n".join(parts)
