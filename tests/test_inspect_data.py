"""The commands that look at data before a run: what they print, write and refuse."""

import contextlib
import dataclasses
import io
import logging
import pathlib
import re
import socket

import numpy as np
import pytest
from PIL import Image

from gmm_diffusion import inspect_data, make_stats
from gmm_diffusion.assembly.load import load_run
from gmm_diffusion.data import DATASETS, Dataset, Split, to_float
from gmm_diffusion.errors import InputError
from gmm_diffusion.metrics import features, frechet

REPOSITORY = pathlib.Path(__file__).parents[1]
TINY = f"--config={REPOSITORY / 'configs' / 'tiny.py'}"
NONE = "--config.conditioning.kind=none"
PCA = "--config.evaluation.features=pca"


def command(module, *arguments):
    """(exit status, stdout, stderr)."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = module.run([module.__name__, *map(str, arguments)])
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    return status, out.getvalue(), err.getvalue()


def printed(out):
    """The lines of `inspect_data` by their first words."""
    return {line[:11].strip(): line[11:] for line in out.splitlines()}


@pytest.fixture
def folder(tmp_path):
    """200 grey images of two classes, the second one brighter."""
    for i in range(200):
        path = tmp_path / "images" / ("dark", "light")[i % 2] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 128, (8, 8)) + 100 * (i % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tmp_path / "images"


@pytest.fixture
def of_folder(folder, monkeypatch):
    """Settings for `folder`; nothing may ask a network."""
    monkeypatch.setattr(socket, "getaddrinfo", None)
    monkeypatch.setattr(socket.socket, "connect", None)
    # All images that are not held out are to train on.
    data = {"name": "image_folder", "data_dir": folder, "validation_fraction": 0}
    return [f"--config.data.{field}={value}" for field, value in data.items()]


def stand_in(monkeypatch, data):
    # With a validation split none is carved off.
    data = dataclasses.replace(data, validation=data.heldout)
    monkeypatch.setitem(DATASETS, "digits", lambda **_: data)


def test_digits(tmp_path):
    from sklearn.datasets import load_digits

    status, out, err = command(inspect_data, TINY, f"--out={tmp_path}")
    assert status == 0, err
    lines = printed(out)
    assert lines["data"].startswith("digits")
    assert lines["examples"] == "8x8x1, uint8 images"
    assert lines["training"].startswith("1293 examples, 0.1 MiB")
    assert lines["validation"].startswith("144 examples")
    assert lines["held out"].startswith("360 examples")
    assert "unseen" not in lines
    # Of all examples rather than of those to train on, so that they differ a little.
    x = load_digits().data / 8 - 1
    assert float(lines["mean"].split()[0]) == pytest.approx(x.mean(), abs=0.01)
    assert float(lines["deviation"].split()[0]) == pytest.approx(x.std(), abs=0.01)
    counts = [int(part.split("(")[1][:-1]) for part in lines["classes"].split(": ")[1].split(", ")]
    assert len(counts) == 10
    assert sum(counts) == 1293
    assert "K = 10 components fitted to each class" in lines["condition"]
    assert "reads 16 numbers (mean_embedding)" in lines["condition"]
    with Image.open(tmp_path / "sheet.png") as sheet:
        # 8 columns and 10 rows, each image 4 times enlarged, and lines between.
        assert sheet.size == (8 * 33 + 1, 10 * 33 + 1)


def test_a_row_of_the_sheet_is_a_class(of_folder, tmp_path):
    few = [*of_folder, "--config.data.max_examples=12", "--config.conditioning.kind=class"]
    status, out, err = command(inspect_data, TINY, *few, f"--out={tmp_path / 'out'}")
    assert status == 0, err
    lines = printed(out)
    assert lines["classes"] in ("2: dark (5), light (4)", "2: dark (4), light (5)")
    assert lines["condition"].startswith("class: a mixture of K = 2 components")
    with Image.open(tmp_path / "out" / "sheet.png") as image:
        sheet = np.asarray(image)
    assert sheet.shape == (2 * 33 + 1, 8 * 33 + 1, 3)
    assert sheet[1:33, 1:33].mean() < 80 < 140 < sheet[34:66, 1:33].mean()


def test_vectors(tmp_path):
    toy = ["--config.data.name=toy", "--config.network.name=mlp", NONE]
    status, out, err = command(inspect_data, TINY, *toy, f"--out={tmp_path}")
    assert status == 0, err
    assert printed(out)["examples"] == "2, float32 vectors"
    assert printed(out)["condition"].startswith("none")
    clusters = ["--config.conditioning.kind=clusters", "--config.conditioning.num_components=8"]
    status, out, err = command(inspect_data, TINY, *toy[:2], *clusters)
    assert status == 0, err
    assert printed(out)["condition"].startswith("clusters: a mixture of K = 8 components")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_attributes_and_how_they_go_together(monkeypatch):
    rng = np.random.default_rng(0)
    beard = rng.random(400) < 0.25
    # Never with a beard; and a third one that has nothing to do with either.
    lipstick = ~beard & (rng.random(400) < 0.5)
    attributes = np.stack([beard, lipstick, np.arange(400) % 2 == 0], axis=1).astype(np.uint8)
    x = rng.integers(0, 256, (400, 4, 4, 3), dtype=np.uint8)
    names = ("Beard", "Lipstick", "Smiling")
    split = Split(x, None, attributes)
    known = {"attribute_names": names, "exclusive": (names[:2],)}
    data = Dataset("made up", split, split, unseen=split.take([1]), **known)
    monkeypatch.setattr("gmm_diffusion.assembly.datasets.combination_classes", lambda d: d)
    stand_in(monkeypatch, data)
    status, out, err = command(inspect_data, TINY, NONE)
    assert status == 0, err
    lines = printed(out)
    shares = (
        f"Beard {100 * beard.mean():.1f} %, Lipstick {100 * lipstick.mean():.1f} %, Smiling 50.0 %"
    )
    assert lines["attributes"] == f"3: {shares}"
    # The phi coefficient of a two-by-two table.
    b, s = beard.mean(), lipstick.mean()
    phi = -b * s / np.sqrt(b * (1 - b) * s * (1 - s))
    assert lines["together"].startswith(f"Beard and Lipstick {phi:+.2f}, ")
    assert lines["never both"] == "Beard and Lipstick"
    assert lines["unseen"].startswith("1 examples")
    assert "6 combinations of attributes" in lines["training"]


def test_many_classes_are_not_all_listed(monkeypatch):
    label = np.repeat(np.arange(100), np.arange(1, 101)).astype(np.int32)
    x = np.random.default_rng(0).integers(0, 256, (len(label), 2, 2, 1), dtype=np.uint8)
    split, names = Split(x, label), tuple(f"c{i}" for i in range(100))
    stand_in(monkeypatch, Dataset("many", split, split, 100, names))
    _, out, _ = command(inspect_data, TINY, NONE)
    text = printed(out)["classes"]
    assert text.startswith("100; the most and the least frequent: c99 (100), c98 (99)")
    assert text.endswith("c1 (2), c0 (1)")
    assert text.count("(") == 20


def test_what_training_would_refuse_is_refused(of_folder, folder, tmp_path):
    for arguments, message in (
        (["--config.data.data_dir=/no/such"], "is no folder"),
        (["--config.data.data_dir="], "data.data_dir is ''; data.name image_folder needs its path"),
        (["--config.conditioning.num_components=7"], "a multiple of the 2 classes"),
        (["--config.network.channel_mult=(1,1,1,1,1)"], "divisible by 16"),
        (["--config.data.resolutoin=8"], "did you mean data.resolution?"),
        (["--outt=x"], "Unknown command line flag 'outt'"),
    ):
        status, out, err = command(inspect_data, TINY, *of_folder, *arguments)
        assert (status, out) == (2, "")
        assert err.splitlines()[-1].startswith("Error: ")
        assert message in err
    for c in ("dark", "light"):
        for file in (folder / c).iterdir():
            file.rename(folder / file.name)
        (folder / c).rmdir()
    status, _, err = command(inspect_data, TINY, *of_folder)
    assert status == 2
    assert "needs labels, and image_folder images" in err
    (tmp_path / "file").touch()
    status, _, err = command(inspect_data, TINY, *of_folder, NONE, f"--out={tmp_path / 'file'}")
    assert status == 2
    assert "which is a file" in err


def components_of(out):
    """The lines of components in what `--mixture` prints: number, class, share, largest in."""
    body = out[out.index("component  class") :].split("\n\n")[0].splitlines()[1:]
    return [(int(w[0]), w[1], float(w[2]), float(w[4])) for w in map(str.split, body)]


def test_a_mixture(tmp_path):
    asked = ["--mixture", "--components=20,10", "--config.conditioning.num_components=20"]
    status, out, err = command(inspect_data, TINY, *asked, f"--out={tmp_path}")
    assert status == 0, err
    lines = components_of(out)
    assert [name for _, name, _, _ in lines] == [str(k // 2) for k in range(20)]
    assert sorted(k for k, *_ in lines) == list(range(20))
    for column in (2, 3):
        assert sum(line[column] for line in lines) == pytest.approx(100, abs=0.1)
    # Two of a class, the larger first.
    assert all(a[2] >= b[2] for a, b in zip(lines[::2], lines[1::2], strict=True))
    assert "of at most 0.693: as if 1." in printed(out)["entropy"]
    curve = out[out.index("K    training") :].splitlines()
    likelihood = [s.split() for s in curve if re.match(r" +(10|20)  ", s)]
    assert [row[0] for row in likelihood] == ["10", "20"]
    assert float(likelihood[1][1]) > float(likelihood[0][1])
    assert "validation" in out
    assert " is best, " in out
    with Image.open(tmp_path / "mixture.png") as sheet:
        # A mean and eight images, four times enlarged, and captions to the left of them.
        assert sheet.size[1] == 20 * 33 + 1
        assert 9 * 33 + 1 < sheet.size[0] < 9 * 33 + 200
    assert (tmp_path / "likelihood.png").read_bytes().startswith(b"\x89PNG")


def test_the_mean_of_a_component_is_drawn_beside_its_nearest_images(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    label = (np.arange(200) % 2).astype(np.int32)
    x = (60 + 120 * label[:, None, None, None] + rng.integers(0, 30, (200, 4, 4, 1))).astype(
        np.uint8
    )
    split = Split(x, label)
    stand_in(monkeypatch, Dataset("two", split, split, 2, ("dark", "light")))
    asked = ["--mixture", "--components=2", "--config.conditioning.num_components=2"]
    raw = "--config.conditioning.features=raw"
    status, _, err = command(inspect_data, TINY, *asked, raw, f"--out={tmp_path}")
    assert status == 0, err
    with Image.open(tmp_path / "mixture.png") as image:
        sheet = np.asarray(image)
    left = sheet.shape[1] - (9 * 33 + 1)
    for c in (0, 1):
        mean = sheet[1 + 33 * c : 33 + 33 * c : 8, left + 1 : left + 33 : 8, 0]
        np.testing.assert_allclose(mean, x[label == c].mean(axis=0)[..., 0], atol=1.5)
        nearest = sheet[1 + 33 * c : 33 + 33 * c : 8, left + 34 : left + 66 : 8, 0]
        assert any(np.array_equal(nearest, one[..., 0]) for one in x[label == c])


def test_a_mixture_of_points_and_clusters(tmp_path):
    points = ["--config.data.name=toy", "--config.network.name=mlp", "--config.data.num_train=1000"]
    eight = ["--config.conditioning.num_components=8", "--config.conditioning.per_class=false"]
    raw = "--config.conditioning.features=raw"
    asked = [*points, *eight, raw, "--mixture", "--components=4,8"]
    status, out, err = command(inspect_data, TINY, *asked, f"--out={tmp_path / 'points'}")
    assert status == 0, err
    # The ring's own number of equal clouds.
    assert "K = 8 is best, 8 the smallest" in out
    assert all(11 < share < 14 for _, _, share, _ in components_of(out))
    assert (tmp_path / "points" / "mixture.png").read_bytes().startswith(b"\x89PNG")
    clusters = [*points, *eight, raw, "--mixture", "--config.conditioning.kind=clusters"]
    status, out, err = command(inspect_data, TINY, *clusters, f"--out={tmp_path / 'clusters'}")
    assert status == 0, err
    assert "entropy    0.000 nats" in out
    assert "log-likelihood" not in out
    assert not (tmp_path / "clusters" / "likelihood.png").exists()


def test_mixtures_that_cannot_be_looked_at():
    for arguments, message in (
        (["--mixture", NONE], "conditioning.kind 'none' fits none to the data; gmm and clusters"),
        (["--mixture", "--config.conditioning.kind=class"], "conditioning.kind 'class' fits none"),
        (["--components=10"], "--components is given without --mixture"),
        (["--mixture", "--components=ten"], "--components is 'ten'; it must be whole numbers"),
        (["--mixture", "--components=10,15"], "--components has 15; each must be from 1 to 1250"),
        (["--mixture", "--components=0"], "a multiple of the 10 classes"),
        (["--mixture", "--components=5000"], "--components has 5000"),
    ):
        status, out, err = command(inspect_data, TINY, *arguments)
        assert (status, out) == (2, ""), arguments
        assert message in err


def test_help():
    for module in (inspect_data, make_stats):
        status, out, _ = command(module, "--help")
        assert (status, out.strip()) == (0, module.__doc__.strip())


def test_statistics_of_200_images(of_folder, tmp_path):
    status, out, err = command(
        make_stats, TINY, *of_folder, NONE, PCA, f"--out={tmp_path / 'stats.npz'}"
    )
    assert status == 0, err
    stats = frechet.load(tmp_path / "stats.npz")
    assert (stats.n, stats.split, stats.resolution, stats.resize) == (160, "train", "8x8x1", "")
    assert stats.dataset.startswith("image_folder images (0.2 held out, seed 0, 8x8x1")
    assert stats.extractor.startswith("pca32:")
    # Principal components are centred and uncorrelated on the data they are of.
    np.testing.assert_allclose(stats.mean, 0, atol=1e-6)
    np.testing.assert_allclose(stats.cov, np.diag(np.diag(stats.cov)), atol=1e-8)
    first, floor = out.splitlines()
    assert first.startswith(f"{tmp_path / 'stats.npz'}: 160 x 32 features of image_folder images")
    assert floor.startswith("frechet_40 of the held-out split: ")


def test_statistics_are_those_of_numpy_in_any_chunks(of_folder, tmp_path, monkeypatch):
    from sklearn.decomposition import PCA as Pca

    monkeypatch.setattr(features, "_CHUNK", 13)
    x = np.random.default_rng(0).integers(0, 256, (90, 4, 4, 3), dtype=np.uint8)
    stand_in(monkeypatch, Dataset("noise", Split(x[:60]), Split(x[60:])))
    status, out, err = command(make_stats, TINY, NONE, PCA, f"--out={tmp_path / 'stats.npz'}")
    assert status == 0, err
    stats = frechet.load(tmp_path / "stats.npz")
    pca = Pca(32, random_state=0).fit(to_float(x[:60]).reshape(60, -1).astype(np.float64))
    np.testing.assert_allclose(np.diag(stats.cov), pca.explained_variance_, rtol=1e-9)
    heldout = frechet.statistics(
        pca.transform(to_float(x[60:]).reshape(30, -1)), stats.extractor, resolution="4x4x3"
    )
    expected = frechet.distance(heldout, stats)
    assert float(out.split()[-1]) == pytest.approx(expected, abs=1e-3)


def test_a_judge_for_labels_and_components_without(monkeypatch, tmp_path):
    from gmm_diffusion.metrics import judge

    asked = []
    monkeypatch.setattr(judge, "embed", lambda judge, x: x.reshape(len(x), -1)[:, :5])
    monkeypatch.setattr(
        judge,
        "fit_judge",
        lambda data, seed, num_epochs: (
            asked.append((seed, num_epochs)) or judge.Judge({}, {}, 1, "h")
        ),
    )
    assert command(make_stats, TINY, f"--out={tmp_path / 'a.npz'}")[0] == 0
    assert asked == [(1000, 2)]
    assert frechet.load(tmp_path / "a.npz").extractor == "judge:h"
    x = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3), dtype=np.uint8)
    stand_in(monkeypatch, Dataset("noise", Split(x), Split(x)))
    status, _, err = command(make_stats, TINY, NONE, f"--out={tmp_path / 'b.npz'}")
    assert status == 0
    assert "Without labels there is no judge" in err
    with pytest.raises(InputError, match="statistics differ in extractor"):
        frechet.distance(*(frechet.load(tmp_path / f"{name}.npz") for name in "ab"))


def test_statistics_that_cannot_be_made(tmp_path):
    for arguments, message in (
        ([], "--out is missing"),
        ([f"--out={tmp_path}"], "which is not a file but a directory"),
        ([f"--out={tmp_path / 'no' / 'x.npz'}"], "it must be a file in a directory that exists"),
        ([f"--out={tmp_path / 'x'}", "--config.evaluation.features=file:/no"], "names no file"),
    ):
        status, out, err = command(make_stats, TINY, *arguments)
        assert (status, out) == (2, "")
        assert message in err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_your_own_trains(of_folder, run_main, tmp_path):
    """From files to a checkpoint; what comes after does not know where images are from."""
    status, out, err = run_main(
        TINY,
        *of_folder,
        f"--workdir={tmp_path / 'run'}",
        "--config.training.tensorboard=false",
        "--config.training.num_steps=4",
        "--config.conditioning.kind=class",
        "--config.conditioning.embedding=table",
        "--config.training.heldout_every=0",
        "--config.evaluation.at_end=false",
    )
    assert status == 0, (out, err)
    run = load_run(tmp_path / "run")
    assert (run.step, run.shape, run.conditioner.num_classes) == (4, (8, 8, 1), 2)
