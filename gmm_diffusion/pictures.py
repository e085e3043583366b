"""Sheets of samples as PNG files."""

import math
import os
import pathlib

import numpy as np
from PIL import Image

from gmm_diffusion.errors import InputError

_BACKGROUND = 128


def grid(
    images: np.ndarray, columns: int | None = None, scale: int = 1, padding: int = 1
) -> np.ndarray:
    """Lays images out in rows, left to right and top to bottom.

    Args:
      images: `[N, H, W, C]` uint8, C 1 (grey) or 3.
      columns: images in a row; None for a sheet about as wide as high.
      scale: how many pixels one pixel of an image becomes, in both directions.
      padding: pixels between images and around the sheet.

    Returns:
      `[rows * (scale * H + padding) + padding, columns * (scale * W + padding) + padding, 3]`
      uint8; padding and cells without an image are grey.

    Raises:
      InputError: another shape or dtype, or no image.
    """
    images = np.asarray(images)
    if (
        images.ndim != 4
        or images.dtype != np.uint8
        or images.shape[-1] not in (1, 3)
        or not images.size
    ):
        raise InputError(
            f"A grid of images needs uint8 [N, H, W, 1 or 3] with N at least 1, not {images.dtype}"
            f" {list(images.shape)}."
        )
    count, height, width, _ = images.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    tall, wide = scale * height + padding, scale * width + padding
    sheet = np.full((rows * tall + padding, columns * wide + padding, 3), _BACKGROUND, np.uint8)
    for i, image in enumerate(images):
        top, left = padding + i // columns * tall, padding + i % columns * wide
        cell = sheet[top : top + scale * height, left : left + scale * width]
        cell[...] = image.repeat(scale, axis=0).repeat(scale, axis=1)
    return sheet


def save_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes an image `[H, W, 3]` uint8, making the directory if need be."""
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(image)).save(path, format="PNG")


def scatter(points: np.ndarray, labels: np.ndarray | None, path: str | os.PathLike) -> None:
    """Writes a PNG of points in the plane, or a histogram of numbers.

    Args:
      points: `[N, D]`, of which the first two coordinates are plotted; of one there is a histogram.
      labels: `[N]` integers, one colour each, or None for a single colour.
      path: the file; its directory is made if need be.

    Raises:
      InputError: points of another shape.
    """
    points = np.asarray(points)
    if points.ndim != 2 or not points.size:
        raise InputError(
            f"A scatter plot needs points [N, D] with D at least 1, not {list(points.shape)}."
        )
    # Costly to import, and needed for vector data only. No pyplot: its state is global.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6), layout="constrained")
    FigureCanvasAgg(figure)
    plane = points.shape[1] > 1
    axes = figure.add_subplot(
        aspect="equal" if plane else "auto",
        xlabel="coordinate 1",
        ylabel="coordinate 2" if plane else "number",
    )
    labels = np.zeros(len(points), int) if labels is None else np.asarray(labels)
    for label in np.unique(labels):
        own, color = points[labels == label], f"C{label % 10}"
        if plane:
            axes.plot(own[:, 0], own[:, 1], ".", markersize=2, color=color, label=str(label))
        else:
            axes.hist(own[:, 0], bins=50, histtype="step", color=color, label=str(label))
    if 1 < len(np.unique(labels)) <= 10:
        axes.legend(markerscale=5)
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=120)
