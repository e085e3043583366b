"""The tables and the figure of the stability experiment."""

import dataclasses
import pathlib

import numpy as np

from experiments import markdown, stability
from experiments.rate_search import MULTIPLES, Cell
from gmm_diffusion.report import comparisons
from gmm_diffusion.report.summary import half_width

_REFERENCE = "cross-entropy"
_COLOURS = {"ngmg": "tab:blue", "ngmg log": "tab:cyan", "cross-entropy": "tab:orange"}


def tables(cells: list[tuple[Cell, Cell]], chance: float) -> str:
    """Markdown: the losses, each form of NGMG beside cross-entropy, every rate, raw gradients.

    Numbers are means over seeds ± half of Student's 95 % interval. Differences from cross-entropy
    are paired by seed, and a star marks those that are more than chance with all of a table counted
    (Holm). Side by side are the multiples of the best rate at which no seed of either loss
    diverged; their means are compared. Of every rate, those of gradients and spikes are of the runs
    that did not diverge.
    """
    parts = [_summary(cells, chance), _side_by_side(cells, chance)]
    parts += [_by_rate(cells, chance), _raw(cells, chance)]
    return "\n\n".join(parts) + "\n"


def _summary(cells, chance):
    head = [
        "regime",
        "optimiser",
        "loss",
        "best rate",
        "range of rates, powers of ten",
        "best accuracy",
        "diverged",
    ]
    reached = {found.setting: _reached(found) for found, _ in cells}
    against = comparisons.compare(
        {
            (setting, column): list(ours - theirs)
            for setting, values in reached.items()
            if (other := _reference(setting)) in reached and other != setting
            for column, (ours, theirs) in enumerate(zip(values, reached[other], strict=True))
        }
    )
    rows = []
    for found, compared in cells:
        diverged = stability.measure(compared.curves, chance).diverged
        ours = reached[found.setting]
        widths, at_best = (
            _spread(ours[i], digits) + markdown.star(against, (found.setting, i))
            for i, digits in enumerate((2, 3))
        )
        rows.append(
            [
                *_names(compared),
                f"{stability.best_rate(found.rates, found.by_seed(found.curves.accuracy)):.2g}",
                widths,
                at_best,
                f"{diverged.sum()} of {diverged.size}",
            ]
        )
    return _compared(head, rows, against)


def _reached(found):
    """Of each seed the range of rates and the accuracy at the best one."""
    accuracy = found.by_seed(found.curves.accuracy)
    widths = stability.width_of_range(found.rates, accuracy)
    return widths, accuracy[:, accuracy.mean(axis=0).argmax()]


def _side_by_side(cells, chance):
    head = ["regime", "optimiser", "form", "times the best rate"]
    for name in ("gradient variation", "largest / median", "spikes, %"):
        head += [f"{name}: ngmg", _REFERENCE]
    by_setting = {compared.setting: compared for _, compared in cells}
    rows, means = [], {}
    for setting, ours in by_setting.items():
        other = by_setting.get(_reference(setting))
        if other is None or other is ours:
            continue
        both = [stability.measure(cell.curves, chance) for cell in (ours, other)]
        # A gradient that vanished has no measures.
        lost = [ours.by_seed(m.diverged | np.isnan(m.largest)) for m in both]
        shared = np.flatnonzero(stability.shared_multiples(*lost))
        if not shared.size:
            rows.append([*_names(ours), "none", *["-"] * 6])
            continue
        pairs = zip(*((m.variation, m.largest, 100 * m.spikes) for m in both), strict=True)
        values = [ours.by_seed(v)[:, shared] for pair in pairs for v in pair]
        for column, multiple in enumerate(shared):
            numbers = [_spread(v[:, column], 2) for v in values]
            rows.append([*_names(ours), f"{MULTIPLES[multiple]:.2g}", *numbers])
        means[len(rows)] = [v.mean(axis=1) for v in values]
        rows.append([*_names(ours), "mean", *(_spread(v, 2) for v in means[len(rows)])])
    against = comparisons.compare(
        {
            (row, column): list(values[column] - values[column + 1])
            for row, values in means.items()
            for column in range(0, len(values), 2)
        }
    )
    for at in against:
        rows[at[0]][4 + at[1]] += markdown.star(against, at)
    return _compared(head, rows, against)


def _by_rate(cells, chance):
    head = ["regime", "optimiser", "loss", "times the best rate"]
    head += ["accuracy", "diverged", "gradient variation", "largest / median", "spikes, %"]
    rows = []
    for _, compared in cells:
        m = stability.measure(compared.curves, chance)
        for i, multiple in enumerate(MULTIPLES):
            column = [
                compared.by_seed(v)[:, i]
                for v in (m.accuracy, m.diverged, m.variation, m.largest, 100 * m.spikes)
            ]
            sound = ~column[1]
            rows.append(
                [
                    *_names(compared),
                    f"{multiple:.2g}",
                    _spread(column[0], 3),
                    f"{column[1].sum()} of {len(column[1])}",
                    *(_spread(values[sound], 2) for values in column[2:]),
                ]
            )
    return markdown.table(head, rows)


def _raw(cells, chance):
    head = ["regime", "optimiser", "loss", "times the best rate", "mean norm", "largest norm"]
    rows = []
    for _, compared in cells:
        m = stability.measure(compared.curves, chance)
        for i, multiple in enumerate(MULTIPLES):
            sound = ~compared.by_seed(m.diverged)[:, i]
            values = [compared.by_seed(v)[sound, i] for v in (m.raw_mean, m.raw_largest)]
            rows.append(
                [*_names(compared), f"{multiple:.2g}", *(f"{_mean(v):.3g}" for v in values)]
            )
    return markdown.table(head, rows)


def figure(cells: list[tuple[Cell, Cell]], chance: float, regime: str, file: pathlib.Path) -> None:
    """Accuracy over the rates, and how stable the multiples of the best are, for one regime."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    chosen = [pair for pair in cells if pair[0].setting.regime == regime]
    optimizers = list(dict.fromkeys(found.setting.optimizer for found, _ in chosen))
    fig, axes = plt.subplots(len(optimizers), 4, figsize=(15, 3.2 * len(optimizers)), squeeze=False)
    for row, optimizer in zip(axes, optimizers, strict=True):
        for found, compared in chosen:
            if found.setting.optimizer != optimizer:
                continue
            name = found.setting.loss
            style = {"color": _COLOURS[name], "marker": "o", "markersize": 3, "label": name}
            accuracy = found.by_seed(found.curves.accuracy)
            best = stability.best_rate(found.rates, accuracy)
            _band(row[0], found.rates / best, accuracy, style)
            m = stability.measure(compared.curves, chance)
            diverged = compared.by_seed(m.diverged)
            row[1].plot(MULTIPLES, diverged.mean(axis=0), **style)
            survived = stability.shared_multiples(diverged)
            for axis, values in zip(row[2:], (m.variation, m.largest), strict=True):
                _band(axis, MULTIPLES, np.where(survived, compared.by_seed(values), np.nan), style)
        titles = ("accuracy, held out", "share of runs diverged", "gradient variation")
        for axis, title in zip(row, (*titles, "largest gradient / median"), strict=True):
            axis.set(xscale="log", title=f"{optimizer}: {title}", xlabel="rate / own best rate")
            axis.grid(alpha=0.3)
        row[3].set_yscale("log")
        row[0].legend()
    fig.tight_layout()
    fig.savefig(file, dpi=90)
    plt.close(fig)


def _band(axis, x, values, style):
    """Mean over seeds and Student's 95 % interval."""
    there = [column[np.isfinite(column)] for column in values.T]
    mean = np.array([_mean(column) for column in there])
    half = np.array([half_width(list(column)) or 0.0 for column in there])
    axis.plot(x, mean, **style)
    axis.fill_between(x, mean - half, mean + half, color=style["color"], alpha=0.15)


def _reference(setting):
    return dataclasses.replace(setting, loss=_REFERENCE)


def _compared(head, rows, against):
    """A table, and below it how many of its differences are tested."""
    return markdown.table(head, rows) + "\n\n" + comparisons.note(against, _REFERENCE)


def _names(cell):
    setting = cell.setting
    return [setting.regime, setting.optimizer, setting.loss]


def _mean(values):
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")


def _spread(values, digits):
    return markdown.mean(values[np.isfinite(values)], digits)
