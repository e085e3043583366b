"""The image of `like:`, against Pillow and against what the datasets themselves make of a file."""

import types

import numpy as np
import pytest
from PIL import Image

from gmm_diffusion.data import image_folder, shown_image
from gmm_diffusion.errors import InputError

NAME = "sample.condition like:a.png"


def group(name="image_folder", resolution=0, crop="center"):
    """Of a config, as far as it is read."""
    return types.SimpleNamespace(name=name, resolution=resolution, crop=crop)


def picture(*size):
    return np.random.default_rng(sum(size)).integers(0, 256, size, np.uint8)


def saved(tmp_path, image):
    Image.fromarray(image).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.parametrize("name", ["image_folder", "tfds_images", "cifar_archive"])
@pytest.mark.parametrize(
    ("crop", "box"),
    [("center", (5, 0, 25, 20)), ("none", (0, 0, 30, 20)), ("3,6,12,10", (6, 3, 16, 15))],
)
def test_it_is_cut_and_resized_as_the_data_were(tmp_path, name, crop, box):
    file = saved(tmp_path, picture(20, 30, 3))
    with Image.open(file) as opened:
        expected = np.asarray(opened.crop(box).resize((8, 8), Image.Resampling.BILINEAR))
    made = shown_image.read(file, (8, 8, 3), group(name, 8, crop), NAME)
    np.testing.assert_array_equal(made, expected)
    # The folder's own reader makes the same of a copy of it.
    (tmp_path / "data").mkdir()
    for i in range(4):
        saved(tmp_path / "data", picture(20, 30, 3)).rename(tmp_path / "data" / f"{i}.png")
    data = image_folder.load(str(tmp_path / "data"), resolution=8, crop=crop)
    np.testing.assert_array_equal(made, data.train.x[0])


def test_a_cut_without_a_resolution(tmp_path):
    file = saved(tmp_path, picture(9, 9))
    made = shown_image.read(file, (4, 5, 1), group(crop="1,2,4,5"), NAME)
    np.testing.assert_array_equal(made[..., 0], picture(9, 9)[1:5, 2:7])


def test_what_was_cut_before_stays_as_it_is(tmp_path, caplog):
    caplog.set_level("INFO")
    data = group(resolution=8, crop="3,6,12,10")
    made = shown_image.read(saved(tmp_path, picture(8, 8, 3)), (8, 8, 3), data, NAME)
    np.testing.assert_array_equal(made, picture(8, 8, 3))
    # No size has changed.
    assert not caplog.text
    file = saved(tmp_path, picture(7, 8, 3))
    with pytest.raises(InputError, match=r"12,10, which does not fit .* 7x8: .*like:a\.png\.$"):
        shown_image.read(file, (8, 8, 3), data, NAME)


@pytest.mark.parametrize("data", [None, group("faces", 8), group("digits"), group()])
def test_data_that_are_not_resized_take_no_other_size(tmp_path, data):
    file = saved(tmp_path, picture(12, 8))
    with pytest.raises(InputError, match=r"has 12x8 pixels, .* not resized; it must have 8x8\.$"):
        shown_image.read(file, (8, 8, 1), data, NAME)
    file = saved(tmp_path, picture(8, 8))
    np.testing.assert_array_equal(
        shown_image.read(file, (8, 8, 1), data, NAME)[..., 0], picture(8, 8)
    )


def test_grey_and_colour(tmp_path):
    grey = picture(8, 8)
    made = shown_image.read(saved(tmp_path, grey), (8, 8, 3), None, NAME)
    np.testing.assert_array_equal(made, np.stack([grey] * 3, axis=2))
    made = shown_image.read(saved(tmp_path, np.stack([grey] * 3, axis=2)), (8, 8, 1), None, NAME)
    np.testing.assert_array_equal(made, grey[..., None])
    with pytest.raises(InputError, match=r"like:a\.png is coloured"):
        shown_image.read(saved(tmp_path, picture(8, 8, 3)), (8, 8, 1), None, NAME)
