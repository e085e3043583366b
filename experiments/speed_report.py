"""The table of the experiment on speed and quality."""

import numpy as np

from experiments import markdown
from experiments.speed import SCORES, TIMES
from gmm_diffusion.report import comparisons

BASELINE = "classes"


def table(found: dict[str, np.ndarray], floor: np.ndarray) -> str:
    """Markdown, of one set of points.

    Args:
      found: condition -> scores `[seeds, TIMES, SCORES]`.
      floor: `[SCORES]` of true points.
    """
    differences = {
        (name, t, s): list(values[:, t, s] - found[BASELINE][:, t, s])
        for name, values in found.items()
        if name != BASELINE and BASELINE in found
        for t in range(len(TIMES))
        for s in range(len(SCORES))
        if np.isfinite(values[:, t, s] - found[BASELINE][:, t, s]).all()
    }
    against = comparisons.compare(differences)
    shown = [
        s for s in range(len(SCORES)) if any(np.isfinite(v[..., s]).any() for v in found.values())
    ]
    rows = []
    for name, values in found.items():
        for t, times in enumerate(TIMES):
            cells = []
            for s in shown:
                star = markdown.star(against, (name, t, s))
                cells.append(_spread(values[:, t, s], s == 0) + star)
            rows.append([name, f"x {times}", *cells])
    last = [f"{100 * floor[s]:.2f} %" if s == 0 else f"{floor[s]:.3f}" for s in shown]
    rows.append(["true points", "", *("-" if "nan" in cell else cell for cell in last)])
    head = ["conditioned on", "updates", *(SCORES[s] for s in shown)]
    return markdown.table(head, rows) + "\n\n" + comparisons.note(against, BASELINE)


def _spread(values, percent):
    if not np.isfinite(values).all():
        return "-"
    return f"{markdown.mean(values, 1, 100)} %" if percent else markdown.mean(values)
