"""Sheets of samples, scatter plots and curves as PNG files."""

import gc
import math
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

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


def captioned(images: np.ndarray, captions: Sequence[str], scale: int = 1) -> np.ndarray:
    """A sheet with a row of images for each caption, which stands to the left of it.

    Args:
      images: `[R, N, H, W, C]` uint8, C 1 (grey) or 3.
      captions: R texts.
      scale: as in `grid`.

    Returns:
      `[H', W', 3]` uint8.

    Raises:
      InputError: as `grid`.
    """
    rows, count, *shape = images.shape
    sheet = grid(images.reshape(rows * count, *shape), count, scale)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    boxes = [measure.textbbox((0, 0), caption) for caption in captions]
    margin = max(math.ceil(right) for _, _, right, _ in boxes) + 8
    drawn = Image.new("RGB", (margin + sheet.shape[1], sheet.shape[0]), (_BACKGROUND,) * 3)
    drawn.paste(Image.fromarray(sheet), (margin, 0))
    draw, tall = ImageDraw.Draw(drawn), (sheet.shape[0] - 1) / rows
    for row, (caption, (_, top, _, bottom)) in enumerate(zip(captions, boxes, strict=True)):
        draw.text((4, (row + 0.5) * tall - (top + bottom) / 2), caption, fill=(255, 255, 255))
    return np.asarray(drawn)


def save_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes an image `[H, W, 3]` uint8, making the directory if need be."""
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(image)).save(path, format="PNG")


def scatter(
    points: np.ndarray,
    labels: np.ndarray | None,
    path: str | os.PathLike,
    gaussians: tuple[np.ndarray, np.ndarray] | None = None,
) -> None:
    """Writes a PNG of points in the plane, or a histogram of numbers.

    Args:
      points: `[N, D]`, of which the first two coordinates are plotted; of one there is a histogram.
      labels: `[N]` integers, one colour each, or None for a single colour.
      path: the file; its directory is made if need be.
      gaussians: means `[K, 2]` and covariances `[K, 2, 2]` of ellipses of one standard deviation,
        each drawn with its number, or None.

    Raises:
      InputError: points of another shape.
    """
    points = np.asarray(points)
    if points.ndim != 2 or not points.size:
        raise InputError(
            f"A scatter plot needs points [N, D] with D at least 1, not {list(points.shape)}."
        )
    figure = _figure((6, 6))
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
    if gaussians is not None:
        turns = np.linspace(0, 2 * np.pi, 61)
        circle = np.stack([np.cos(turns), np.sin(turns)])
        for number, (mean, covariance) in enumerate(zip(*gaussians, strict=True)):
            values, vectors = np.linalg.eigh(covariance)
            ellipse = mean[:, None] + vectors * np.sqrt(np.maximum(values, 0)) @ circle
            axes.plot(*ellipse, color="black", linewidth=1)
            axes.annotate(str(number), mean, ha="center", va="center", fontsize="small")
    if 1 < len(np.unique(labels)) <= 10:
        axes.legend(markerscale=5)
    _save(figure, path)


def curves(
    path: str | os.PathLike,
    x: Sequence[float],
    lines: Mapping[str, tuple[np.ndarray, np.ndarray | None]],
    name: str,
    values: str,
    mark: float | None = None,
) -> None:
    """Writes a PNG of lines over numbers that are shown by their logarithms.

    Args:
      path: the file; its directory is made if need be.
      x: `[N]` positive numbers.
      lines: by name, `[N]` values and half the width of a band around them, or None.
      name: of the numbers.
      values: of the values.
      mark: the number that holds now, where a dashed line stands; None for no line.
    """
    figure = _figure((6, 4))
    axes = figure.add_subplot(xlabel=name, ylabel=values, xscale="log")
    for number, (label, (line, half)) in enumerate(lines.items()):
        color = f"C{number}"
        axes.plot(x, line, "o-", markersize=4, color=color, label=label)
        if half is not None:
            axes.fill_between(x, line - half, line + half, color=color, alpha=0.2, linewidth=0)
    axes.set_xticks(x, [f"{each:g}" for each in x])
    axes.minorticks_off()
    if mark is not None:
        axes.axvline(mark, linestyle="--", color="0.5", linewidth=1, label="now")
    axes.legend()
    _save(figure, path)


def _figure(size):
    # Costly to import, and needed for few data only. No pyplot: its state is global.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure, path):
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=120)
    # Its parts name each other. Python would find that out, and free 2 MB of pixels, after dozens.
    figure.clear()
    figure.canvas = None
    gc.collect()
