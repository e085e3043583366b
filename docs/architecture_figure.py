"""Draws docs/architecture.png: python docs/architecture_figure.py"""

import pathlib

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

# What flows -> colour.
COLORS = {"x": "#555555", "weights": "#1f6fb4", "sigma": "#d9730d", "params": "#2a8a3e"}
SIZE = (1.62, 0.74)
# Name -> centre, first line, further lines.
BOXES = {
    "config": ((0, 1), "config", "every setting, checked"),
    "data": ((0, 2), "data", "x [N, ...], classes,\nattributes"),
    "fitted": (
        (2.1, 1),
        "fitted statistics",
        "centring, sigma_data, noise\nlaw, mixture, embedding",
    ),
    "weights": ((2.1, 2), "weights of examples", "w(x) [N, K] -> what the\nsemantics draws"),
    "cond": ((4.2, 2), "condition", "embedding of w [B, F],\nor null"),
    "loss": ((6.3, 2), "loss", "D(x + sigma eps; sigma,\ncond) against x"),
    "levels": ((4.75, 1), "noise levels", "a law [B], a grid [S+1]"),
    "step": ((8.4, 2), "train step", "update, averages"),
    "run": ((8.4, 1), "run directory", "config, statistics, params,\naverages, snapshots"),
    "request": ((0, 0), "request", '"class:7", a blend, ...'),
    "asked": ((2.1, 0), "weights asked for", "w [N, K]"),
    "cond2": ((4.2, 0), "condition", "embedding of w [B, F]"),
    "sampler": ((6.3, 0), "sampler", "guided D, from\nsigmas[0] to 0"),
    "file": ((8.4, 0), "sample file", "x, weights, label,\nattributes"),
}
# From, to, what flows, label, place of the label.
ARROWS = [
    ("data", "weights", "x", "", None),
    ("config", "fitted", "x", "", None),
    ("data", "fitted", "x", "", None),
    ("fitted", "weights", "weights", "mixture", (2.15, 1.5)),
    ("fitted", "asked", "weights", "mixture", (2.15, 0.5)),
    ("weights", "cond", "weights", "", None),
    ("cond", "loss", "weights", "", None),
    ("request", "asked", "weights", "", None),
    ("asked", "cond2", "weights", "", None),
    ("cond2", "sampler", "weights", "", None),
    ("fitted", "levels", "sigma", "law", (3.4, 1.08)),
    ("levels", "loss", "sigma", "sigma [B]", (5.72, 1.46)),
    ("levels", "sampler", "sigma", "sigmas [S+1]", (5.74, 0.52)),
    ("loss", "step", "params", "gradient", (7.13, 2.08)),
    ("step", "run", "params", "params", (8.45, 1.5)),
    ("run", "sampler", "params", "one average", (7.42, 0.42)),
    ("sampler", "file", "x", "", None),
]


def edge(start, end):
    """Where the line from one box's centre to another's leaves the first."""
    (x, y), (u, v) = BOXES[start][0], BOXES[end][0]
    dx, dy = u - x, v - y
    scale = min(SIZE[0] / 2 / abs(dx) if dx else 9, SIZE[1] / 2 / abs(dy) if dy else 9)
    return x + scale * dx, y + scale * dy


def arrow(axes, start, end, flow):
    """An arrow from one place to another, in the colour of what flows."""
    style = {"arrowstyle": "-|>", "color": COLORS[flow], "linewidth": 1.5}
    axes.annotate("", end, start, arrowprops=style | {"shrinkA": 0, "shrinkB": 0})


def main():
    """Draws all boxes and arrows."""
    figure, axes = plt.subplots(figsize=(11.2, 3.9), layout="constrained")
    for (x, y), title, text in BOXES.values():
        corner = (x - SIZE[0] / 2, y - SIZE[1] / 2)
        box = plt.Rectangle(corner, *SIZE, facecolor="#f6f7f9", edgecolor="#8a8f98", linewidth=0.8)
        axes.add_patch(box)
        axes.text(x, y + 0.29, title, ha="center", va="top", fontsize=9.5, weight="bold")
        axes.text(x, y + 0.07, text, ha="center", va="top", fontsize=8, linespacing=1.25)
    for start, end, flow, label, place in ARROWS:
        arrow(axes, edge(start, end), edge(end, start), flow)
        if label:
            axes.text(*place, label, fontsize=8, color=COLORS[flow])
    (x, y), (u, _) = BOXES["data"][0], BOXES["loss"][0]
    top = y + SIZE[1] / 2
    axes.plot([x, x, u], [top, top + 0.16, top + 0.16], color=COLORS["x"], linewidth=1.5)
    arrow(axes, (u, top + 0.17), (u, top), "x")
    axes.text(x + 0.05, top + 0.2, "batches of x [B, ...]", fontsize=8, color=COLORS["x"])
    lines = [Line2D([], [], color=color, linewidth=2, label=name) for name, color in COLORS.items()]
    axes.legend(handles=lines, ncols=4, loc="upper center", frameon=False, fontsize=9)
    axes.set(xlim=(-1, 9.4), ylim=(-0.45, 2.95))
    axes.axis("off")
    figure.savefig(pathlib.Path(__file__).with_name("architecture.png"), dpi=120, metadata={})


if __name__ == "__main__":
    main()
