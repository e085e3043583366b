"""Pictures of a metric over settings: curves with bands, bars, heat maps."""

import pathlib
from collections.abc import Callable

import numpy as np

# No pyplot: its state is global.
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gmm_diffusion.report.summary import Group
from gmm_diffusion.report.table import COSTS, short_names, show


def curves(
    groups: list[Group], fields: list[str], metric: str, x: str, changes: bool = False
) -> Figure:
    """The metric against the setting `x`, one line for each combination of the other fields.

    The band is the interval of the mean; dashed is real held-out data, or of `changes` none.
    """
    at = fields.index(x)
    figure, axes = _figure(_axis(metric, changes))
    axes.set_xlabel(x)
    lines: dict[str, list[Group]] = {}
    for group in groups:
        lines.setdefault(_label(group, fields, {at}), []).append(group)
    numeric = all(_is_number(group.key[at]) for group in groups)
    ticks = list(dict.fromkeys(show(group.key[at]) for group in groups))
    for number, (label, members) in enumerate(lines.items()):
        place = [g.key[at] if numeric else ticks.index(show(g.key[at])) for g in members]
        mean = np.array([g.metrics[metric].mean for g in members])
        half = np.array([g.metrics[metric].half or 0.0 for g in members])
        colour = f"C{number % 10}"
        axes.plot(place, mean, "o-", markersize=4, color=colour, label=label or None)
        if len(members) == 1:  # A band of no width would not be seen.
            axes.errorbar(place, mean, half, color=colour, capsize=3, fmt="none")
        axes.fill_between(place, mean - half, mean + half, color=colour, alpha=0.2, linewidth=0)
    if not numeric:
        axes.set_xticks(range(len(ticks)), ticks)
    _floor(axes.axhline, groups, metric, changes)
    axes.legend(title=_title(fields, {at}), fontsize="small")
    return figure


def bars(groups: list[Group], fields: list[str], metric: str, changes: bool = False) -> Figure:
    """One bar a group, with the interval of its mean; dashed is as in `curves`."""
    figure, axes = _figure(metric, height=1.5 + 0.35 * len(groups), name_axis=False)
    axes.set_xlabel(_axis(metric, changes))
    axes.set_title(_title(fields, set()), fontsize="medium")
    means = [group.metrics[metric].mean for group in groups]
    halves = [group.metrics[metric].half or 0.0 for group in groups]
    axes.barh(range(len(groups)), means, xerr=halves, color="C0", capsize=3)
    names = [_label(group, fields, set()) or "the run" for group in groups]
    axes.set_yticks(range(len(groups)), names)
    axes.invert_yaxis()
    _floor(axes.axvline, groups, metric, changes)
    axes.legend(fontsize="small")
    return figure


def heatmap(groups: list[Group], fields: list[str], metric: str, pair: list[str]) -> Figure:
    """The metric over two settings, `pair[0]` to the right; a panel for each of the others."""
    right, up = (fields.index(field) for field in pair)
    panels: dict[str, list[Group]] = {}
    for group in groups:
        panels.setdefault(_label(group, fields, {right, up}), []).append(group)
    columns, rows = ([*dict.fromkeys(show(g.key[at]) for g in groups)] for at in (right, up))
    columns, rows = (sorted(names, key=_number_or_text) for names in (columns, rows))
    width = (2.0 + 0.7 * len(columns)) * len(panels)
    figure = Figure(figsize=(max(width, 4.0), 1.8 + 0.5 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    means = [group.metrics[metric].mean for group in groups]
    low, high = min(means), max(means)
    for axes, (label, members) in zip(all_axes, panels.items(), strict=True):
        image = np.full((len(rows), len(columns)), np.nan)
        for g in members:
            at = rows.index(show(g.key[up])), columns.index(show(g.key[right]))
            image[at] = g.metrics[metric].mean
        heat = axes.imshow(image, origin="lower", aspect="auto", vmin=low, vmax=high)
        for (row, column), value in np.ndenumerate(image):
            if np.isfinite(value):
                dark = value < (low + high) / 2
                colour = "white" if dark else "black"
                axes.text(
                    column, row, f"{value:.3g}", ha="center", va="center", color=colour, fontsize=8
                )
        axes.set(xlabel=pair[0], ylabel=pair[1], title=label)
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows)
    figure.colorbar(heat, ax=all_axes.tolist(), label=metric)
    return figure


def save(figure: Figure, path: pathlib.Path) -> None:
    """Writes a PNG."""
    figure.savefig(path, format="png", dpi=120)


def _figure(metric, height=4.5, name_axis=True):
    figure = Figure(figsize=(7, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if name_axis:
        axes.set_ylabel(metric)
    return figure, axes


def _axis(metric, changes):
    return f"change of {metric}" if changes else metric


def _floor(line: Callable, groups, metric, changes):
    name = "one step after another" if metric in COSTS else "real held-out data"
    floors = list(dict.fromkeys(group.metrics[metric].floor for group in groups))
    if changes:
        name, floors = "no change", [0.0]
    for i, floor in enumerate(floors):
        label = name if i == 0 else None
        line(floor, linestyle="--", color="0.5", linewidth=1, zorder=0, label=label)


def _label(group, fields, left_out):
    """The values of a group's settings, but those at the positions `left_out`."""
    return ", ".join(show(v) for i, v in enumerate(group.key) if i not in left_out)


def _title(fields, left_out):
    names = short_names(fields)
    return ", ".join(name for i, name in enumerate(names) if i not in left_out)


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number_or_text(text):
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)
