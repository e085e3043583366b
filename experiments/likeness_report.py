"""The tables of the experiment on NGMG's likeness to W1."""

import numpy as np

from experiments import likeness, markdown
from gmm_diffusion.report import comparisons


def tables(found: dict[likeness.Problem, np.ndarray], cases: dict[str, np.ndarray]) -> str:
    """Markdown: rank correlations by change and by dimension, and where the order must differ.

    Args:
      found: of each problem what `likeness.measure` returned, the same seeds in all.
      cases: from `likeness.opposite_pairs`.
    """
    by_problem = {p: likeness.correlations(values) for p, values in found.items()}
    return "\n\n".join([_by_change(by_problem), _by_problem(by_problem), _cases(cases)]) + "\n"


def _by_change(by_problem):
    """Means over shapes and dimensions, and how each cost differs from NGMG on all together."""
    costs = likeness.COSTS[1:]
    within = np.mean([w for w, _ in by_problem.values()], axis=0)[..., 1:]
    together = np.mean([t for _, t in by_problem.values()], axis=0)[:, 1:]
    rows = [
        [change, *(markdown.mean(within[:, c, i]) for i in range(len(costs)))]
        for c, change in enumerate(likeness.CHANGES)
    ]
    others = {name: together[:, i] - together[:, 0] for i, name in enumerate(costs) if i}
    against = comparisons.compare(others)
    last = [
        markdown.mean(together[:, i]) + markdown.star(against, name) for i, name in enumerate(costs)
    ]
    rows.append(["all changes together", *last])
    note = comparisons.note(against, f"{costs[0]}'s")
    return markdown.table(["change", *costs], rows) + "\n\n" + note


def _by_problem(by_problem):
    rows = [
        [p.shape, str(p.dim), *map(markdown.mean, together.T[1:])]
        for p, (_, together) in by_problem.items()
    ]
    return markdown.table(["shape", "dimensions", *likeness.COSTS[1:]], rows)


def _cases(cases):
    rows = [[name, *(f"{value:.3g}" for value in values)] for name, values in cases.items()]
    return markdown.table(["distribution", *likeness.COSTS], rows)
