"""Draws what `like:` asks for: python docs/like_figure.py RUN STEP OUT.png IMAGE IMAGE...

A row for each image: the image as the run's data have it, then samples of `like:IMAGE`, guided by
the run's own STEP (autoguidance, w = 2). The last row is half of the first image and half of the
last one.
"""

import sys

import numpy as np

import gmm_diffusion as gd
from gmm_diffusion import pictures
from gmm_diffusion.data import shown_image

SAMPLES = 10


def draw(run: str, step: int, out: str, images: list[str]) -> None:
    """Writes the sheet `out` of the images and as many samples of each as `SAMPLES`."""
    model = gd.load(run)
    guidance = gd.Autoguidance(gd.load(run, step=step), scale=2.0)
    shown = [shown_image.read(path, model.shape, model.config.data, path) for path in images]
    terms = [f"like:{path}" for path in images]
    blend = f"0.5*{terms[0]}+0.5*{terms[-1]}"
    rows = []
    for row, condition in enumerate((*terms, blend)):
        samples = model.sample(SAMPLES, condition, seed=row, guidance=guidance).images()
        # The blend has no image of its own.
        first = shown[row] if row < len(shown) else np.full_like(shown[0], 128)
        rows.append(np.stack([first, *samples]))
    captions = [*("more like" for _ in images), "first and last"]
    pictures.save_png(out, pictures.captioned(np.stack(rows), captions, scale=3))


if __name__ == "__main__":
    draw(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:])
