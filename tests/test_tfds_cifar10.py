"""CIFAR-10 from images: the dataset that the script builds, and a run of the exact config on it."""

import importlib.util
import io
import json
import pathlib
import tarfile

import numpy as np
import pytest
from PIL import Image

from gmm_diffusion.data import tfds_images
from gmm_diffusion.errors import InputError

REPOSITORY = pathlib.Path(__file__).parents[1]
CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
COUNTS = {"train": 30, "test": 4}
NARROW = {
    "conditioning.em_iterations": 2,
    "conditioning.embedding_features": 16,
    "conditioning.feature_dim": 4,
    "conditioning.num_components": 20,
    "network.channels": 8,
    "network.channel_mult": (1,),
    "network.num_blocks": 1,
    "network.attention_resolutions": (),
    "network.log_variance_features": 16,
    "training.batch_size": 8,
    "training.steps_per_call": 2,
    "training.log_every": 2,
    "training.heldout_every": 0,
    "training.tensorboard": False,
    "checkpoint.every": 2,
    "sample.num": 4,
    "sample.steps": 2,
    "evaluation.judges": 1,
    "evaluation.judge_epochs": 1,
    "evaluation.max_samples": 16,
    "evaluation.max_reference": 40,
    "evaluation.loss_levels": 1,
}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("t", REPOSITORY / "launch" / "tfds_cifar10.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def jpeg(i, size=(32, 32)):
    pixels = np.random.default_rng(i).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def decoded(content):
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.fixture(scope="module")
def images():
    """Path below the archive's own folder -> JPEG."""
    paths = [f"{s}/{c}/{i:04}.jpg" for s, n in COUNTS.items() for c in CLASSES for i in range(n)]
    return {path: jpeg(i) for i, path in enumerate(paths)}


@pytest.fixture(scope="module")
def archive(images, tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "images.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        for name, content in {"README.md": b"ours", **images}.items():
            entry = tarfile.TarInfo(f"CIFAR-10-images/{name}")
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def built(script, archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    assert script.build(archive, folder, "array_record") == {"train": 300, "test": 40}
    return folder


def test_every_image_with_its_class(built, images):
    data = tfds_images.load("cifar10", data_dir=str(built))
    assert data.class_names == CLASSES
    for name, split in (("train", data.train), ("test", data.heldout)):
        found = sorted((x.tobytes(), int(i)) for x, i in zip(split.x, split.label, strict=True))
        assert found == sorted(
            (decoded(content).tobytes(), CLASSES.index(path.split("/")[1]))
            for path, content in images.items()
            if path.startswith(name)
        )
    assert "pixels of JPEG" in (built / "cifar10" / "3.0.2" / "ORIGIN.txt").read_text()


def test_the_exact_config_from_start_to_evaluation(built, run_main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exact = [
        f"--config={REPOSITORY / 'configs' / 'cifar_gmm.py'}",
        f"--config.data.data_dir={built}",
        *(f"--config.{field}={value}" for field, value in NARROW.items()),
    ]
    run = tmp_path / "runs" / "cifar_gmm"
    # Streamed first, and from memory when it goes on.
    for steps, where, evaluated in ((2, "never", False), (4, "always", True)):
        status, _, err = run_main(
            *exact,
            f"--config.training.num_steps={steps}",
            f"--config.data.in_memory={where}",
            f"--config.evaluation.at_end={evaluated}",
        )
        assert status == 0, err
        assert (run / "evaluation.json").exists() == evaluated
    assert "Resumed runs/cifar_gmm from step 2." in err
    assert json.loads((run / "evaluation.json").read_text())
    status, _, err = run_main(
        f"--workdir={run}", "--mode=sample", "--config.sample.condition=class:3"
    )
    assert status == 0, err
    (file,) = (run / "samples").glob("*.npz")
    assert np.load(file)["x"].shape == (4, 32, 32, 3)


def test_a_folder_is_as_good_as_an_archive(script, images, built, tmp_path):
    for path, content in images.items():
        place = tmp_path / "images" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    script.build(tmp_path / "images", tmp_path / "built", "array_record")
    ours, theirs = (
        tfds_images.load("cifar10", data_dir=str(d)) for d in (tmp_path / "built", built)
    )
    np.testing.assert_array_equal(ours.train.x, theirs.train.x)
    np.testing.assert_array_equal(ours.train.label, theirs.train.label)


def test_sources_that_cannot_be_used(script, images, built, tmp_path):
    def refused(match, changes=(), data_dir=None, whole=False):
        root = tmp_path / "images"
        few = {p: c for p, c in images.items() if whole or p.endswith("0000.jpg")} | dict(changes)
        for path, content in few.items():
            place = root / path
            place.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                place.unlink()
            else:
                place.write_bytes(content)
        with pytest.raises(InputError, match=match):
            script.build(root, data_dir or tmp_path / "new")

    refused(r"3\.0\.2 is there already; choose another", data_dir=built)
    refused("is of no class of CIFAR-10; they are airplane, ", {"train/owl/0.jpg": jpeg(0)})
    (tmp_path / "images" / "train" / "owl" / "0.jpg").unlink()
    cats = {"test/cat/0000.jpg": None}
    refused(r"holds no image test/cat/\*; it must hold train and", cats)
    small = {"train/cat/0000.jpg": jpeg(0, (28, 32))}
    refused(r"cat/0000.jpg has 28x32 pixels; it must be 32x32", small)
    refused("cat/0000.jpg cannot be read as an image", {"train/cat/0000.jpg": b"none"})
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(b"\x1f\x8b none")
    with pytest.raises(InputError, match="cannot be read as an archive"):
        script.build(broken, tmp_path / "new")


def test_the_command_line(script, tmp_path, capsys):
    assert script.run([]) == 2
    assert "are required: source, data_dir; see --help" in capsys.readouterr().err
    assert script.run([str(tmp_path / "none"), str(tmp_path)]) == 2
    assert "none'; it must be a folder or an archive" in capsys.readouterr().err
    assert script.run(["--help"]) == 0
    assert "SOURCE is a folder or a .tar.gz" in capsys.readouterr().out
