"""The resize against Pillow called directly, and against an average done by hand."""

import numpy as np
import pytest
from PIL import Image

from gmm_diffusion.data import resize
from gmm_diffusion.errors import InputError


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [64, (20, 33), 299])
def test_within_one_level_of_pillow(channels, size):
    x = np.random.default_rng(0).integers(0, 256, (2, 109, 89, channels), dtype=np.uint8)
    out = resize.resize(x, size)
    height, width = (size, size) if isinstance(size, int) else size
    assert out.shape == (2, height, width, channels)
    for image, ours in zip(x, out, strict=True):
        for c in range(channels):
            # Pillow's floating point mode: no rounding between its two passes.
            plane = Image.fromarray(image[..., c].astype(np.float32))
            theirs = np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR))
            assert np.abs(ours[..., c] - theirs).max() <= 1


def test_antialiased():
    # A fine checkerboard shrunk fourfold is grey; picking single pixels would keep 0 or 255.
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    out = resize.resize(board.astype(np.uint8)[None, ..., None], 16)
    assert np.abs(out.astype(float) - 127.5).max() < 2


def test_same_size_is_untouched():
    x = np.zeros((1, 5, 6, 3), np.uint8)
    assert resize.resize(x, (5, 6)) is x


def test_refuses():
    with pytest.raises(InputError, match="resize got shape"):
        resize.resize(np.zeros((1, 4, 4, 1), np.float32), 2)
    with pytest.raises(InputError, match="resolution is 0"):
        resize.resize(np.zeros((1, 4, 4, 1), np.uint8), 0)


def test_center_square():
    image = np.arange(6 * 3).reshape(6, 3, 1)
    np.testing.assert_array_equal(resize.center_square(image)[..., 0], image[1:4, :, 0])
    wide = image.transpose(1, 0, 2)
    np.testing.assert_array_equal(resize.center_square(wide)[..., 0], wide[:, 1:4, 0])
