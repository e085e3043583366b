"""The data of a run may move, and may not change."""

import dataclasses
import json
import logging

import numpy as np
import pytest
from PIL import Image

from gmm_diffusion import assembly
from gmm_diffusion.assembly import initialisation
from gmm_diffusion.commands import evaluate, sample, train
from gmm_diffusion.data import DATASETS, Dataset, Split, decoded_images
from gmm_diffusion.data.toy import load as load_toy
from gmm_diffusion.errors import InputError
from gmm_diffusion.evaluation import report as evaluation_report
from gmm_diffusion.runs import data_fingerprint
from gmm_diffusion.runs.workdir import read_config, write_config

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (400, 6, 6, 3), dtype=np.uint8)
LABELS = (np.arange(400) % 3).astype(np.int32)
BITS = RNG.integers(0, 2, (400, 2), dtype=np.uint8)
FEATURES = RNG.normal(size=(400, 3)).astype(np.float32)


def dataset(x=IMAGES, label=LABELS, attributes=BITS, features=FEATURES, **fields):
    split = Split(x, label, attributes, None if features is None else features[: len(x)])
    fields = {"class_names": ("a", "b", "c"), "attribute_names": ("X", "Y")} | fields
    return Dataset("made up", split, split.take(np.arange(50)), 3, **fields)


def changed(array, where, value):
    array = array.copy()
    array[where] = value
    return array


OTHERS = {
    "one example fewer": (dataset(IMAGES[1:], LABELS[1:], BITS[1:]), "399 examples where it had"),
    "another size": (dataset(IMAGES[:, :5]), "the shape 5, 6, 3 where it was 6, 6, 3"),
    "another order": (dataset(IMAGES[::-1]), "of 256 examples compared in the split train"),
    "one other image": (dataset(changed(IMAGES, 0, 255)), "1 of 256 examples compared"),
    "other labels": (dataset(label=changed(LABELS, 399, 2)), "labels of the split train"),
    "other attributes": (
        dataset(attributes=changed(BITS, (7, 1), 1 - BITS[7, 1])),
        "attributes of the split train",
    ),
    "other features": (
        dataset(features=changed(FEATURES, (7, 1), 9)),
        "features of the split train",
    ),
    "no features": (dataset(features=None), "features of the split train"),
    "other classes": (dataset(class_names=("a", "b", "d")), "the classes are a, b, d where"),
    "other names": (dataset(attribute_names=("X", "Z")), "the attributes are X, Z where"),
    "a split more": (dataset(unseen=Split(IMAGES[:3])), "unseen has 3 examples where it had 0"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_data_are_refused(name, make_config, tmp_path):
    config, (other, message) = make_config("tiny"), OTHERS[name]
    config.data.data_dir = "/moved/here"
    data_fingerprint.keep(config, dataset(), tmp_path)
    before = (tmp_path / "data.json").read_bytes()
    for compare in (data_fingerprint.check, data_fingerprint.keep):
        with pytest.raises(InputError) as caught:
            compare(config, other, tmp_path)
        assert message in str(caught.value)
        assert "data.data_dir /moved/here must be what it was" in str(caught.value)
        assert "--config.data.data_dir=PATH" in str(caught.value)
    assert (tmp_path / "data.json").read_bytes() == before


def test_features_may_come_to_a_run_without_any(make_config, tmp_path):
    data_fingerprint.keep(make_config("tiny"), dataset(features=None), tmp_path)
    data_fingerprint.check(make_config("tiny"), dataset(), tmp_path)
    # As before there were any.
    stored = json.loads((tmp_path / "data.json").read_text())
    for split in stored["splits"].values():
        del split["features"]
    (tmp_path / "data.json").write_text(json.dumps(stored))
    data_fingerprint.check(make_config("tiny"), dataset(), tmp_path)


def test_the_same_data_in_silence(make_config, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    data_fingerprint.keep(make_config("tiny"), dataset(), tmp_path)
    data_fingerprint.keep(make_config("tiny"), dataset(IMAGES.copy()), tmp_path)
    assert not caplog.records


def test_another_rounding_is_a_warning(make_config, tmp_path, caplog):
    """A library of another version: a tenth of all pixels one level off."""
    off = RNG.random(IMAGES.shape) < 0.1
    rounded = np.where(off, np.clip(IMAGES.astype(int) + 1, 0, 255), IMAGES).astype(np.uint8)
    data_fingerprint.keep(make_config("tiny"), dataset(), tmp_path)
    data_fingerprint.keep(make_config("tiny"), dataset(rounded), tmp_path)
    assert "The split train is not byte for byte" in caplog.text


def test_points(make_config, tmp_path, caplog):
    def points(x):
        split = Split(x.astype(np.float32))
        return Dataset("points", split, split.take(np.arange(50)))

    x = 100 * RNG.standard_normal((400, 2))
    data_fingerprint.keep(make_config("toy"), points(x), tmp_path)
    # The last bits, as another processor makes them.
    data_fingerprint.keep(make_config("toy"), points(x * (1 + 1e-6)), tmp_path)
    assert "not byte for byte" in caplog.text
    for other in (x + 1, x * 1.01, x[:, ::-1] * 0.9):
        with pytest.raises(InputError, match="examples compared"):
            data_fingerprint.keep(make_config("toy"), points(other), tmp_path)


def test_a_file_that_is_damaged_stops_nothing(make_config, tmp_path, caplog):
    data_fingerprint.keep(make_config("tiny"), dataset(), tmp_path)
    good = json.loads((tmp_path / "data.json").read_text())
    damages = ["", "5", "[]", "{}", "[" * 100_000, "null", json.dumps(good)[:-20]]
    damages += [json.dumps({k: v for k, v in good.items() if k != field}) for field in good]
    for text in damages:
        (tmp_path / "data.json").write_text(text)
        data_fingerprint.check(make_config("tiny"), OTHERS["another order"][0], tmp_path)
        assert "is damaged" in caplog.text
        caplog.clear()
    data_fingerprint.keep(make_config("tiny"), dataset(), tmp_path)
    assert json.loads((tmp_path / "data.json").read_text()) == good


@pytest.fixture
def places(monkeypatch, make_config):
    """Data that are found by their place: `{place: dataset}`, and a config of the first."""
    found = {"/first": load_toy("ring", 1000, 100, 0)}

    def load(**options):
        return found[config.data.data_dir]

    config = make_config("toy")
    config.data.data_dir = "/first"
    config.conditioning.kind = "none"
    config.training.num_steps = 2
    config.training.heldout_every = 0
    config.evaluation.blocks = 1
    config.sample.num = 4
    monkeypatch.setitem(DATASETS, "toy", load)
    monkeypatch.setattr(evaluation_report, "evaluate_and_report", lambda *args: {"evaluated": True})
    return config, found


def test_a_run_whose_data_move(places, tmp_path, monkeypatch):
    config, found = places
    train.train(config, tmp_path / "run")
    stored = (tmp_path / "run" / "data.json").read_bytes()
    found["/second"] = found.pop("/first")
    # Sampling needs no data, and no directory in particular.
    monkeypatch.chdir("/")
    sample.sample(config, tmp_path / "run")
    config.data.data_dir = "/second"
    assert evaluate.evaluate(config, tmp_path / "run") == {"evaluated": True}
    config.training.num_steps = 4
    train.train(config, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "4").is_dir()
    assert read_config(tmp_path / "run").data.data_dir == "/second"
    assert (tmp_path / "run" / "data.json").read_bytes() == stored
    # The same place with another content.
    found["/second"] = load_toy("ring", 1000, 100, 1)
    config.training.num_steps = 6
    for work in (train.train, evaluate.evaluate):
        with pytest.raises(InputError, match="began with other data"):
            work(config, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints" / "6").exists()
    assert read_config(tmp_path / "run").training.num_steps == 4
    # A run of an earlier version takes what it is given.
    (tmp_path / "run" / "data.json").unlink()
    assert evaluate.evaluate(config, tmp_path / "run") == {"evaluated": True}
    assert not (tmp_path / "run" / "data.json").exists()


def test_a_run_that_starts_from_another_may_find_its_data_elsewhere(places, tmp_path):
    config, found = places
    train.train(config, tmp_path / "run")
    config = config.copy_and_resolve_references()
    config.data.data_dir, config.training.init_from = "/second", str(tmp_path / "run")
    assert initialisation.fit_statistics(config, found["/first"]).conditioner is None
    config.data.split_seed = 1
    with pytest.raises(InputError, match=r"data\.split_seed: 0 -> 1"):
        initialisation.fit_statistics(config, found["/first"])


def test_data_that_are_gone_say_how_to_change_the_place(make_config, tmp_path, monkeypatch):
    config = make_config("tiny")
    for name, what in (("image_folder", "no folder"), ("cifar_archive", "not a file")):
        config.data.name, config.data.data_dir = name, str(tmp_path / "gone")
        with pytest.raises(InputError) as caught:
            assembly.dataset(config)
        assert f"data.data_dir is '{tmp_path / 'gone'}', which is {what}" in str(caught.value)
        assert "--config.data.data_dir=PATH says where to" in str(caught.value)
    config.data.name, config.data.data_dir = "tfds_images", ""
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda text: text)
    with pytest.raises(InputError, match=r"The default of data\.data_dir is '~/tensorflow"):
        assembly.dataset(config)


def test_splits_of_all_kinds_are_compared():
    fields = {f.name for f in dataclasses.fields(Dataset) if "Split" in str(f.type)}
    assert fields == {*data_fingerprint._SPLITS}


def test_a_folder_that_changes_between_two_starts(make_config, tmp_path, monkeypatch, caplog):
    """Also where decoded images are kept, and held-out ones lie apart from the others."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded_images, "FEWEST", 1)
    monkeypatch.setattr(decoded_images, "SETTLED_SECONDS", -1e9)
    for i in range(30):
        place = tmp_path / ("held" if i < 10 else "images") / ("cat", "dog")[i % 2] / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[i]).save(place)
    config = make_config("tiny")
    config.data.name, config.data.in_memory = "image_folder", "always"
    config.data.data_dir, config.data.heldout_dir = str(tmp_path / "images"), str(tmp_path / "held")
    run = tmp_path / "run"
    run.mkdir()
    data = assembly.dataset(config)
    assert [len(s) for s in (data.train, data.validation, data.heldout)] == [18, 2, 10]
    data_fingerprint.keep(config, data, run)
    assert list((tmp_path / "cache").rglob("*.npz"))
    # Elsewhere they are the same.
    (tmp_path / "held").rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"heldout_dir is .* --config.data.heldout_dir=PATH says"):
        assembly.dataset(config)
    config.data.heldout_dir = str(tmp_path / "moved")
    data_fingerprint.check(config, assembly.dataset(config), run)
    place = tmp_path / "moved" / "cat" / "4.png"
    Image.fromarray(IMAGES[100]).save(place)
    with pytest.raises(InputError, match="1 of 10 examples compared in the split heldout are oth"):
        data_fingerprint.check(config, assembly.dataset(config), run)
    Image.fromarray(IMAGES[4]).save(place)
    data_fingerprint.check(config, assembly.dataset(config), run)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    (tmp_path / "images" / "dog" / "11.png").unlink()
    with pytest.raises(InputError, match="the split train has 17 examples where it had 18"):
        data_fingerprint.check(config, assembly.dataset(config), run)


def test_a_folder_with_a_split_for_choices(make_config, tmp_path):
    """It takes the place of a share of the training split, where one is wanted."""
    for i in range(60):
        split = ("train", "train", "test", "val")[i % 4]
        place = tmp_path / split / ("cat", "dog")[i // 4 % 2] / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[i]).save(place)
    config = make_config("tiny")
    config.data.name, config.data.data_dir = "image_folder", str(tmp_path)
    data = assembly.dataset(config)
    np.testing.assert_array_equal(
        np.sort([x.sum() for x in data.validation.x]), np.sort([x.sum() for x in IMAGES[3:60:4]])
    )
    assert [len(s) for s in (data.train, data.heldout)] == [30, 15]
    config.data.validation_fraction = 0.0
    assert assembly.dataset(config).validation is None


def test_splits_of_tfds_chosen_for_a_folder(make_config, tmp_path):
    """A new run is refused; one of an earlier version goes on to look at its data."""
    config = make_config("tiny")
    config.data.name, config.data.data_dir = "image_folder", str(tmp_path / "no_such")
    config.data.heldout_split = "val"
    with pytest.raises(
        InputError, match=r"data.heldout_split is 'val'; data.name image_folder has"
    ):
        train.train(config, str(tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()
    (tmp_path / "run").mkdir(exist_ok=True)
    write_config(config, tmp_path / "run")
    with pytest.raises(InputError, match="no_such', which is no folder"):
        train.train(config, str(tmp_path / "run"))
