"""The table and the map of the score's error with and without the contrastive loss."""

import os

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gmm_diffusion.report.summary import half_width


def table(errors: dict[float, dict[str, np.ndarray]], levels: np.ndarray) -> str:
    """Root mean square errors of the noise: weight -> region -> `[seeds, levels]` mean squares.

    One row a region and level, one column a weight: mean over seeds and its 95 % interval.
    """
    weights = list(errors)
    head = " | ".join(f"weight {weight:g}" for weight in weights)
    lines = [f"| points | noise level | {head} |", "|---" * (2 + len(weights)) + "|"]
    for region in errors[weights[0]]:
        for column, level in enumerate(levels):
            cells = []
            for weight in weights:
                values = list(np.sqrt(errors[weight][region][:, column]))
                half = half_width(values)
                spread = "" if half is None else f" ± {half:.2g}"
                cells.append(f"{np.mean(values):.3g}{spread}")
            lines.append(f"| {region} | {level:.3g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(
    maps: dict[float, np.ndarray], x: np.ndarray, levels: np.ndarray, file: str | os.PathLike
) -> None:
    """Maps of the error over the line and the noise level, one panel a weight.

    Args:
      maps: weight -> `[levels, points]` mean squares.
      x: `[points]`.
      levels: of noise, geometric.
      file: to write, a PNG.
    """
    plot = Figure(figsize=(4.5 * len(maps), 3.6), layout="constrained")
    FigureCanvasAgg(plot)
    panels = plot.subplots(1, len(maps), squeeze=False)[0]
    for axes, (weight, values) in zip(panels, maps.items(), strict=True):
        logs = np.log10(np.sqrt(np.maximum(values, 1e-12)))
        image = axes.pcolormesh(x, levels, logs, vmin=-3, vmax=0.5, shading="nearest")
        axes.set(yscale="log", xlabel="x", ylabel="noise level", title=f"weight {weight:g}")
    plot.colorbar(image, ax=list(panels), label="log10 of the noise's error")
    plot.savefig(file, dpi=110)
