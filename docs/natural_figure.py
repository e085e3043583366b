"""Draws docs/natural.png, CIFAR-10 in docs/results.md: python docs/natural_figure.py"""

import pathlib
import re

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

HERE = pathlib.Path(__file__).parent
HEADING = "#### CIFAR-10 at 16 x 16"
# With the ticks of its axis; None where a linear one will do. The Frechet distance of real images
# is left out of the picture: it is 30 times lower than all that is drawn.
METRICS: dict = {"Frechet distance": (4, 6, 10, 16), "defect rate": None, "agreement": None}
UPDATES = (600, 1200, 2400, 4800)
# First words of a row -> colour.
COLORS = {
    "nothing": "#555555",
    "class": "#d9730d",
    "k-means labels": "#8a5fbf",
    "mixture over all images": "#7fb3dd",
    "mixture of each class": "#1f6fb4",
}


def tables() -> list[tuple[dict, dict]]:
    """Of each table with a column updates: row -> [(updates, metric -> value)], metric -> floor."""
    text = (HERE / "results.md").read_text().split(HEADING)[1].split("\n#### ")[0]
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        lines = [line.split("|")[1:-1] for line in block.splitlines()]
        head, _, *rows = [[cell.strip() for cell in line] for line in lines]
        if "updates" not in head:
            continue
        curves: dict = {}
        floors: dict = {}
        for name, updates, *cells in rows:
            values = dict(zip(head[2:], map(number, cells), strict=True))
            if updates:
                curves.setdefault(name, []).append((int(updates.replace(",", "")), values))
            else:
                floors = values
        found.append((curves, floors))
    return found


def number(cell: str) -> float | None:
    """The number that a cell begins with, or None."""
    start = re.match(r"[\d.]+", cell.strip("*"))
    return float(start.group()) if start else None


def draw() -> None:
    """A column for each table, whose judges are its own, and a row for each metric."""
    columns = tables()
    shape, size = (len(METRICS), len(columns)), (4 * len(columns), 8)
    figure, grid = plt.subplots(*shape, figsize=size, sharex=True, sharey="row", squeeze=False)
    for column, (curves, floors) in enumerate(columns):
        for axes, (metric, ticks) in zip(grid[:, column], METRICS.items(), strict=True):
            for name, points in curves.items():
                points = [(x, values[metric]) for x, values in points if values[metric] is not None]
                if len(points) < 2:
                    continue
                color = next(c for start, c in COLORS.items() if name.startswith(start))
                line = "--o" if "seed 1" in name else "-o"
                axes.plot(*zip(*points, strict=True), line, color=color, ms=4)
            axes.set_xscale("log")
            axes.set_xticks(UPDATES, [f"{updates:,}" for updates in UPDATES])
            if ticks:
                axes.set_yscale("log")
                axes.set_yticks(ticks, map(str, ticks))
            else:
                axes.axhline(floors[metric], color="black", lw=0.8, ls=":")
            axes.minorticks_off()
            if not column:
                axes.set_ylabel(metric if ticks else f"{metric}, %")
        grid[0, column].set_title(f"judges {column + 1}", fontsize=10)
        grid[-1, column].set_xlabel("updates")
    lines = [Line2D([], [], color=color, marker="o", ms=4) for color in COLORS.values()]
    lines.append(Line2D([], [], color="black", lw=0.8, ls=":"))
    names = [*COLORS, "held-out images"]
    figure.legend(lines, names, loc="lower center", ncols=3, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(HERE / "natural.png", dpi=90)


if __name__ == "__main__":
    draw()
