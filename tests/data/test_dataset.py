"""Splits refuse what is not data, rounding is exact, and a split is stratified."""

import numpy as np
import pytest

from gmm_diffusion.data import dataset
from gmm_diffusion.errors import InputError


def test_every_level_survives_the_round_trip():
    levels = np.arange(256, dtype=np.uint8)
    x = dataset.to_float(levels)
    assert x.dtype == np.float32
    assert (x[0], x[-1]) == (-1, 1)
    np.testing.assert_array_equal(dataset.to_uint8(x), levels)
    assert dataset.to_uint8(levels) is levels


def test_rounding_goes_to_the_nearest_level_and_clips():
    # Level 100 sits at 100 / 127.5 - 1; 0.4 of a level away it is still the nearest, 0.6 is not.
    level = 100 / 127.5 - 1
    x = np.array([level + 0.4 / 127.5, level + 0.6 / 127.5, -3.0, 2.0])
    np.testing.assert_array_equal(dataset.to_uint8(x), [100, 101, 0, 255])


def test_rounding_refuses_nan():
    with pytest.raises(InputError, match="not finite"):
        dataset.to_uint8(np.array([0.0, np.nan]))


def test_floats_pass_unchanged():
    x = np.array([[3.5, -7.0]], np.float32)
    np.testing.assert_array_equal(dataset.to_float(x), x)


@pytest.mark.parametrize(
    ("x", "label", "message"),
    [
        (np.zeros((3, 4, 4), np.uint8), None, r"shape \(3, 4, 4\) and type uint8"),
        (np.zeros((3, 4), np.float64), None, "type float64"),
        (np.zeros((0, 4), np.float32), None, "is empty"),
        (np.zeros((3, 4), np.float32), np.zeros(2, np.int32), r"int32 of shape \(3,\)"),
        (np.zeros((3, 4), np.float32), np.zeros(3, np.int64), "type int64"),
    ],
)
def test_split_refuses(x, label, message):
    with pytest.raises(InputError, match=message):
        dataset.Split(x, label)


def test_properties():
    images = dataset.Split(np.zeros((2, 5, 6, 3), np.uint8))
    vectors = dataset.Split(np.zeros((2, 7), np.float32))
    both = dataset.Dataset("a", images, images), dataset.Dataset("b", vectors, vectors)
    assert [d.shape for d in both] == [(5, 6, 3), (7,)]
    assert [d.is_image for d in both] == [True, False]
    assert len(images) == 2


def test_split_keeps_the_share_of_each_class():
    label = np.repeat([0, 1, 2], [50, 30, 20])
    train, heldout = dataset.split_indices(100, 0.2, 0, label)
    np.testing.assert_array_equal(np.bincount(label[heldout]), [10, 6, 4])
    np.testing.assert_array_equal(np.sort(np.concatenate([train, heldout])), np.arange(100))


def test_split_shares_add_up_when_they_do_not_divide():
    label = np.repeat([0, 1, 2], [7, 7, 7])
    _, heldout = dataset.split_indices(21, 0.25, 3, label)
    assert len(heldout) == 6  # 5.25 rounded up
    assert set(np.bincount(label[heldout])) == {2}


def test_split_is_a_function_of_its_seed():
    a, b, c = (dataset.split_indices(200, 0.3, seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("fraction", [0, 1, -0.5, float("nan")])
def test_split_refuses_a_fraction(fraction):
    with pytest.raises(InputError, match="heldout_fraction is"):
        dataset.split_indices(10, fraction, 0)


def test_split_refuses_to_leave_nothing():
    with pytest.raises(InputError, match="leaves nothing to train on out of 1 examples"):
        dataset.split_indices(1, 0.5, 0)


def test_split_refuses_a_negative_seed():
    with pytest.raises(InputError, match="split_seed is -1"):
        dataset.split_indices(10, 0.5, -1)


def test_indices_are_evenly_spaced():
    assert dataset.evenly_spaced(10, 4).tolist() == [0, 3, 6, 9]
    assert dataset.evenly_spaced(5, 5).tolist() == [0, 1, 2, 3, 4]
    assert dataset.evenly_spaced(5, 100).tolist() == [0, 1, 2, 3, 4]
    # Where classes take turns, too, each of them is met.
    for num_classes in (2, 3, 5, 10):
        chosen = dataset.evenly_spaced(1000, 1000 // num_classes)
        assert len(set((chosen % num_classes).tolist())) == num_classes


def _points(label):
    label = np.array(label, np.int32)
    x = np.arange(len(label), dtype=np.float32)[:, None]
    heldout = dataset.Split(-x, label)
    return dataset.Dataset("points", dataset.Split(x, label), heldout, int(label.max()) + 1)


def test_validation_is_carved_off_the_training_split():
    data = _points(np.repeat([0, 1, 2], [50, 30, 20]))
    carved = dataset.with_validation(data, 0.1, 3)
    assert np.bincount(carved.validation.label).tolist() == [5, 3, 2]
    both = np.concatenate([carved.train.x, carved.validation.x])[:, 0]
    np.testing.assert_array_equal(np.sort(both), np.arange(100))
    kept = carved.train.x[:, 0].astype(int)
    np.testing.assert_array_equal(carved.train.label, data.train.label[kept])
    assert carved.heldout is data.heldout
    assert carved.name != data.name, "a judge of the whole training split is another one"
    again, other = (dataset.with_validation(data, 0.1, seed) for seed in (3, 4))
    np.testing.assert_array_equal(again.validation.x, carved.validation.x)
    assert not np.array_equal(other.validation.x, carved.validation.x)
    assert (carved.watched, data.watched) == (carved.validation, data.heldout)


def test_validation_leaves_every_class_an_example_to_train_on():
    data = _points([0] * 10 + [1, 2, 3, 4])
    for fraction in (0.1, 0.5, 0.9):
        carved = dataset.with_validation(data, fraction, 0)
        assert set(carved.train.label.tolist()) == {0, 1, 2, 3, 4}, fraction
    with pytest.raises(InputError, match=r"validation_fraction is 0\.4.*no class .* to spare"):
        dataset.with_validation(_points([0, 1, 2]), 0.4, 0)
    with pytest.raises(InputError, match=r"validation_fraction is 0\.9, which leaves nothing"):
        dataset.with_validation(_points([0, 0]), 0.9, 0)


def _attributes(*rows):
    return np.array(rows, np.uint8).reshape(len(rows), -1)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (np.zeros((3, 2), np.uint8), r"shape \(3, 2\) .* \(2, A\)"),
        (np.zeros((2, 2), np.int32), "type int32"),
        (_attributes([0, 2], [0, 1]), "value 2; valid are 0 and 1"),
    ],
)
def test_attributes_that_do_not_fit_are_refused(attributes, message):
    with pytest.raises(InputError, match=message):
        dataset.Split(np.zeros((2, 1), np.float32), None, attributes)


def test_examples_are_taken_with_all_that_is_known_of_them():
    x = np.arange(3, dtype=np.float32)[:, None]
    split = dataset.Split(x, np.arange(3, dtype=np.int32), _attributes([0], [1], [0]))
    taken = split.take(np.array([1, 0]))
    assert (taken.x.tolist(), taken.label.tolist()) == ([[1.0], [0.0]], [1, 0])
    assert taken.attributes.tolist() == [[1], [0]]


def test_combinations_become_classes_and_new_ones_are_unseen():
    pairs = [[0, 0]] * 10 + [[0, 1]] * 20 + [[1, 0]] * 5
    train = dataset.Split(np.zeros((35, 1), np.float32), None, _attributes(*pairs))
    heldout_x = np.arange(3, dtype=np.float32)[:, None]
    heldout = dataset.Split(heldout_x, None, _attributes([1, 0], [1, 1], [0, 1]))
    # An example for validation whose combination is new is left out.
    validation = dataset.Split(heldout_x[:2] + 9, None, _attributes([1, 1], [0, 1]))
    data = dataset.Dataset(
        "points", train, heldout, attribute_names=("Hat", "Bald"), validation=validation
    )
    classes = dataset.combination_classes(data)
    assert (classes.validation.x.tolist(), classes.validation.label.tolist()) == ([[10.0]], [1])
    assert classes.class_names == ("none", "Bald", "Hat")
    assert np.bincount(classes.train.label).tolist() == [10, 20, 5]
    assert classes.heldout.label.tolist() == [2, 1]
    assert classes.unseen.x.tolist() == [[1.0]]
    assert classes.unseen.attributes.tolist() == [[1, 1]]
    # Few examples a combination: no classes.
    few = dataset.Dataset("points", heldout, heldout, attribute_names=("Hat", "Bald"))
    assert dataset.combination_classes(few) is few
    with pytest.raises(InputError, match="0 attributes"):
        dataset.combination_classes(dataset.Dataset("points", heldout, heldout))
