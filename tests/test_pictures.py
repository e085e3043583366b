"""Sheets of images and scatter plots."""

import gc
import sys

import numpy as np
import pytest
from PIL import Image

from gmm_diffusion import pictures
from gmm_diffusion.errors import InputError


def test_grid_places_every_image():
    images = np.arange(5 * 2 * 3 * 3, dtype=np.uint8).reshape(5, 2, 3, 3)
    sheet = pictures.grid(images, columns=3, padding=1)
    assert sheet.shape == (2 * 3 + 1, 3 * 4 + 1, 3)
    assert sheet.dtype == np.uint8
    np.testing.assert_array_equal(sheet[1:3, 1:4], images[0])
    np.testing.assert_array_equal(sheet[1:3, 9:12], images[2])
    np.testing.assert_array_equal(sheet[4:6, 5:8], images[4])
    # Border, gap, and the sixth cell, which has no image.
    for grey in (sheet[0], sheet[:, 0], sheet[3], sheet[:, 4], sheet[4:, 9:]):
        assert np.all(grey == 128)


def test_grey_images_are_scaled_by_repetition():
    image = np.asarray([[10, 20], [30, 40]], np.uint8)[None, :, :, None]
    sheet = pictures.grid(image, scale=2, padding=0)
    expected = [[10, 10, 20, 20], [10, 10, 20, 20], [30, 30, 40, 40], [30, 30, 40, 40]]
    for channel in range(3):
        assert sheet[:, :, channel].tolist() == expected


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (9, 3, 3), (10, 3, 4)])
def test_the_default_sheet_is_about_square(count, rows, columns):
    sheet = pictures.grid(np.zeros((count, 4, 4, 1), np.uint8), padding=0)
    assert sheet.shape == (rows * 4, columns * 4, 3)


@pytest.mark.parametrize(
    ("images", "what"),
    [
        (np.zeros((2, 4, 4, 1), np.float32), r"float32 \[2, 4, 4, 1\]"),
        (np.zeros((2, 4, 4, 2), np.uint8), r"uint8 \[2, 4, 4, 2\]"),
        (np.zeros((4, 4, 3), np.uint8), r"uint8 \[4, 4, 3\]"),
        (np.zeros((0, 4, 4, 3), np.uint8), r"uint8 \[0, 4, 4, 3\]"),
    ],
)
def test_other_arrays_are_refused(images, what):
    with pytest.raises(InputError, match=rf"needs uint8 \[N, H, W, 1 or 3\].* not {what}"):
        pictures.grid(images)


def test_png_round_trip(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    path = tmp_path / "new" / "sheet.png"
    pictures.save_png(path, image)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)


def count_colours(path):
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3).astype(int)
    saturated = pixels[np.ptp(pixels, axis=1) > 100]
    return len(np.unique(saturated.argmax(axis=1)))


def test_scatter_draws_one_colour_a_label(tmp_path):
    points = np.random.default_rng(0).normal(size=(300, 2))
    stateful = "matplotlib.pyplot" in sys.modules
    pictures.scatter(points, None, tmp_path / "new" / "one.png")
    # The first three default colours: blue, orange (mostly red), green.
    pictures.scatter(points, np.arange(300) % 3, tmp_path / "three.png")
    assert count_colours(tmp_path / "new" / "one.png") == 1
    assert count_colours(tmp_path / "three.png") == 3
    assert ("matplotlib.pyplot" in sys.modules) == stateful


def test_scatter_takes_the_first_two_of_many_coordinates(tmp_path):
    points = np.random.default_rng(0).normal(size=(50, 2))
    pictures.scatter(points, None, tmp_path / "two.png")
    pictures.scatter(np.hstack([points, points * 7]), None, tmp_path / "four.png")
    assert (tmp_path / "two.png").read_bytes() == (tmp_path / "four.png").read_bytes()


def test_scatter_of_one_coordinate_is_a_histogram(tmp_path):
    points = np.random.default_rng(0).normal(size=(300, 1))
    pictures.scatter(points, np.arange(300) % 3, tmp_path / "three.png")
    assert count_colours(tmp_path / "three.png") == 3


def test_scatter_refuses_other_shapes(tmp_path):
    with pytest.raises(InputError, match=r"points \[N, D\] with D at least 1, not \[5\]"):
        pictures.scatter(np.zeros(5), None, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize("draw", [
    lambda path: pictures.scatter(np.eye(2), None, path),
    lambda path: pictures.curves(path, [1, 10], {"a": (np.ones(2), None)}, "n", "loss"),
])  # fmt: skip
def test_a_picture_leaves_no_pixels_behind(draw, tmp_path):
    from matplotlib.backends.backend_agg import RendererAgg

    gc.collect()
    gc.disable()
    try:
        draw(tmp_path / "drawn.png")
        assert not [o for o in gc.get_objects() if type(o) is RendererAgg]
    finally:
        gc.enable()
