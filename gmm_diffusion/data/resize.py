"""The one resize, used by data and metrics: another filter changes every score."""

import logging

import numpy as np
from PIL import Image

from gmm_diffusion.errors import InputError

log = logging.getLogger(__name__)

METHOD = "pil_bilinear_antialiased"  # Stored with statistics: only equal methods compare.


def resize(x: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Bilinear with antialiasing when it shrinks (Parmar et al. 2022, arXiv 2104.11222).

    Args:
      x: `[N, H, W, C]` uint8.
      size: new height and width, or one number for both. Aspect ratios are not kept: see
        `center_square`.

    Returns:
      `[N, size, size, C]` uint8; `x` itself if it already has that size.

    Raises:
      InputError: other than a uint8 batch of images, or a size below 1.
    """
    if x.ndim != 4 or x.dtype != np.uint8:
        raise InputError(
            f"resize got shape {x.shape} and type {x.dtype}; valid is uint8 [N, H, W, C]."
        )
    height, width = (size, size) if isinstance(size, int | np.integer) else size
    if min(height, width) < 1:
        raise InputError(f"resolution is {size}; valid is 1 or more.")
    if x.shape[1:3] == (height, width):
        return x
    out = np.empty((len(x), height, width, x.shape[3]), np.uint8)
    for i, image in enumerate(x):
        if x.shape[3] == 3:
            resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
            out[i] = np.asarray(resized)
            continue
        for c in range(x.shape[3]):
            channel = Image.fromarray(np.ascontiguousarray(image[..., c]))
            out[i, ..., c] = np.asarray(channel.resize((width, height), Image.Resampling.BILINEAR))
    return out


def center_square(image: np.ndarray) -> np.ndarray:
    """The largest central square: `[H, W, C]` -> `[S, S, C]` with S the shorter side."""
    side = min(image.shape[:2])
    top, left = ((n - side) // 2 for n in image.shape[:2])
    return image[top : top + side, left : left + side]


def fit(image: np.ndarray, resolution: int | None, crop: str = "center") -> np.ndarray:
    """Cuts one image out and resizes it.

    Args:
      image: `[H, W, C]` uint8.
      resolution: R; None leaves the size as the cut has it.
      crop: "center" cuts the central square out where there is a resolution; "none" cuts nothing,
        so that the resize squeezes; "top,left,height,width" in pixels cuts that box out always.

    Returns:
      `[R, R, C]` uint8, or the cut.

    Raises:
      InputError: another `crop`, or a box that reaches beyond the image.
    """
    if crop == "center":
        cut = image if resolution is None else center_square(image)
    elif crop == "none":
        cut = image
    else:
        cut = _box(image, crop)
    return cut if resolution is None else resize(cut[None], resolution)[0]


def announce(before: tuple[int, ...], after: tuple[int, ...], crop: str, name: str) -> None:
    """Says in a line that images of `name` get another size, judged by the first of them.

    Args:
      before: `(H, W, C)` as it was.
      after: `(R, R, C)` as `fit` makes it.
      crop: of `fit`.
      name: of the data.
    """
    sizes = ["x".join(map(str, shape[:2])) for shape in (before, after)]
    if sizes[0] == sizes[1]:
        return
    grows = after[0] > before[0] or after[1] > before[1]
    log.info(
        "Images of %s have %s pixels, and are made %s%s: data.resolution and data.crop %s.",
        name,
        *sizes,
        ", which adds no detail" if grows else "",
        crop,
    )


def _box(image, crop):
    try:
        top, left, height, width = map(int, crop.split(","))
    except ValueError:
        raise InputError(
            f"data.crop is {crop!r}; valid are center, none and top,left,height,width."
        ) from None
    rows, columns = image.shape[:2]
    inside = top + height <= rows and left + width <= columns
    if min(top, left) < 0 or min(height, width) < 1 or not inside:
        raise InputError(f"data.crop is {crop}, which does not fit an image of {rows}x{columns}.")
    return image[top : top + height, left : left + width]
