"""The tables of the experiment on attributes."""

import numpy as np

from experiments import attributes, markdown, stability
from experiments.attributes_plan import CHANCE
from experiments.rate_search import MULTIPLES, Cell
from gmm_diffusion.report import comparisons

BASELINE = "BCE, logits"
_AT_BEST = MULTIPLES.index(1.0)


def tables(cells: list[tuple[Cell, Cell]]) -> str:
    """Markdown: the losses, every multiple of the best rate, and attributes by how rare they are.

    A balanced accuracy is the mean of sensitivity and specificity, mean over attributes; means over
    seeds ± half of Student's 95 % interval.
    """
    return "\n\n".join([_losses(cells), _multiples(cells), _by_frequency(cells)]) + "\n"


def balanced(informed: np.ndarray) -> np.ndarray:
    """Mean of sensitivity and specificity, from their sum less 1."""
    return (1 + informed) / 2


def matched(compared: list[Cell]) -> tuple[float, list[np.ndarray]]:
    """What is read of held-out people when all losses have fitted the training labels alike.

    The level is the lowest that any seed of a loss ends with at the loss's own best rate; losses of
    which a seed failed there do not count.

    Args:
      compared: cells of one optimiser and share of wrong labels.

    Returns:
      The level, a balanced accuracy (NaN where every loss failed), and for each cell the held-out
      balanced accuracy of each seed where it is first reached, between two checks on a line, the
      start a guess; NaN where it is not.
    """
    fitted = [balanced(c.by_seed(c.curves.fitted)[:, _AT_BEST]) for c in compared]
    heldout = [balanced(c.by_seed(c.curves.informed)[:, _AT_BEST].mean(axis=-1)) for c in compared]
    sound = [h[:, -1].min() >= balanced(np.array(2 * CHANCE)) for h in heldout]
    level = min((f[:, -1].min() for f, s in zip(fitted, sound, strict=True) if s), default=np.nan)
    pairs = zip(fitted, heldout, strict=True)
    return float(level), [
        np.array([_at_level(level, *curves) for curves in zip(f, h, strict=True)]) for f, h in pairs
    ]


def _at_level(level, fitted, heldout):
    there = np.flatnonzero(fitted >= level - 1e-9)
    if not there.size:
        return np.nan
    i = there[0]
    before = (fitted[i - 1], heldout[i - 1]) if i else (0.5, 0.5)
    way = min((level - before[0]) / (fitted[i] - before[0]), 1.0) if fitted[i] > before[0] else 1.0
    return before[1] + way * (heldout[i] - before[1])


def _groups(cells):
    """(flipped, optimiser) -> cells."""
    groups: dict[tuple, list] = {}
    for pair in cells:
        setting = pair[1].setting
        groups.setdefault((setting.flipped, setting.optimizer), []).append(pair)
    return groups


def _at_best(cell):
    return balanced(cell.by_seed(cell.curves.accuracy)[:, _AT_BEST])


def _losses(cells):
    groups = _groups(cells)
    differences = {}
    for key, pairs in groups.items():
        named = {c.setting.loss: _at_best(c) for _, c in pairs}
        if BASELINE in named:
            base = named[BASELINE]
            differences |= {(*key, n): list(v - base) for n, v in named.items() if n != BASELINE}
    against = comparisons.compare(differences)
    rows = []
    for key, pairs in groups.items():
        level, at_level = matched([c for _, c in pairs])
        for (found, compared), same in zip(pairs, at_level, strict=True):
            accuracy = found.by_seed(found.curves.accuracy)
            m = stability.measure(compared.curves, CHANCE)
            change = against.get((*key, compared.setting.loss))
            variation = compared.by_seed(m.variation)[:, _AT_BEST]
            rows.append(
                [
                    f"{100 * key[0]:g} %",
                    key[1],
                    compared.setting.loss,
                    f"{stability.best_rate(found.rates, accuracy):.2g}",
                    markdown.mean(stability.width_of_range(found.rates, accuracy), 2),
                    f"{_at_best(compared).mean():.3f}",
                    markdown.change(change) if change else "-",
                    f"{m.diverged.sum()} of {m.diverged.size}",
                    f"{markdown.mean(same)} at {level:.3f}" if np.isfinite(same).all() else "-",
                    markdown.mean(variation[np.isfinite(variation)], 2),
                ]
            )
    head = ["wrong labels", "optimiser", "loss", "best rate"]
    head += ["range of rates (95 % of sensitivity + specificity - 1), powers of ten"]
    head += ["balanced accuracy", f"change from {BASELINE}", "failed"]
    head += ["held-out at a matched fit", "gradient variation"]
    return markdown.table(head, rows) + "\n\n" + comparisons.note(against, BASELINE)


def _multiples(cells):
    rows = []
    for _, compared in cells:
        s = compared.setting
        accuracy = balanced(compared.by_seed(compared.curves.accuracy))
        means = [f"{accuracy[:, i].mean():.3f}" for i in range(len(MULTIPLES))]
        rows.append([f"{100 * s.flipped:g} %", s.optimizer, s.loss, *means])
    head = ["wrong labels", "optimiser", "loss", *(f"{m:.2g}" for m in MULTIPLES)]
    return markdown.table(head, rows)


def _by_frequency(cells):
    order = np.argsort(attributes.frequencies())[::-1]
    rows = []
    for _, compared in cells:
        s = compared.setting
        final = balanced(compared.by_seed(compared.curves.informed)[:, _AT_BEST, -1])
        values = [f"{final[:, i].mean():.3f}" for i in order]
        rows.append([f"{100 * s.flipped:g} %", s.optimizer, s.loss, *values])
    shares = [f"{100 * attributes.frequencies()[i]:.2g} %" for i in order]
    return markdown.table(["wrong labels", "optimiser", "loss", *shares], rows)
