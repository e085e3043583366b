"""Real small datasets prepared on disk, TFDS's own mock, and every way in which it can fail."""

import io
import logging
import socket
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

from gmm_diffusion import lazy_tensorflow
from gmm_diffusion.data import tfds_images
from gmm_diffusion.errors import InputError


@pytest.fixture(scope="module")
def tfds():
    return lazy_tensorflow.import_tensorflow_datasets()


def _picture(i, height=6, width=9):
    return np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def prepared(tfds, tmp_path_factory):
    """A folder in which TFDS has prepared three small datasets of PNG images."""
    info = {"homepage": "", "description": "made for a test"}

    class TinyPictures(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(names=["even", "odd"]),
                    "name": tfds.features.Text(),
                }
            )
            return tfds.core.DatasetInfo(builder=self, features=features, **info)

        def _split_generators(self, dl_manager):
            return {
                "train": self._generate_examples(0, 30),
                "test": self._generate_examples(30, 40),
            }

        def _generate_examples(self, start, stop):
            for i in range(start, stop):
                yield i, {"image": _picture(i), "label": i % 2, "name": str(i)}

    class TinyUnlabelled(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"photo": tfds.features.Image(shape=(None, None, 3))}
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features, **info)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(10):
                yield i, {"photo": _picture(i, width=9 + i)}

    class TinySound(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"label": tfds.features.ClassLabel(num_classes=2)}
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features, **info)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(4):
                yield i, {"label": i % 2}

    folder = tmp_path_factory.mktemp("tfds")
    for builder in (TinyPictures, TinyUnlabelled, TinySound):
        builder(data_dir=folder).download_and_prepare()
    return folder


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def _rows(x):
    return sorted(image.tobytes() for image in x)


def test_reads_every_image_once_with_its_label(prepared):
    data = tfds_images.load("tiny_pictures", data_dir=str(prepared))
    assert data.train.x.shape == (30, 6, 9, 3)
    assert data.train.x.dtype == np.uint8
    assert _rows(data.train.x) == _rows(_picture(i) for i in range(30))
    assert _rows(data.heldout.x) == _rows(_picture(i) for i in range(30, 40))
    assert (data.num_classes, data.class_names) == (2, ("even", "odd"))
    for x, label in zip(data.train.x, data.train.label, strict=True):
        assert x.tobytes() in {_picture(i).tobytes() for i in range(label, 30, 2)}
    assert "tiny_pictures/1.0.0" in data.name


def test_the_order_is_always_the_same(prepared):
    a, b = (tfds_images.load("tiny_pictures", data_dir=str(prepared)) for _ in range(2))
    np.testing.assert_array_equal(a.train.x, b.train.x)
    few = tfds_images.load("tiny_pictures", data_dir=str(prepared), max_examples=7)
    np.testing.assert_array_equal(few.train.x, a.train.x[:7])
    np.testing.assert_array_equal(few.heldout.label, a.heldout.label[:7])
    assert few.name != a.name


def test_resolution_is_a_central_square_of_that_side(prepared, caplog):
    caplog.set_level(logging.INFO)
    data = tfds_images.load("tiny_pictures", data_dir=str(prepared), resolution=6)
    # 6 x 9 to 6 x 6: the middle columns, 1 to 6, and no resampling.
    assert _rows(data.train.x) == _rows(
        np.ascontiguousarray(_picture(i)[:, 1:7]) for i in range(30)
    )
    assert tfds_images.load("tiny_pictures", str(prepared), resolution=4).shape == (4, 4, 3)
    assert "test have 6x9 pixels, and are made 4x4: data.resolution and data.crop" in caplog.text


def test_holds_out_a_stratified_part_where_there_is_one_split(prepared):
    data = tfds_images.load(
        "tiny_pictures", str(prepared), heldout_split=None, heldout_fraction=0.2, split_seed=1
    )
    np.testing.assert_array_equal(np.bincount(data.heldout.label), [3, 3])
    assert _rows([*data.train.x, *data.heldout.x]) == _rows(_picture(i) for i in range(30))


def test_without_labels_and_with_one_image_of_another_name(prepared):
    data = tfds_images.load("tiny_unlabelled", str(prepared), heldout_split=None, resolution=6)
    assert (data.num_classes, data.class_names) == (0, ())
    assert data.train.label is None
    assert data.heldout.label is None
    assert (len(data.train), len(data.heldout)) == (8, 2)


def test_a_number_of_examples_that_is_not_known(prepared, tfds, monkeypatch):
    builder = tfds.builder("tiny_pictures", data_dir=str(prepared))
    source = builder.as_dataset(split="train").filter(lambda example: example["label"] == 1)
    monkeypatch.setattr(type(builder), "as_dataset", lambda *args, **kwargs: source)
    data = tfds_images.load("tiny_pictures", str(prepared))
    assert data.train.x.shape == (15, 6, 9, 3)
    assert _rows(data.train.x) == _rows(_picture(i) for i in range(1, 30, 2))


def test_mock_data(tfds, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_images, "_probe", lambda url: None)
    with tfds.testing.mock_data(num_examples=12):
        data = tfds_images.load("cifar10", data_dir=str(tmp_path))
        faces = tfds_images.load("celeb_a", data_dir=str(tmp_path), resolution=16)
    assert data.train.x.shape == (12, 32, 32, 3)
    assert data.num_classes == 10
    assert len(data.class_names) == 10
    assert faces.shape == (16, 16, 3)
    assert faces.num_classes == 0
    assert len(faces.attribute_names) == 40
    assert faces.train.attributes.shape == (12, 40)


def test_attributes_by_name(tfds, tmp_path, monkeypatch):
    def generate(self, *args, **kwargs):
        for i in range(6):
            attributes = {name: False for name in self.info.features["attributes"]}
            attributes |= {"Smiling": i % 2 == 1, "Bald": i % 3 == 0}
            others = {"landmarks": {k: 0 for k in self.info.features["landmarks"]}}
            others["identity"] = {"Identity_No": i}
            image = _picture(i, 218, 178)
            yield i, {"image": image, "attributes": attributes, **others}

    builder = tfds.builder_cls("celeb_a")
    monkeypatch.setattr(builder, "_generate_examples", generate)
    monkeypatch.setattr(
        builder,
        "_split_generators",
        lambda self, _: {s: self._generate_examples() for s in ("train", "test")},
    )
    monkeypatch.setattr(tfds_images, "_probe", lambda url: None)
    data = tfds_images.load(
        "celeb_a", str(tmp_path), attributes=("Bald", "Smiling"), crop="57,25,128,128"
    )
    assert data.attribute_names == ("Bald", "Smiling")
    assert data.shape == (128, 128, 3)
    assert len(data.train) == 6
    assert "crop 57,25,128,128" in data.name
    # CelebA is stored as JPEG, so that pixels are near the original's and no more.
    box = [_picture(i, 218, 178)[57:185, 25:153].astype(int) for i in range(6)]
    for x, row in zip(data.train.x, data.train.attributes, strict=True):
        i = int(np.argmin([np.abs(b - x).mean() for b in box]))
        assert row.tolist() == [i % 3 == 0, i % 2 == 1]
    with pytest.raises(InputError, match=r"attribute 'smiling', .* did you mean Smiling\?"):
        tfds_images.load("celeb_a", str(tmp_path), attributes=("smiling",))


def test_offline_is_said_at_once_with_the_folder_and_the_alternatives(offline, tmp_path):
    start = time.monotonic()
    with pytest.raises(InputError, match="no network") as error:
        tfds_images.load("cifar10", data_dir=str(tmp_path))
    assert time.monotonic() - start < 10
    for part in ("cifar10/3.0.2", str(tmp_path), "digits, toy and faces"):
        assert part in str(error.value)


def test_prepared_data_need_no_network(offline, prepared):
    assert len(tfds_images.load("tiny_pictures", str(prepared)).train) == 30


def test_a_failed_download_is_one_sentence(tfds, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionResetError("reset by peer\nand a long story")

    monkeypatch.setattr(tfds_images, "_probe", lambda url: None)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(InputError, match="ConnectionResetError: reset by peer") as error:
        tfds_images.load("cifar10", data_dir=str(tmp_path))
    assert "long story" not in str(error.value)


def test_probe_of_a_server_that_never_answers(monkeypatch):
    monkeypatch.setattr(tfds_images, "_PROBE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        start = time.monotonic()
        problem = tfds_images._probe(f"http://127.0.0.1:{server.getsockname()[1]}/x")
        assert time.monotonic() - start < 3
    assert "no answer within 0.5 s" in problem or "timed out" in problem


def test_probe_is_bounded_even_if_the_look_up_hangs(monkeypatch):
    monkeypatch.setattr(tfds_images, "_PROBE_SECONDS", 0.2)
    release = threading.Event()

    def hang(*args, **kwargs):
        release.wait(30)
        raise OSError("released")

    monkeypatch.setattr(urllib.request, "urlopen", hang)
    start = time.monotonic()
    assert "no answer within 0.2 s" in tfds_images._probe("http://127.0.0.1/x")
    assert time.monotonic() - start < 5
    release.set()


@pytest.mark.parametrize(("code", "fine"), [(403, True), (405, True), (407, False), (503, False)])
def test_probe_of_a_server_that_refuses(monkeypatch, code, fine):
    def refuse(request, timeout):
        raise urllib.error.HTTPError(request.full_url, code, "no", {}, io.BytesIO())

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    problem = tfds_images._probe("http://127.0.0.1/x")
    assert problem is None if fine else f"HTTP status {code}" in problem


def test_probe_leaves_other_schemes_alone():
    assert tfds_images._probe("gs://bucket/x") is None


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("celeb_a", ("img_align_celeba.zip (1.34 GiB)", "list_attr_celeba.txt", "image_folder")),
        ("cifar10", ("cifar-10-binary.tar.gz", "cifar_archive")),
    ],
)
def test_what_to_do_by_hand(name, parts, offline, tmp_path):
    with pytest.raises(InputError, match="no network") as error:
        tfds_images.load(name, data_dir=str(tmp_path))
    assert all(part in str(error.value) for part in parts)


def test_refuses_attributes_where_there_are_none(prepared):
    with pytest.raises(InputError, match=r"names Bald, and dataset tiny_pictures/1\.0\.0 has no"):
        tfds_images.load("tiny_pictures", str(prepared), attributes=("Bald",))


def test_refuses_an_unknown_name(tmp_path):
    with pytest.raises(InputError, match=r"data\.tfds_name is 'no_such_thing'") as error:
        tfds_images.load("no_such_thing", data_dir=str(tmp_path))
    assert str(tmp_path) in str(error.value)
    assert len(str(error.value)) < 600


def test_refuses_splits(prepared):
    folder = str(prepared)
    with pytest.raises(InputError, match="train_split is 'training'; tiny_pictures has"):
        tfds_images.load("tiny_pictures", folder, train_split="training")
    with pytest.raises(InputError, match="heldout_split is 'test'; tiny_unlabelled has train"):
        tfds_images.load("tiny_unlabelled", folder)
    with pytest.raises(InputError, match=r"split 'train\[' of dataset tiny_pictures"):
        tfds_images.load("tiny_pictures", folder, train_split="train[")


def test_refuses_an_empty_split(prepared):
    with pytest.raises(InputError, match=r"split 'train\[:0\]' of dataset tiny_pictures/1.0.0"):
        tfds_images.load("tiny_pictures", str(prepared), train_split="train[:0]")
    with pytest.raises(InputError, match="is empty; at least one image needed"):
        tfds_images.load("tiny_pictures", str(prepared), max_examples=0)


def test_refuses_images_of_several_sizes(prepared):
    with pytest.raises(InputError, match=r"data\.resolution makes them equal"):
        tfds_images.load("tiny_unlabelled", str(prepared), heldout_split=None)
    with pytest.raises(InputError, match=r"in train.* and .* in .*data\.resolution"):
        tfds_images.load("tiny_unlabelled", str(prepared), "train[:1]", "train[1:2]")


def test_refuses_datasets_without_images(prepared):
    with pytest.raises(InputError, match="has the features label; valid is one with a uint8"):
        tfds_images.load("tiny_sound", str(prepared))


def test_refuses_missing_labels(prepared, tfds, monkeypatch):
    builder = tfds.builder("tiny_pictures", data_dir=str(prepared))
    source = builder.as_dataset(split="train").map(lambda e: {**e, "label": e["label"] - 1})
    monkeypatch.setattr(type(builder), "as_dataset", lambda *args, **kwargs: source)
    with pytest.raises(InputError, match="holds the label -1, which stands for none"):
        tfds_images.load("tiny_pictures", str(prepared))
