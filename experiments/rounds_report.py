"""The tables of the experiment on rounds."""

from collections.abc import Mapping

import numpy as np

from experiments import markdown
from experiments.rounds import rounds_to
from gmm_diffusion.report import comparisons

# Squared MMDs with a kernel of height 1, chosen by what true points and the exact denoiser have.
THRESHOLDS = (1e-2, 3e-3, 1e-3)
# The rounds whose queries are shown.
ASKED = (1, 3, 10)
HEAD = (
    *(f"rounds to MMD {t:g}" for t in THRESHOLDS),
    "MMD one by one, 1e-3",
    "rounds to tolerance",
    *(f"error asked, round {r}" for r in ASKED),
)
_DIGITS = (*(1 for _ in THRESHOLDS), 2, 1, *(3 for _ in ASKED))

# One model's figures, a row a seed.
Figures = np.ndarray


def figures(found: Mapping[str, np.ndarray]) -> np.ndarray:
    """Of one model and seed (`rounds.measure`), the columns of `HEAD`, `[C]`."""
    return np.array(
        [
            *(rounds_to(found["mmd"], t) for t in THRESHOLDS),
            1e3 * found["sequential"],
            found["rounds"],
            *(found["error"][min(r, len(found["error"])) - 1] for r in ASKED),
        ]
    )


def pairs(names: list[str]) -> list[tuple[str, str]]:
    """Which models of one network and weighting are compared: with the loss, and what without."""
    found = [(n, "without" + n.removeprefix("with")) for n in names if n.split(",")[0] == "with"]
    found += [("with", "without, equal compute")] if "with" in names else []
    return [(ours, theirs) for ours, theirs in found if theirs in names]


def tables(
    found: Mapping[tuple[str, str], Mapping[str, Figures]],
    exact: Figures,
    true_points: list[float],
    num_rounds: int,
) -> str:
    """Markdown: all models, and the differences that the loss makes, seed by seed.

    Args:
      found: network and weighting -> model -> `[seeds, C]`.
      exact: `[seeds, C]` of the exact denoiser.
      true_points: squared MMDs of as many true points, one a seed.
      num_rounds: the most; one more stands for none of them.
    """
    rows = [["exact denoiser", "", "", *_cells(exact, num_rounds)]]
    for (network, weighting), models in found.items():
        for name, values in models.items():
            rows.append([network, weighting, name, *_cells(values, num_rounds)])
    floor = f"{1e3 * np.mean(true_points):.2f}"
    rows.append(["true points", "", "", *("", "", "", floor, "", "", "", "")])
    reached = markdown.table(["network", "weighting", "trained", *HEAD], rows)

    every = {
        (*kind, *pair, c): list(difference[:, c])
        for kind, models in found.items()
        for pair in pairs(list(models))
        for difference in [models[pair[0]] - models[pair[1]]]
        for c in range(len(HEAD))
        if np.isfinite(difference[:, c]).all()
    }
    against = comparisons.compare(every)
    rows = []
    for kind, models in found.items():
        for pair in pairs(list(models)):
            cells = []
            for c in range(len(HEAD)):
                if (*kind, *pair, c) not in against:
                    cells.append("-")
                    continue
                one = against[*kind, *pair, c]
                cells.append(markdown.change(one, _DIGITS[c]))
            rows.append([*kind, f"{pair[0]} - {pair[1]}", *cells])
    changed = markdown.table(["network", "weighting", "difference", *HEAD], rows)
    note = comparisons.note(against, "without the loss") if every else ""
    none = f"More than {num_rounds} rounds count as {num_rounds + 1}."
    return "\n\n".join([reached, changed, f"{none} {note}".rstrip()])


def _cells(values, num_rounds):
    cells = []
    for c, column in enumerate(values.T):
        if not np.isfinite(column).all():
            cells.append("-")
            continue
        if c < len(THRESHOLDS) and (column > num_rounds).all():
            cells.append(f"> {num_rounds}")
            continue
        cells.append(markdown.mean(column, _DIGITS[c]))
    return cells
