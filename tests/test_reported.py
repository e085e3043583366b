"""Faults that people reported of other projects; docs/reported.md lists them all."""

import ast
import io
import pathlib
import pickle
import re
import tarfile

import jax
import numpy as np
import pytest
import scipy.stats
from PIL import Image

import gmm_diffusion
from gmm_diffusion import command_line
from gmm_diffusion import config as config_lib
from gmm_diffusion.data import cifar_archive, image_folder
from gmm_diffusion.diffusion import noise_levels
from gmm_diffusion.errors import InputError
from gmm_diffusion.metrics import frechet, judge, manifold
from gmm_diffusion.mixture import (
    KINDS,
    GaussianMixture,
    bic,
    fit_em,
    log_prob,
    responsibilities,
    sample,
    to_sklearn,
)
from gmm_diffusion.networks.unet import UNet
from gmm_diffusion.runs import snapshots
from gmm_diffusion.runs.param_files import load_params
from gmm_diffusion.sampling.samplers import SAMPLERS
from gmm_diffusion.sweep import assignments, plan

PACKAGE = pathlib.Path(gmm_diffusion.__file__).parent


def picture(i=0, height=6, width=4):
    return np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)


def load(folder, **options):
    return image_folder.load(str(folder), **{"heldout_fraction": 0.5, **options})


# ---- A. images of odd kinds


def test_cmyk_beside_rgb(tmp_path):
    plain = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    Image.fromarray(plain).save(tmp_path / "a.png")
    Image.fromarray(plain).convert("CMYK").save(tmp_path / "b.jpg", quality=95)
    data = load(tmp_path)
    for x in (data.train.x, data.heldout.x):
        assert np.abs(x.astype(int) - plain).max() <= 4


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_transparency_outside_an_alpha_channel(mode, tmp_path):
    image = Image.fromarray(np.full((4, 4, 3), 100, np.uint8)).convert(mode)
    used = image.getpixel((0, 0))
    unused = (1, 2, 3) if mode == "RGB" else used - 1 if used else used + 1
    for name in ("a.png", "b.png"):
        image.save(tmp_path / name, transparency=unused)
    # A palette rounds.
    assert abs(int(load(tmp_path).train.x.max()) - 100) <= 3
    image.save(tmp_path / "b.png", transparency=used)
    with pytest.raises(InputError, match=r"b.png is transparent in places"):
        load(tmp_path)


def test_extensions_in_capitals_count_once(tmp_path):
    for i, name in enumerate(("a.PNG", "b.JPG", "c.JPEG", "d.Bmp", "e.WEBP")):
        Image.fromarray(picture(i)).save(tmp_path / name)
    data = load(tmp_path)
    assert len(data.train) + len(data.heldout) == 5


def test_empty_and_huge_files_are_named(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    (tmp_path / "b.png").touch()
    with pytest.raises(InputError, match=r"b.png cannot be read as an image"):
        load(tmp_path)
    Image.new("1", (14_000, 14_000)).save(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"b.png cannot be read as an image \(.*bomb"):
        load(tmp_path, resolution=4)


def test_the_first_picture_of_an_animation(tmp_path):
    frames = [Image.fromarray(picture(i)) for i in range(2)]
    for name in ("a", "b"):
        frames[0].save(
            tmp_path / f"{name}.webp", save_all=True, append_images=frames[1:], lossless=True
        )
    np.testing.assert_array_equal(load(tmp_path).train.x[0], picture(0))


@pytest.mark.parametrize("resolution", [None, 8])
@pytest.mark.parametrize("size", [(1, 1), (1, 9)])
def test_pictures_of_one_pixel(size, resolution, tmp_path):
    for i in range(3):
        Image.fromarray(picture(i, *size)).save(tmp_path / f"{i}.png")
    assert load(tmp_path, resolution=resolution).shape == (*([8, 8] if resolution else size), 3)


def test_a_class_of_one_picture(tmp_path):
    for i in range(21):
        file = tmp_path / ("many" if i else "one") / f"{i}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(picture(i)).save(file)
    data = load(tmp_path, heldout_fraction=0.2)
    counts = np.bincount(np.concatenate([data.train.label, data.heldout.label]))
    assert counts.tolist() == [20, 1]


# ---- B. tables


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file\tOdd\na.png\t1", "separated by commas"),
        ("file,Odd\na.png,1".encode("utf-16"), "cannot be read as a table"),
        ("file,Caf\xe9\na.png,1".encode("cp1252"), "cannot be read as a table"),
        (",file,Odd\n0,a.png,1", "line 2 of .* has file 'a.png'"),
        ("file,Odd\na.png,1.0", "line 2 of .* has Odd '1.0'"),
        ("file,Odd\na.png,True", "line 2 of .* has Odd 'True'"),
        ("file,Odd\na.png,", "line 2 of .* has Odd ''"),
    ],
)
def test_tables_of_other_programs(content, message, tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    file = tmp_path / "attributes.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        load(tmp_path)


def test_celeba_as_a_csv_and_folders_in_folders(tmp_path):
    folder = tmp_path / "img_align_celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    for i in range(4):
        Image.fromarray(picture(i)).save(folder / f"{i}.jpg")
    rows = "".join(f"{i}.jpg, 1 ,{2 * (i % 2) - 1}\n" for i in range(4))
    (tmp_path / "list_attr_celeba.csv").write_text("image_id, Smiling , Bald\n" + rows)
    data = load(tmp_path)
    assert data.attribute_names == ("Smiling", "Bald")
    assert {tuple(a) for s in (data.train, data.heldout) for a in s.attributes.tolist()} == {
        (1, 0),
        (1, 1),
    }


# ---- C. mixtures


def test_kinds_agree_in_one_dimension():
    x = np.random.default_rng(0).normal(size=(200, 1)).astype(np.float32)
    found = [float(bic(fit_em(jax.random.key(0), x, 1, kind).mixture, x)) for kind in KINDS]
    np.testing.assert_allclose(found, found[0], rtol=1e-5)


@pytest.mark.parametrize("count", [2, 7, 31])
def test_weights_that_add_up_give_so_many_samples(count):
    x = np.random.default_rng(count).normal(size=(count, 2)).astype(np.float32)
    mixture = fit_em(jax.random.key(0), x, 1).mixture
    assert sample(mixture, jax.random.key(1), 7).shape == (7, 2)
    assert to_sklearn(mixture).sample(7)[0].shape == (7, 2)


def test_one_value_far_from_the_others():
    x = np.append(1 + 1e-3 * np.random.default_rng(0).normal(size=30), -0.4)[:, None]
    mixture = fit_em(jax.random.key(0), x.astype(np.float32), 2).mixture
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(mixture))
    np.testing.assert_allclose(np.sort(np.ravel(mixture.means)), [-0.4, 1], atol=0.01)


@pytest.mark.parametrize("kind", [np.float16, np.float64, list])
def test_points_of_any_type(kind):
    mixture = GaussianMixture.create([0.5, 0.5], [[0.0], [1.0]], [[1.0], [1.0]], "diag")
    x = [[0.5], [1.5]] if kind is list else np.array([[0.5], [1.5]], kind)
    expected = scipy.stats.norm.pdf([[0.5, -0.5], [1.5, 0.5]]).mean(axis=1)
    np.testing.assert_allclose(np.exp(log_prob(mixture, x)), expected, rtol=1e-5)


def test_a_thousand_dimensions_far_away():
    means = np.stack([np.zeros(1000), np.ones(1000)])
    mixture = GaussianMixture.create([0.5, 0.5], means, np.full((2, 1000), 0.1), "diag")
    x = np.full((1, 1000), 3.0)
    # The nearer component alone counts: the other's share is exp(-25000).
    expected = scipy.stats.norm.logpdf(3.0, 1, np.sqrt(0.1)) * 1000 + np.log(0.5)
    np.testing.assert_allclose(log_prob(mixture, x), expected, rtol=1e-5)
    np.testing.assert_allclose(responsibilities(mixture, x), [[0, 1]], atol=1e-6)


def test_samples_are_not_grouped_by_component():
    mixture = GaussianMixture.create([0.25, 0.75], [[0.0], [9.0]], [[1.0], [1.0]], "diag")
    labels = np.asarray(sample(mixture, jax.random.key(0), 4000))[:, 0] > 4.5
    # A share of 3/4 over 4000 draws has a deviation of 0.007; sorted ones change once.
    assert abs(labels.mean() - 0.75) < 0.03
    assert (labels[1:] != labels[:-1]).mean() > 0.3


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_a_random_start_follows_the_size_of_the_data(size):
    x = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    plain, scaled = (
        fit_em(jax.random.key(0), data, 3, start="random").mixture
        for data in (x, (size * x).astype(np.float32))
    )
    np.testing.assert_allclose(scaled.means / size, plain.means, rtol=0.01, atol=0.01)


# ---- D. samplers and networks


@pytest.mark.parametrize("num_steps", [1, 2, 3, 9, 27, 1000])
def test_any_number_of_steps(num_steps):
    sigmas = np.asarray(noise_levels.karras(num_steps, 0.002, 80.0))
    assert sigmas.shape == (num_steps + 1,)
    assert (np.diff(sigmas) < 0).all()
    assert (sigmas == 0).sum() == 1

    def answer(x, sigma, cond):
        return jax.numpy.full_like(x, 0.5)

    for name in SAMPLERS:
        # A denoiser that knows the answer: every path ends at it.
        keys, x = jax.random.split(jax.random.key(0), 2), 80 * np.ones((2, 3), np.float32)
        x = jax.jit(lambda x, s, name=name, keys=keys: SAMPLERS[name](answer, keys, x, s)[0])(
            x, sigmas
        )
        np.testing.assert_allclose(x, 0.5, atol=1e-6)


def test_pictures_that_are_not_square():
    network = UNet(8, (1, 2), 1, attention_resolutions=(4,))
    x, c_noise = jax.numpy.zeros((1, 8, 12, 3)), jax.numpy.zeros(1)
    out, _ = jax.eval_shape(lambda: network.init_with_output(jax.random.key(0), x, c_noise, None))
    assert out.shape == x.shape


# ---- F. metrics


def test_features_that_are_all_the_same():
    same = np.ones((50, 8), np.float32)
    for score in (manifold.precision, manifold.recall, manifold.coverage):
        assert score(same, same, 3) == 1


def test_copies_of_one_picture_have_a_distance():
    random = np.random.default_rng(0).normal(size=(30, 8))
    copies = np.repeat(random[:1], 10, axis=0)
    distance = frechet.distance(frechet.statistics(copies), frechet.statistics(random))
    # Of a point to a Gaussian: the squared distance of the means and the trace.
    expected = ((random[0] - random.mean(0)) ** 2).sum() + random.var(0, ddof=1).sum()
    assert distance == pytest.approx(expected)


# ---- G. flags and sweeps


def setting(field, *arguments):
    config = command_line.parse(["program", *arguments], lambda values: None).config
    config_lib.validate(config)
    return config_lib.fields(config)[field]


@pytest.mark.parametrize(
    ("arguments", "field", "expected"),
    [
        (["--config.data.flip=false"], "data.flip", False),
        (["--config.data.flip=0"], "data.flip", False),
        (["--noconfig.data.flip"], "data.flip", False),
        (["--config.data.flip=True"], "data.flip", True),
        (["--config.network.channel_mult=1,2"], "network.channel_mult", (1, 2)),
        (["--config.network.channel_mult=(1, 2)"], "network.channel_mult", (1, 2)),
        (["--config.network.channel_mult=[1,2]"], "network.channel_mult", (1, 2)),
        (["--config.network.channel_mult=(1,)"], "network.channel_mult", (1,)),
        (["--config.guidance.scale=2"], "guidance.scale", 2.0),
        (["--config.diffusion.sigma_log_mean", "-0.5"], "diffusion.sigma_log_mean", -0.5),
    ],
)
def test_flags_mean_what_they_say(arguments, field, expected):
    found = setting(field, *arguments)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config.data.flip", "False"],
        ["--config.data.flip=no"],
        ["--noconfig.data.flip=true"],
        ["--noconfig.data.flip=false"],
        ["--config.network.channel_mult=()"],
        ["--config.training.num_steps=1e3"],
        ["--config.training.num_steps=None"],
        ["--config.guidance.scale=nan"],
        ["--config.guidance.scale=inf"],
        ["--config.sample.steps=2147483647"],
        ["--config.training.num_steps=" + "9" * 400],
        ["--config.="],
        ["--config.=1"],
    ],
)
def test_flags_that_cannot_be_meant(arguments):
    with pytest.raises(InputError) as caught:
        setting("data.flip", *arguments)
    assert len(str(caught.value)) < 600
    assert str(caught.value).endswith((".", "?"))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("Smiling=1,Bald=0", ["Smiling=1,Bald=0"]),
        ("Smiling=1,Bald=0;Smiling=0", ["Smiling=1,Bald=0", "Smiling=0"]),
        ("class:3=0.5,class:8=0.5", ["class:3=0.5,class:8=0.5"]),
        ("class:1,class:2", ["class:1", "class:2"]),
    ],
)
def test_a_comma_inside_a_condition(text, values):
    assert assignments.parse(f"sample.condition={text}") == ("sample.condition", values)
    assert assignments.parse("data.crop=0,0,8,8;") == ("data.crop", ["0,0,8,8"])


# ---- files that may come from anybody


def test_nothing_in_the_package_unpickles():
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "experiments").glob("*.py")]:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert node.value.value is False, path
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            banned = {"pickle", "marshal", "shelve", "joblib", "dill", "cloudpickle"}
            assert not banned & {name.split(".")[0] for name in names}, path


class Planted:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("ran_by_a_pickle"),)


LOADERS = {
    "file.npz": load_params,
    "judge.npz": judge.load,
    "statistics.npz": frechet.load,
    "width_0.05_step_8.npz": lambda path: snapshots.reconstruct(path.parent, None, 0.05),
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_planted_pickle_is_refused_and_not_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planted = np.array([Planted()], object)
    fields = ("header", "mean", "cov", "n", "extractor", "dataset", "network/w")
    for write in (
        lambda path: np.savez(path, **dict.fromkeys(fields, planted)),
        lambda path: path.write_bytes(pickle.dumps(Planted())),
        # A small file that unpacks to much.
        lambda path: np.savez_compressed(path, **{"network/w": np.zeros((1000, 1000))}),
    ):
        write(tmp_path / name)
        with pytest.raises(InputError, match=rf"{name} (is not an intact|cannot be read)"):
            LOADERS[name](tmp_path / name)
    assert not (tmp_path / "ran_by_a_pickle").exists()


def test_what_lies_among_snapshots(tmp_path):
    expected = {"w": np.arange(3, dtype=np.float32)}
    snapshots.write(tmp_path, 8, (0.05,), [expected])
    for name in ("width_.._step_9.npz", "width_0.5_step_9.npz", "width_0.050_step_9.npz", "x.tmp"):
        (tmp_path / name).touch()
    (tmp_path / "width_0.1_step_9.npz").mkdir()
    assert snapshots.steps(tmp_path) == [8]
    np.testing.assert_array_equal(snapshots.reconstruct(tmp_path, None, 0.05).params["w"], range(3))
    snapshots.truncate(tmp_path, 0)
    snapshots.write(tmp_path, 4, (0.05,), [{"w": np.zeros((2, 2), np.float32)}])
    snapshots.write(tmp_path, 8, (0.05,), [expected | {"v": np.float32(1)}])
    with pytest.raises(InputError, match="are not of one model"):
        snapshots.reconstruct(tmp_path, None, 0.07)


def test_archives_that_unpack_to_more_or_elsewhere(tmp_path, monkeypatch):
    path = tmp_path / "inner" / "cifar.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        for name in ("../evil", "/evil", "cifar-10-batches-bin/../../evil"):
            entry = tarfile.TarInfo(name)
            entry.size = 4
            archive.addfile(entry, io.BytesIO(b"evil"))
    with pytest.raises(InputError, match="lacks"):
        cifar_archive.load(str(path))
    assert [p.name for p in tmp_path.rglob("*")] == ["inner", "cifar.tar.gz"]
    monkeypatch.setattr(cifar_archive, "_MOST", 1000)
    with pytest.raises(InputError, match="unpacks to more than"):
        cifar_archive.load(str(path))


def test_a_value_twice_in_a_sweep_is_one_run(tmp_path):
    field, values = assignments.parse("training.seed=0,0")
    stage = {"name": "twice", "config": "none", "grid": {field: values}}

    def load_config(path, overrides):
        config = config_lib.default()
        for name, value in overrides.items():
            group, last = name.split(".")
            config[group][last] = value
        return config

    (job,) = plan.make_jobs([stage], tmp_path, load_config)
    assert job.workdir == tmp_path / "twice" / "seed0"


def test_the_docs_name_tests_that_exist():
    tests = pathlib.Path(__file__).parent
    text = (tests.parent / "docs" / "reported.md").read_text()
    named = set(re.findall(r"\btest_\w+\b(?!\.py)", text))
    defined = {
        name for f in tests.rglob("*.py") for name in re.findall(r"def (\w+)", f.read_text())
    }
    assert len(named) > 50
    assert named <= defined
