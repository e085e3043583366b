"""The tables of which components of the tree are occupied, and how widely."""

from collections.abc import Mapping

import numpy as np

from experiments import markdown
from gmm_diffusion.report import comparisons

BASELINE = "no guidance"
# Title, name of the array and its entry, and how it is shown.
COLUMNS = (
    ("outliers, %", "outliers", (), 100, 1),
    ("components empty", "empty", (), 1, 0),
    ("X2 / df, components", "components", (), 1, 2),
    ("X2 / df, depths", "depths", (), 1, 1),
    ("variance along", "spread", (0,), 1, 3),
    ("variance across", "spread", (1,), 1, 3),
)


def tables(found: Mapping[str, Mapping[str, np.ndarray]], expected: np.ndarray) -> str:
    """Markdown: the scores of each way of sampling, and the mass at each depth.

    Args:
      found: name -> what `occupancy.measure` names, with the seeds in front. Those that come after
        `BASELINE` are compared with it.
      expected: `[depths]`, true shares.
    """
    values = {
        row: {title: arrays[name][(..., *at)] for title, name, at, _, _ in COLUMNS}
        for row, arrays in found.items()
    }
    names = list(found)
    later = names[names.index(BASELINE) + 1 :] if BASELINE in names else []
    compared = comparisons.compare(
        {
            (row, title): list(values[row][title] - values[BASELINE][title])
            for row in later
            for title, *_ in COLUMNS
        }
    )
    rows = []
    for row, own in values.items():
        cells = []
        for title, _, _, unit, digits in COLUMNS:
            star = markdown.star(compared, (row, title))
            cells.append(markdown.mean(own[title], digits, unit) + star)
        rows.append([row, *cells])
    head = ["samples", *(title for title, *_ in COLUMNS)]
    depths = [["the law", *(f"{100 * share:.2f}" for share in expected)]]
    for row, arrays in found.items():
        mass = arrays["mass"]
        depths.append([row, *(markdown.mean(mass[:, d], 2, 100) for d in range(len(expected)))])
    below = ["mass, %", *(f"depth {d + 1}" for d in range(len(expected)))]
    note = comparisons.note(compared, BASELINE)
    return "\n\n".join([markdown.table(head, rows), note, markdown.table(below, depths)])
