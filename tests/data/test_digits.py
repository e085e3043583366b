"""The embedded digits: sizes, levels, labels and a stratified split."""

import numpy as np
from sklearn.datasets import load_digits

from gmm_diffusion.data import digits


def test_sizes_and_types():
    data = digits()
    assert data.train.x.shape == (1437, 8, 8, 1)
    assert data.heldout.x.shape == (360, 8, 8, 1)
    assert data.train.x.dtype == np.uint8
    assert data.shape == (8, 8, 1)
    assert data.is_image
    assert data.num_classes == 10
    assert data.class_names == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")


def test_content_is_the_source_scaled():
    data = digits(0.5, 7)
    source = load_digits()
    total = data.train.x.astype(int).sum() + data.heldout.x.astype(int).sum()
    # 16 levels of ink become 255: v * 255 / 16 rounded, half to even (only 8 -> 127.5 is halfway).
    table = [0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255]
    assert total == sum(table[int(v)] for v in source.data.ravel())
    first = np.array(table)[source.images[0].astype(int)]
    both = np.concatenate([data.train.x, data.heldout.x])[..., 0]
    label = np.concatenate([data.train.label, data.heldout.label])
    (match,) = np.flatnonzero((both == first).all(axis=(1, 2)))
    assert label[match] == source.target[0]


def test_split_is_stratified_disjoint_and_deterministic():
    a, b, c = digits(), digits(), digits(split_seed=1)
    np.testing.assert_array_equal(a.train.x, b.train.x)
    assert not np.array_equal(a.heldout.x, c.heldout.x)
    share = np.bincount(a.heldout.label) / np.bincount(
        np.concatenate([a.train.label, a.heldout.label])
    )
    assert np.abs(share - 0.2).max() < 0.01
