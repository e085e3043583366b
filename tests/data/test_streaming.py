"""Examples that stay in files are those in memory, bit for bit and in the same order."""

import logging
import resource

import numpy as np
import pytest
from PIL import Image

from gmm_diffusion import lazy_tensorflow, memory
from gmm_diffusion.data import batches, dataset, image_folder, streaming, tfds_images
from gmm_diffusion.data.dataset import combination_classes, evenly_spaced, with_validation
from gmm_diffusion.errors import InputError


def picture(i):
    return np.random.default_rng(i).integers(0, 256, (4, 6, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Two classes of 15 images each."""
    for i in range(30):
        path = tmp_path / "photos" / str(i % 2) / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(i)).save(path)
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder in which TFDS has prepared images, in the formats of its two folders."""
    tfds = lazy_tensorflow.import_tensorflow_datasets()

    class FewPictures(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            boolean = tfds.features.Scalar(np.bool_)
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["even", "odd"]),
                "attributes": {"Bright": boolean, "Round": boolean},
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                homepage="",
                description="made for a test",
            )

        def _split_generators(self, dl_manager):
            parts = {"train": (0, 30), "test": (30, 40)}
            return {name: self._generate_examples(*part) for name, part in parts.items()}

        def _generate_examples(self, start, stop):
            for i in range(start, stop):
                attributes = {"Bright": i % 3 == 0, "Round": i % 5 == 0}
                yield i, {"image": picture(i), "label": i % 2, "attributes": attributes}

    folder = tmp_path_factory.mktemp("tfds")
    for file_format in ("array_record", "tfrecord"):
        builder = FewPictures(data_dir=folder / file_format, file_format=file_format)
        builder.download_and_prepare()
    return folder


def of_folder(folder, in_memory, **options):
    return image_folder.load(str(folder), in_memory=in_memory, **options)


def of_records(prepared, in_memory, **options):
    place = str(prepared / "array_record")
    return tfds_images.load("few_pictures", place, in_memory=in_memory, **options)


def check_equal(held, streamed):
    assert streamed.name == held.name
    for name in ("train", "heldout", "validation", "unseen"):
        ours, theirs = getattr(streamed, name), getattr(held, name)
        assert (ours is None) == (theirs is None)
        if ours is None:
            continue
        assert ours.streamed
        assert not theirs.streamed
        rows = np.random.default_rng(0).permutation(len(theirs))
        np.testing.assert_array_equal(ours.x[rows], theirs.x[rows])
        np.testing.assert_array_equal(ours.x[1:5], theirs.x[1:5])
        np.testing.assert_array_equal(ours.x[-1], theirs.x[-1])
        np.testing.assert_array_equal(ours.label, theirs.label)
        np.testing.assert_array_equal(ours.attributes, theirs.attributes)
        some = rows[: len(rows) // 2]
        np.testing.assert_array_equal(ours.take(some).read(slice(None)).x, theirs.x[some])


def test_a_folder_is_the_same_as_in_memory(folder):
    options = {"resolution": 3, "max_examples": 27, "split_seed": 2}
    held, streamed = (of_folder(folder, choice, **options) for choice in ("always", "never"))
    check_equal(held, streamed)
    check_equal(*(with_validation(data, 0.3, 1) for data in (held, streamed)))


def test_records_are_the_same_as_in_memory(prepared, caplog):
    caplog.set_level(logging.INFO)
    for options in ({}, {"resolution": 3, "max_examples": 7, "attributes": ("Round",)}):
        held, streamed = (of_records(prepared, choice, **options) for choice in ("always", "never"))
        check_equal(held, streamed)
    assert "pixels, and are made 3x3: data.resolution and data.crop center." in caplog.text
    streamed = of_records(prepared, "never", train_split="train[:50%]", heldout_split=None)
    assert len(streamed.train) + len(streamed.heldout) == 15
    # And they are those that were written, whatever format they were written in.
    data = of_records(prepared, "never")
    before = tfds_images.load("few_pictures", str(prepared / "tfrecord"))
    assert data.attribute_names == ("Bright", "Round")
    for split, other in ((data.train, before.train), (data.heldout, before.heldout)):
        np.testing.assert_array_equal(split.x[:], other.x)
        np.testing.assert_array_equal(split.label, other.label)
        np.testing.assert_array_equal(split.attributes, other.attributes)


def test_combinations_that_training_never_shows_stay_streamed(folder):
    rows = "".join(f"{i % 2}/{i:02}.png,{i % 2},{int(i > 26)}\n" for i in range(30))
    (folder / "attributes.csv").write_text(f"file,A,B\n{rows}")
    options = {"heldout_fraction": 0.5, "split_seed": 3}
    data = [of_folder(folder, choice, **options) for choice in ("always", "never")]
    # The two examples with both are held out here, and training must show three combinations.
    check_equal(*(combination_classes(d) for d in data))


def test_batches_are_read_ahead_in_the_order_of_memory(folder):
    held, streamed = (of_folder(folder, choice).train for choice in ("always", "never"))

    def rows(step):
        return batches.indices(5, step, 7, len(held))[0]

    # Over several epochs, and from a step in the middle on.
    for steps in (range(12), range(5, 9)):
        read = list(streaming.read_ahead(streamed.x, rows, steps))
        assert len(read) == len(steps)
        for step, batch in zip(steps, read, strict=True):
            np.testing.assert_array_equal(batch, held.x[rows(step)])


def test_a_broken_image_in_the_middle_is_named(folder, prepared, monkeypatch):
    data = of_folder(folder, "never").train
    damaged = folder / "1" / "07.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    with pytest.raises(InputError, match=r"07\.png cannot be read as an image"):
        list(streaming.read_ahead(data.x, lambda step: np.arange(8) + 8 * step, range(3)))
    Image.fromarray(picture(0)[:3]).save(damaged)
    with pytest.raises(InputError, match=r"00\.png has 4x6 pixels and .*07\.png 3x6"):
        data.x[:]
    damaged.unlink()
    with pytest.raises(InputError, match=r"07\.png cannot be read .*No such file"):
        data.x[:]
    records = of_records(prepared, "never").train.x
    monkeypatch.setattr(tfds_images.Image, "open", lambda file: 1 / 0)
    with pytest.raises(InputError, match=r"record 3 of split 'train' of dataset few_pictures"):
        records[np.array([3])]


def test_what_cannot_be_streamed_says_what_to_type(prepared, folder, monkeypatch):
    place = prepared / "tfrecord"
    with pytest.raises(InputError, match="read in order only") as error:
        tfds_images.load("few_pictures", str(place), in_memory="never")
    line = f"tfds build few_pictures --data_dir={place}/array_record --file_format=array_record"
    assert f"`{line}`" in str(error.value)
    monkeypatch.setattr(streaming.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"grain is not installed; install it with .*\[stream\]"):
        of_folder(folder, "never")
    assert not of_folder(folder, "auto").train.streamed
    with pytest.raises(InputError, match="valid are auto, always, never"):
        of_folder(folder, "sometimes")


def test_auto_goes_by_the_memory_that_is_free(folder, prepared, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    size = 30 * 4 * 6 * 3
    monkeypatch.setattr(streaming, "free_memory", lambda: 2.0 * size)
    assert not of_folder(folder, "auto").train.streamed
    assert "held in memory" in caplog.text
    monkeypatch.setattr(streaming, "free_memory", lambda: 2.0 * size - 1)
    assert of_folder(folder, "auto").train.streamed
    assert "streamed from files" in caplog.text
    assert not of_folder(folder, "always").train.streamed
    assert of_records(prepared, "auto").train.streamed
    tfrecord = str(prepared / "tfrecord")
    assert not tfds_images.load("few_pictures", tfrecord, resolution=6).train.streamed
    assert "should be streamed, and is not" in caplog.text
    assert "--file_format=array_record" in caplog.text


def test_a_sample_is_bounded_and_said(folder, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    held, streamed = (of_folder(folder, choice).train for choice in ("always", "never"))
    assert held.sample() is held
    np.testing.assert_array_equal(streamed.sample().x, held.x)
    np.testing.assert_array_equal(streamed.sample(5).label, held.sample(5).label)
    assert "stand for all" not in caplog.text
    monkeypatch.setattr(dataset, "_SAMPLE_BYTES", 10 * 72)
    few = streamed.sample()
    assert not few.streamed
    np.testing.assert_array_equal(few.x, held.x[evenly_spaced(len(held), 10)])
    assert f"Of {len(held)} streamed examples 10" in caplog.text


def test_nothing_reads_all_of_them_by_accident(folder):
    x = of_folder(folder, "never").train.x
    with pytest.raises(TypeError, match="some rows at a time"):
        np.asarray(x)


def test_free_memory_is_below_a_limit_of_addresses(monkeypatch, tmp_path):
    before = memory.free_memory()
    assert before > 0
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    try:
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, hard))
        assert memory.free_memory() <= 2**28
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    # A control group that allows less than the machine has.
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    assert memory.free_memory() == 2000
