"""The judge reads real digits, is reproducible, and its file cannot be changed unnoticed."""

import dataclasses
import hashlib
import json

import jax
import numpy as np
import pytest

from gmm_diffusion.data import digits
from gmm_diffusion.data.dataset import Dataset, Split
from gmm_diffusion.errors import InputError
from gmm_diffusion.metrics import judge


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.fixture(scope="module")
def fitted(data):
    return judge.fit_judge(data)


def _blobs(seed=0):
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(2, dtype=np.int32), 200)
    x = (rng.normal(0, 0.3, (400, 3)) + 2 * label[:, None]).astype(np.float32)
    return Dataset("blobs", Split(x[::2], label[::2]), Split(x[1::2], label[1::2]), 2, ("a", "b"))


def test_reads_held_out_digits(fitted, data):
    # 97 % is the promise; the count is made here, not by the judge.
    correct = judge.predict(fitted, data.heldout.x) == data.heldout.label
    assert correct.mean() >= 0.97
    assert abs(fitted.heldout_accuracy - correct.mean()) < 1e-9


def test_prediction_does_not_depend_on_the_batch(fitted, data):
    x = data.train.x[:600]  # more than one chunk
    whole = judge.embed(fitted, x)
    assert whole.shape[0] == 600
    assert whole.shape[1] >= 32
    np.testing.assert_allclose(judge.embed(fitted, x[597:]), whole[597:], atol=1e-4)
    np.testing.assert_array_equal(judge.predict(fitted, x[:1]), judge.predict(fitted, x)[:1])
    assert judge.predict(fitted, x).dtype == np.int32


def test_the_embedding_separates_classes(fitted, data):
    embedding, label = judge.embed(fitted, data.heldout.x), data.heldout.label
    centre = np.stack([embedding[label == c].mean(axis=0) for c in range(10)])
    nearest = ((embedding[:, None] - centre) ** 2).sum(axis=-1).argmin(axis=1)
    assert (nearest == label).mean() > 0.95


def test_vectors_and_reproducibility():
    data = _blobs()
    options = {"num_epochs": 6, "batch_size": 32}
    a, b = (judge.fit_judge(data, seed=3, **options) for _ in range(2))
    assert a.hash == b.hash
    assert a.heldout_accuracy == 1
    assert a.settings == judge.identity(data, seed=3, **options)
    assert judge.fit_judge(data, seed=4, **options).hash != a.hash


def test_a_signal_ends_the_training():
    calls = []

    def poll():
        calls.append(len(calls))
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge.fit_judges(_blobs(), 2, num_epochs=1, batch_size=32, poll=poll)
    assert calls == [0, 1, 2]


def test_judges_differ_in_their_seed_alone():
    """Also where there are more than devices, of which each trains one at a time."""
    data, options = _blobs(), {"num_epochs": 1, "batch_size": 32}
    num = len(jax.local_devices()) + 1
    made = judge.fit_judges(data, num, seed=5, **options)
    assert len({each.hash for each in made}) == num
    for i, each in enumerate(made):
        alone = judge.fit_judge(data, seed=5 + i, **options)
        assert (each.hash, each.settings) == (alone.hash, alone.settings)
        assert each.settings == judge.identity(data, 5 + i, **options)


def test_held_out_data_are_not_trained_on():
    """Neither the test split, which is only read for the accuracy, nor that for choices."""
    data = _blobs()
    strange = Split(data.heldout.x + 1, 1 - data.heldout.label)
    other = dataclasses.replace(data, heldout=strange, validation=strange)
    a, b = (judge.fit_judge(d, num_epochs=2, batch_size=32) for d in (data, other))
    assert a.hash == b.hash


def test_refuses_data_without_labels():
    split = Split(np.zeros((4, 2), np.float32))
    with pytest.raises(InputError, match="a judge needs labels of at least 2"):
        judge.fit_judge(Dataset("plain", split, split))


@pytest.mark.parametrize("option", ["num_epochs", "batch_size", "learning_rate"])
def test_refuses_options(option):
    with pytest.raises(InputError, match=f"{option} 0"):
        judge.fit_judge(_blobs(), **{option: 0})


def test_refuses_other_shapes_and_float_images(fitted, data):
    with pytest.raises(InputError, match=r"examples of shape \(8, 8, 1\)"):
        judge.predict(fitted, np.zeros((2, 9, 9, 1), np.uint8))
    with pytest.raises(InputError, match="images as uint8"):
        judge.embed(fitted, data.heldout.x.astype(np.float32))


def test_hash_of_a_known_array():
    value = np.array([1.0, 2.0], np.float32)
    expected = hashlib.sha256(b"a/b <f4 (2,)\n" + value.tobytes()).hexdigest()
    assert judge.parameter_hash({"a": {"b": value}}) == expected


def test_file_round_trip(fitted, data, tmp_path):
    path = tmp_path / "judge.npz"
    judge.save([fitted], path)
    (loaded,) = judge.load(path)
    assert (loaded.hash, loaded.settings) == (fitted.hash, fitted.settings)
    assert loaded.heldout_accuracy == fitted.heldout_accuracy
    np.testing.assert_array_equal(
        judge.predict(loaded, data.heldout.x), judge.predict(fitted, data.heldout.x)
    )
    assert [p.name for p in tmp_path.iterdir()] == ["judge.npz"]


def test_file_with_any_byte_of_data_flipped_is_refused(tmp_path):
    path = tmp_path / "judge.npz"
    judge.save(judge.fit_judges(_blobs(), 2, num_epochs=1), path)
    content = path.read_bytes()
    for position in np.linspace(200, len(content) * 0.95, 20).astype(int):
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"judge file .*judge.npz"):
            judge.load(path)


def test_file_with_other_parameters_is_refused(tmp_path):
    path = tmp_path / "judge.npz"
    a, b = judge.fit_judges(_blobs(), 2, num_epochs=1)
    judge.save([a, dataclasses.replace(a, params=b.params)], path)
    with pytest.raises(InputError, match="parameters do not match their hash"):
        judge.load(path)


def test_several_judges_in_one_file_and_the_file_of_earlier_versions(tmp_path):
    made = judge.fit_judges(_blobs(), 2, num_epochs=1)
    judge.save(made, tmp_path / "judge.npz")
    assert [j.hash for j in judge.load(tmp_path / "judge.npz")] == [j.hash for j in made]
    # There was one, its parameters below `params`.
    one = made[0]
    header = {"settings": one.settings, "heldout_accuracy": 0.5, "hash": one.hash}
    flat = {
        "/".join(("params", *(key.key for key in path))): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(one.params)
    }
    np.savez(tmp_path / "old.npz", header=np.array(json.dumps(header)), **flat)
    (old,) = judge.load(tmp_path / "old.npz")
    assert (old.hash, old.settings, old.heldout_accuracy) == (one.hash, one.settings, 0.5)
    x = _blobs().heldout.x
    np.testing.assert_array_equal(judge.embed(old, x), judge.embed(one, x))


def test_file_missing_or_foreign(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        judge.load(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(InputError, match="cannot be read"):
        judge.load(tmp_path / "other.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(InputError, match="cannot be read"):
        judge.load(tmp_path / "text.npz")


def test_a_judge_of_attributes_reads_each():
    rng = np.random.default_rng(0)
    attributes = rng.integers(0, 2, (600, 2)).astype(np.uint8)
    x = (3 * attributes - 1.5 + 0.3 * rng.normal(size=(600, 2))).astype(np.float32)
    train = Split(x[:400], None, attributes[:400])
    heldout = Split(x[400:], None, attributes[400:])
    points = Dataset("points", train, heldout, attribute_names=("Right", "Up"))
    made = judge.fit_judge(points, num_epochs=5)
    assert made.reads_attributes
    np.testing.assert_array_equal(judge.predict(made, heldout.x), heldout.attributes)
    assert made.heldout_accuracy == 1
    # The point in the middle of an edge has one attribute for sure.
    assert judge.predict(made, np.array([[1.5, -1.5]], np.float32)).tolist() == [[1, 0]]


def test_a_judge_learns_combinations_that_models_never_see():
    """Points with both attributes lie where neither one alone would put them."""
    rng = np.random.default_rng(1)

    def split(attributes):
        attributes = np.asarray(attributes, np.uint8)
        center = np.where(attributes.all(axis=1)[:, None], -4.0, 3.0 * attributes - 1.5)
        x = center + 0.3 * rng.normal(size=attributes.shape)
        return Split(x.astype(np.float32), None, attributes)

    seen = [[0, 0], [0, 1], [1, 0]] * 100
    points = Dataset("points", split(seen), split(seen), attribute_names=("Right", "Up"))
    both = split([[1, 1]] * 100)
    assert not judge.predict(judge.fit_judge(points, num_epochs=30), both.x).all(axis=1).any()
    told = dataclasses.replace(points, judges_only=split([[1, 1]] * 100))
    assert judge.identity(told)["num_train"] == 400
    made = judge.fit_judge(told, num_epochs=30)
    assert judge.predict(made, both.x).all(axis=1).mean() > 0.98
    assert made.heldout_accuracy > 0.98
