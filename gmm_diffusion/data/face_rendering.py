"""Cartoon faces from signed distances: flat shapes with soft light, smooth at any resolution.

Every pixel goes through additions, products, quotients and square roots only, which IEEE 754 rounds
in one way: the same face has the same bytes in any batch.

Shapes are given in a square from -1 to 1, x to the right and y down, in the frame of the head,
which nuisance shifts, scales and tilts. A shape covers a pixel as far as the distance of the
pixel's centre to its edge says.
"""

import numpy as np

NAMES = (
    "Bald",
    "Bangs",
    "Blond_Hair",
    "Eyeglasses",
    "Mouth_Slightly_Open",
    "Mustache",
    "Rosy_Cheeks",
    "Smiling",
    "Wearing_Hat",
    "Wearing_Necktie",
)
# What varies besides: uniform between two numbers. Colours are places along a palette.
NUISANCE = {
    "shift_x": (-0.07, 0.07),
    "shift_y": (-0.04, 0.05),
    "scale": (0.9, 1.02),
    "tilt": (-0.14, 0.14),  # tangent of the angle
    "turn": (-0.06, 0.06),  # of the features to one side
    "head_width": (0.45, 0.52),
    "head_height": (0.57, 0.63),
    "jaw": (0.05, 0.28),
    "eye_distance": (0.19, 0.23),
    "eye_size": (0.085, 0.105),
    "gaze": (-0.025, 0.025),
    "brow_height": (-0.015, 0.03),
    "brow_slope": (-0.03, 0.03),
    "nose_length": (-0.02, 0.03),
    "mouth_width": (0.0, 0.03),
    "mouth_bend": (-0.035, 0.0),
    "hair_volume": (0.07, 0.14),
    "hair_length": (-0.1, 0.8),
    "hairline": (-0.03, 0.02),
    "parting": (-0.08, 0.08),
    "fringe_slope": (-0.1, 0.1),
    "hat_height": (0.19, 0.28),
    "hat_brim": (0.54, 0.74),
    "lens_width": (0.155, 0.18),
    "lens_roundness": (0.5, 1.0),
    "shoulder_width": (0.62, 0.8),
    "light": (-1.0, 1.0),
    "skin": (0.0, 1.0),
    "hair": (0.0, 1.0),
    "background": (0.0, 1.0),
    "eyes": (0.0, 1.0),
    "clothes": (0.0, 1.0),
    "tie": (0.0, 1.0),
    "hat": (0.0, 1.0),
    "frame": (0.0, 1.0),
}
_PALETTES = {
    "skin": ["ffe0c7", "f8cfae", "e9b48c", "cf966d", "ab7652", "8c5c42"],
    "hair": ["2a232b", "3f2c29", "5a392b", "733c28"],
    "blond": ["dda53c", "ebbf55", "f0d078"],
    "background": ["a9cfe6", "9fd6d2", "b4dcb9", "cfd0ea", "dcb9dd", "efb9c0", "b8c4d9", "8fb4d4"],
    "eyes": ["3b2a20", "5a3d26", "3f6a52", "3c6ea0"],
    "clothes": ["3e6b4f", "2c7276", "2f4467", "6a4a7c", "b5523f"],
    "tie": ["d8343f", "c2408f", "7d45b5", "3568cf", "1f8f94"],
    "hat": ["e0912f", "d4553a", "b8416b", "6d4698", "2f62ad", "2f8f7a", "3c4a5c"],
    "frame": ["191a22", "3a1d22", "1d2a4a"],
}
_CHUNK_PIXELS = 65536  # As many as caches hold.


def render(nuisance: np.ndarray, attributes: np.ndarray, resolution: int) -> np.ndarray:
    """Faces of people.

    Args:
      nuisance: `[N, len(NUISANCE)]` in [0, 1], columns as in `NUISANCE`.
      attributes: `[N, len(NAMES)]` of 0 and 1, columns as in `NAMES`.
      resolution: height and width in pixels.

    Returns:
      `[N, H, W, 3]` uint8.
    """
    images = np.empty((len(nuisance), resolution, resolution, 3), np.uint8)
    step = max(1, _CHUNK_PIXELS // resolution**2)
    for i in range(0, len(images), step):
        painted = _face(nuisance[i : i + step], attributes[i : i + step], resolution)
        images[i : i + step] = np.moveaxis(painted, 0, -1)
    return images


def _column(values: np.ndarray) -> np.ndarray:
    """`[N]` -> `[N, 1, 1]`, to meet pixels."""
    return values.astype(np.float32)[:, None, None]


def _palette(name: str, place: np.ndarray) -> np.ndarray:
    """Colours `[3, N]` in [0, 1] at places `[N]` in [0, 1] along a palette."""
    stops = np.array([list(bytes.fromhex(code)) for code in _PALETTES[name]]) / 255
    at = place * (len(stops) - 1)
    left = np.minimum(at.astype(int), len(stops) - 2)
    return (stops[left] + (at - left)[:, None] * (stops[left + 1] - stops[left])).astype("f4").T


def _square(x):
    return x * x


def _ellipse(x, y, width, height):
    """Distance to an ellipse with those half axes, to first order."""
    near = np.sqrt(_square(x / width) + _square(y / height))
    steep = np.sqrt(_square(x / _square(width)) + _square(y / _square(height)))
    return near * (near - 1) / np.maximum(steep, 1e-6)


def _box(x, y, width, height, radius):
    """Distance to a box with those half sides and that radius of its corners."""
    dx, dy = np.abs(x) - (width - radius), np.abs(y) - (height - radius)
    outside = np.sqrt(_square(np.maximum(dx, 0)) + _square(np.maximum(dy, 0)))
    return outside + np.minimum(np.maximum(dx, dy), 0) - radius


def _bow(x, y, width, bend, thickness):
    """Distance to a stroke of that half width and thickness whose ends are `bend` lower."""
    y = y - bend * np.minimum(_square(x / width), 1)
    return np.sqrt(_square(np.maximum(np.abs(x) - width, 0)) + _square(y)) - thickness


class _Canvas:
    """`[3, N, H, W]` float32 colours in [0, 1], and what a pixel's width is in the head's frame."""

    def __init__(self, num: int, resolution: int, pixel: np.ndarray):
        self.colours = np.empty((3, num, resolution, resolution), np.float32)
        self.pixel = pixel

    def paint(self, distance, colour, opacity=None, blur=0.0, light=None):
        """Covers what lies inside a shape.

        Args:
          distance: `[N, H, W]` to the shape's edge, negative inside.
          colour: `[3, N]`.
          opacity: `[N, 1, 1]` in [0, 1], or a number; None is opaque.
          blur: width of the edge beyond a pixel's.
          light: factor of the colour, `[N, H, W]`.
        """
        cover = np.clip(0.5 - distance / (self.pixel + blur), 0, 1)
        if opacity is not None:
            cover *= opacity
        for channel, shade in zip(self.colours, colour, strict=True):
            shade = shade[:, None, None]
            channel += cover * ((shade if light is None else shade * light) - channel)


def _face(nuisance, attributes, resolution):
    low, high = np.array(list(NUISANCE.values())).T
    columns = (low + (high - low) * nuisance).T
    place = dict(zip(NUISANCE, columns, strict=True))
    n = {name: _column(values) for name, values in place.items()}
    has = {name: _column(values) for name, values in zip(NAMES, attributes.T, strict=True)}

    grid = ((np.arange(resolution) + 0.5) * (2 / resolution) - 1).astype(np.float32)
    image_x, image_y = grid[None, None, :], grid[None, :, None]
    right, down = image_x - n["shift_x"], image_y - n["shift_y"]
    cosine = 1 / np.sqrt(1 + _square(n["tilt"]))
    across, along = cosine / n["scale"], n["tilt"] * cosine / n["scale"]
    # The neck is what the head tilts about.
    down = down - 0.4
    x, y = right * across + down * along, down * across - right * along + 0.4
    canvas = _Canvas(len(nuisance), resolution, 2 / (resolution * n["scale"]))
    palette = {name: _palette(name, place[name]) for name in _PALETTES if name != "blond"}
    blond = attributes[:, NAMES.index("Blond_Hair")].astype(np.float32)
    palette["hair"] += blond * (_palette("blond", place["hair"]) - palette["hair"])

    _background(canvas, palette, n, image_x, image_y)
    hair = 1 - has["Bald"]
    _hair_behind(canvas, palette, n, hair, x, y)
    _body(canvas, palette, n, has, right / n["scale"], y + x * n["tilt"])
    _head(canvas, palette, n, has, x, y)
    middle = x - n["turn"]
    _eyes(canvas, palette, n, middle, y)
    _mouth(canvas, palette, n, has, middle, y)
    _nose_and_mustache(canvas, palette, n, has, middle, y)
    _hair_in_front(canvas, palette, n, has, hair, x, y)
    _glasses(canvas, palette, n, has, middle, y)
    _hat(canvas, palette, n, has, x, y)
    light = 1 + 0.07 * n["light"] * image_x - 0.05 * image_y
    return np.clip(canvas.colours * light, 0, 1) * 255 + 0.5


def _background(canvas, palette, n, x, y):
    """Lighter in the middle, as in a studio."""
    glow = 1.08 - 0.13 * (_square(x - n["shift_x"]) + _square(y))
    canvas.colours[...] = palette["background"][:, :, None, None] * glow


def _hair_behind(canvas, palette, n, hair, x, y):
    width = n["head_width"] + n["hair_volume"]
    top, bottom = -0.35, n["hair_length"]
    half = (bottom - top) / 2
    distance = _box(x, y - (top + half), width * 0.97, half, np.minimum(half, 0.24))
    canvas.paint(distance, palette["hair"] * 0.84, hair)


def _body(canvas, palette, n, has, x, y):
    """Neck and shoulders; a tie comes with a suit."""
    neck = palette["skin"] * np.array([0.84, 0.79, 0.77], np.float32)[:, None]
    canvas.paint(_box(x, y - 0.6, 0.19, 0.28, 0.05), neck)
    shoulders = _ellipse(x, y - 1.25, n["shoulder_width"], 0.56)
    cloth = palette["clothes"]
    light = 1.05 - 0.35 * _square(x)
    neckline = _ellipse(x, y - 0.7, 0.23, 0.115)
    canvas.paint(np.maximum(shoulders, -neckline), cloth, light=light)
    tie = has["Wearing_Necktie"]
    side = np.abs(x)
    front = side - 0.3 + 0.5 * (y - 0.66)
    front = np.maximum(front * 0.9, 0.69 - y - side * 0.2)
    canvas.paint(front, np.full_like(cloth, 0.97), tie)
    blade = np.maximum(side - 0.055 - 0.17 * (y - 0.78), 0.76 - y)
    canvas.paint(blade, palette["tie"], tie)
    knot = side - 0.1 + 0.5 * (y - 0.7)
    knot = np.maximum(knot, np.abs(y - 0.745) - 0.055)
    canvas.paint(knot, palette["tie"] * 0.82, tie)


def _head(canvas, palette, n, has, x, y):
    skin, warm = palette["skin"], np.array([1.0, 0.9, 0.88], np.float32)[:, None]
    ear = _ellipse(np.abs(x) - n["head_width"], y - 0.02, 0.07, 0.11)
    canvas.paint(ear, skin * warm * 0.95)
    narrow = 1 - n["jaw"] * y
    distance = _ellipse(x / narrow, y + 0.05, n["head_width"], n["head_height"])
    light = 1 + 0.13 * n["light"] * x - 0.06 * y
    canvas.paint(distance, skin, light=light)
    shine = _ellipse(x - 0.16 * n["light"], y + 0.45, 0.2, 0.1)
    canvas.paint(shine, np.ones_like(skin), has["Bald"] * 0.5, blur=0.16)
    blush = _ellipse(np.abs(x - n["turn"]) - 0.29, y - 0.17, 0.11, 0.085)
    red = np.array([0.93, 0.22, 0.3], np.float32)[:, None] * (0.75 + skin[:1] * 0.25)
    canvas.paint(blush, red, has["Rosy_Cheeks"] * 0.8, blur=0.06)


def _eyes(canvas, palette, n, x, y):
    size = n["eye_size"]
    # Both eyes in the frame of their own centre.
    local = np.where(x > 0, x - n["eye_distance"], x + n["eye_distance"])
    height = y + 0.07
    white = np.full_like(palette["skin"], 0.99)
    opening = _ellipse(local, height, size, size * 0.92)
    canvas.paint(opening, white)
    iris = _ellipse(local - n["gaze"], height, size * 0.62, size * 0.72)
    canvas.paint(iris, palette["eyes"])
    pupil = _ellipse(local - n["gaze"], height, size * 0.32, size * 0.38)
    canvas.paint(pupil, palette["eyes"] * 0.3)
    glint = _ellipse(local - n["gaze"] + 0.025, height + 0.03, 0.02, 0.02)
    canvas.paint(glint, white, 0.9)
    lid = _bow(local, height + size * 0.98, size, size * 0.5, 0.018)
    canvas.paint(lid, palette["skin"] * 0.4, 0.85)
    inward = (np.abs(x) - n["eye_distance"]) * n["brow_slope"] * 4
    brow = y + 0.245 + n["brow_height"] + inward
    stroke = _bow(np.abs(x) - n["eye_distance"], brow, 0.1, 0.025, 0.026)
    canvas.paint(stroke, palette["hair"] * 0.8)


def _mouth(canvas, palette, n, has, x, y):
    """Four mouths: closed or open, in earnest or smiling."""
    smiling, opened = has["Smiling"], has["Mouth_Slightly_Open"]
    y = y - 0.31
    width = 0.13 + n["mouth_width"] + smiling * 0.085
    width = width - 0.03 * opened * (1 - smiling)
    bend = n["mouth_bend"] - smiling * 0.135
    middle = y - smiling * 0.06
    lip = palette["skin"] * np.array([0.72, 0.42, 0.42], np.float32)[:, None]
    line = _bow(x, middle, width, bend, 0.03)
    canvas.paint(line, lip * 0.72, 1 - opened)
    # Between the arc of the upper lip and the deeper one of the lower lip.
    deep = 0.075 + smiling * 0.02
    arc = np.minimum(_square(x / width), 1)
    upper = -0.045 - smiling * 0.055
    top = upper + (bend * 0.25 + 0.04) * arc
    bottom = top + (deep * 2) * np.sqrt(1 - arc) + 0.01
    inside = np.maximum(np.maximum(top - middle, middle - bottom), np.abs(x) - width)
    canvas.paint(inside - 0.028, lip, opened)
    dark = np.array([0.33, 0.08, 0.1], np.float32)[:, None] * np.ones_like(lip)
    canvas.paint(inside + 0.004, dark, opened)
    teeth = np.maximum(inside + 0.012, middle - top - 0.06)
    canvas.paint(teeth, np.full_like(lip, 0.98), opened * smiling)


def _nose_and_mustache(canvas, palette, n, has, x, y):
    tip = y - 0.1 - n["nose_length"]
    shadow = palette["skin"] * np.array([0.8, 0.7, 0.66], np.float32)[:, None]
    canvas.paint(_ellipse(x, tip, 0.062, 0.045), shadow)
    bridge = _ellipse(x, tip + 0.09, 0.03, 0.1)
    canvas.paint(bridge, np.ones_like(shadow), 0.16, blur=0.05)
    side = np.abs(x)
    whiskers = _bow(side - 0.1, y - 0.205, 0.1, 0.03, 0.052)
    dark = 0.6 + 0.26 * has["Blond_Hair"][:, 0, 0]
    canvas.paint(whiskers, palette["hair"] * dark, has["Mustache"])


def _hair_in_front(canvas, palette, n, has, hair, x, y):
    volume = n["hair_volume"]
    width, height = n["head_width"] + volume, n["head_height"] + volume
    outer = _ellipse(x, y + 0.08, width, height)
    opening = _ellipse(
        x - n["turn"] - n["parting"] * np.maximum(-y - 0.1, 0),
        y - 0.12,
        n["head_width"] * 0.93,
        0.62 + n["hairline"],
    )
    locks = y - 0.16 + 1.2 * (np.abs(x) - 0.45)
    cap = np.maximum(np.maximum(outer, -opening), locks * 0.64)
    sheen = 1 - _square((x - n["light"] * 0.2) / 0.4)
    sheen = np.maximum(sheen - _square((y + 0.58) / 0.1), 0)
    light = 1 + 0.15 * sheen
    edge = -0.235 + n["fringe_slope"] * x + 0.35 * _square(x)
    sides, bangs = np.maximum(outer, np.abs(x) - n["head_width"]), has["Bangs"]
    # A shadow on the forehead, under all of the hair.
    shadow = np.maximum(sides, y - edge - 0.04)
    canvas.paint(shadow, palette["skin"] * 0.5, bangs * 0.45)
    canvas.paint(cap, palette["hair"], hair, light=light)
    canvas.paint(np.maximum(sides, y - edge), palette["hair"], bangs, light=light)


def _glasses(canvas, palette, n, has, x, y):
    wearing, thick = has["Eyeglasses"], 0.024
    side, height = np.abs(x), y + 0.06
    lens = _box(side - 0.212, height, n["lens_width"], 0.15, 0.15 * n["lens_roundness"])
    pane = np.array([0.86, 0.95, 1.0], np.float32)[:, None] * np.ones_like(palette["frame"])
    canvas.paint(lens, pane, wearing * 0.22)
    # The bridge and the arms are one bar outside of the lenses.
    bar = np.maximum(np.abs(height + 0.03) - thick, side - n["head_width"])
    frame = np.minimum(np.abs(lens) - thick, np.maximum(bar, -lens))
    canvas.paint(frame, palette["frame"], wearing)


def _hat(canvas, palette, n, has, x, y):
    wearing, colour = has["Wearing_Hat"], palette["hat"]
    # The brim is a little lower at its ends.
    brim_y = y + 0.5 - 0.12 * _square(x)
    width = n["head_width"] + 0.02
    crown = _box(x, brim_y + n["hat_height"], width, n["hat_height"], 0.2)
    light = 1.06 + 0.18 * n["light"] * x
    canvas.paint(crown, colour, wearing, light=light)
    band = np.maximum(crown, np.abs(brim_y + 0.1) - 0.055)
    canvas.paint(band, colour * 0.55, wearing)
    brim = _box(x, brim_y, n["hat_brim"], 0.05, 0.05)
    canvas.paint(brim, colour * 0.88, wearing, light=light)
