"""The figure of the faces: the same people, plain and with each attribute alone.

  python -m experiments.run_faces_figure --out=docs/faces.png

Exit status: 0 done, 1 failed, 2 bad input.
"""

import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments import flags, stoppable
from gmm_diffusion import paths
from gmm_diffusion.data import faces
from gmm_diffusion.pictures import grid, save_png

_HEADER = 50  # Pixels above the faces: three lines of text.


def figure(seed: int, people: list[int], resolution: int) -> np.ndarray:
    """`[H, W, 3]` uint8: a row a person, a column an attribute, the first one without any."""
    columns = np.concatenate([np.zeros((1, len(faces.NAMES)), int), np.eye(len(faces.NAMES))])
    index = np.repeat(people, len(columns))
    shown = np.tile(columns, (len(people), 1))
    sheet = grid(faces.render_people(seed, index, shown, resolution), len(columns), padding=2)
    sheet[(sheet == sheet[0, 0]).all(axis=2)] = 255
    page = Image.new("RGB", (sheet.shape[1], sheet.shape[0] + _HEADER), "white")
    page.paste(Image.fromarray(sheet), (0, _HEADER))
    text, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for i, name in enumerate(("none", *faces.NAMES)):
        place = 2 + i * (resolution + 2) + resolution / 2, _HEADER - 3
        lines = name.replace("_", "\n")
        text.multiline_text(place, lines, "black", font, anchor="md", align="center", spacing=1)
    return np.asarray(page)


def run(argv: list[str]) -> int:
    """One command, without the program's name; returns the exit status."""
    parser = flags.Parser(description=__doc__)
    parser.add_argument("--out", type=flags.picture, required=True)
    parser.add_argument("--seed", type=flags.index, default=0)
    parser.add_argument(
        "--people", type=flags.index, nargs="+", default=[1, 0, 3, 2], help="by number"
    )
    parser.add_argument("--resolution", type=flags.count, default=96)
    return stoppable.run(lambda poll: _draw(parser.parse_args(argv)))


def _draw(options):
    page = figure(options.seed, options.people, options.resolution)
    with paths.writing(options.out):
        save_png(options.out, page)
    print(f"Figure: {options.out}")


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
