"""Arrays, latents and features of one's own through whole commands, against NumPy and SciPy."""

import pathlib
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy import linalg, stats
from sklearn.decomposition import PCA

import gmm_diffusion as gd
from gmm_diffusion import assembly
from gmm_diffusion.assembly import conditioners
from gmm_diffusion.assembly import load as load_lib
from gmm_diffusion.commands import train
from gmm_diffusion.errors import InputError
from gmm_diffusion.model import fitted as fitted_lib

REPOSITORY = pathlib.Path(__file__).parents[1]


def shares(model, z):
    """Bayes' rule in a mixture of diagonal covariances, by SciPy: `[N, D] -> [N, K]`."""
    mix = model.conditioner.mixture
    parts = [np.asarray(part, np.float64) for part in (mix.weights, mix.means, mix.covariances)]
    logs = [
        np.log(weight) + stats.norm.logpdf(z, mean, np.sqrt(variances)).sum(axis=1)
        for weight, mean, variances in zip(*parts, strict=True)
    ]
    logs = np.stack(logs, axis=1)
    made = np.exp(logs - logs.max(axis=1, keepdims=True))
    return made / made.sum(axis=1, keepdims=True)


def test_the_digits_with_features_of_their_own(tmp_path, monkeypatch, run_main):
    """As docs/data.md trains and asks them, with a smaller network."""
    monkeypatch.chdir(tmp_path)
    text = (REPOSITORY / "docs" / "data.md").read_text()
    section = text[text.index("### Features of your own") :].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.S)
    exec(compile(code, "data.md", "exec"), {})
    commands = re.findall(r"(?m)^(python -m .*--workdir=runs/own .*(?:\n    .*)*)", section)
    training, sampling = (c.replace("\\\n", " ").split()[3:] for c in commands)
    training[0] = f"--config={REPOSITORY / 'configs' / 'tiny.py'}"
    small = ["training.num_steps=4", "training.heldout_every=0", "evaluation.at_end=false"]
    status, _, err = run_main(*training, *(f"--config.{field}" for field in small))
    assert status == 0, err
    status, _, err = run_main(*sampling, "--config.sample.num=7", "--config.sample.name=a")
    assert status == 0, err
    model = gd.load("runs/own")
    train_split = assembly.dataset(model.config).train
    wanted, own = np.load("wanted.npy"), train_split.features
    assert own.shape == (1293, 8)
    z = (wanted - own.mean(axis=0)) / own.std(axis=0)
    expected = shares(model, z)
    np.testing.assert_allclose(model.weights(wanted), expected, atol=1e-3)
    with np.load("runs/own/samples/a.npz") as file:
        np.testing.assert_allclose(file["weights"], expected[[0, 1, 2, 0, 1, 2, 0]], atol=1e-3)
        assert (file["x"].shape, file["x"].dtype) == ((7, 8, 8, 1), np.uint8)
    # In training an example's weights are on components of its own class.
    by_view = assembly.split_weights(model.config, model.fitted, train_split.take(slice(50)))
    owned = np.asarray(model.conditioner.component_class) == train_split.label[:50, None]
    within = np.where(owned, shares(model, (own[:50] - own.mean(axis=0)) / own.std(axis=0)), 0)
    within = within / within.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(by_view[0], within, atol=1e-3)
    np.save("wide.npy", np.ones((3, 9)))
    np.save("nan.npy", np.full((3, 8), np.nan))
    np.save("objects.npy", np.array([{"a": 1}]))
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("digit.png")
    for condition, message in (
        ("features:wide.npy", r"shape \(3, 9\); this model needs features of shape \(N, 8\)"),
        ("features:nan.npy", "holds a value that is not finite"),
        ("features:objects.npy", "holds Python objects"),
        ("features:none.npy", "which is not a file"),
        ("features:digit.png", "cannot be read as NumPy writes it|holds Python objects"),
        ("like:digit.png", r"not made of pixels; use features:FILE\.npy"),
    ):
        with pytest.raises(InputError, match=message):
            model.request(condition, 3)


def untrained(config, data):
    """What is fitted to the data, and a model that may be asked and not sampled."""
    fitted = assembly.fit_statistics(config, data)
    return assembly.model(config, data.shape, fitted, {})


def test_more_like_this_image(make_config, tmp_path):
    config = make_config("tiny")
    config.conditioning.covariance = "diag"
    data = assembly.dataset(config)
    model = untrained(config, data)
    first, second = (tmp_path / name for name in ("my first.png", "second.png"))
    for path, image in zip((first, second), data.heldout.x[:2, ..., 0], strict=True):
        Image.fromarray(image).save(path)
    transform = model.conditioner.transform
    centred = data.heldout.x[:2].reshape(2, -1) / 127.5 - 1 - float(model.fitted.transform.mean[0])
    z = (centred - np.asarray(transform.mean)) @ np.asarray(transform.directions)
    expected = shares(model, z * np.asarray(transform.scale))
    asked = model.request(f"like:{first}", 3)
    np.testing.assert_allclose(asked.weights, expected[[0, 0, 0]], atol=1e-3)
    assert asked.label.tolist() == [-1] * 3
    blend = model.request(f"0.25*like:{first}+0.75*like:{second}", 2).weights
    np.testing.assert_allclose(blend, [[0.25, 0.75]] @ expected * np.ones((2, 1)), atol=1e-3)
    # The features of these are made of pixels, and so rows are images.
    np.save(tmp_path / "rows.npy", data.heldout.x[:2])
    rows = model.request(f"features:{tmp_path / 'rows.npy'}", 4, first=1).weights
    np.testing.assert_allclose(rows, expected[[1, 0, 1, 0]], atol=1e-3)
    np.testing.assert_allclose(model.weights(data.heldout.x[:2]), expected, atol=1e-3)
    # As bytes, or scaled as samples are, and nothing that would be misread.
    pixels = data.heldout.x[:2]
    scaled = pixels / np.float32(127.5) - 1
    np.testing.assert_allclose(model.weights(scaled), expected, atol=1e-3)
    for wrong in (pixels.astype(int), pixels.astype(np.float32), pixels > 99):
        with pytest.raises(InputError, match=r"takes uint8, or floats in \[-1, 1\]\.$"):
            model.weights(wrong)
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(tmp_path / "large.png")
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 9
    Image.fromarray(red).save(tmp_path / "red.png")
    (tmp_path / "text.png").write_text("no picture")
    for name, message in (
        ("large.png", r"has 9x8 pixels, .* not resized; it must have 8x8\.$"),
        ("red.png", r"red\.png is coloured, and the data of this model are grey"),
        ("text.png", "cannot be read as an image"),
        ("none.png", "which is not a file"),
    ):
        with pytest.raises(InputError, match=message):
            model.request(f"like:{tmp_path / name}", 2)
    config.conditioning.kind = "class"
    with pytest.raises(InputError, match=r"they need conditioning\.kind gmm or clusters"):
        untrained(config, data).request(f"like:{first}", 2)


def test_an_image_like_those_of_a_folder_is_resized_as_they_were(make_config, tmp_path, caplog):
    """A file of the training split means the weights of its own example."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(30):
        pixels = rng.integers(0, 256, (5 + i, 23, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i:02d}.png")
    config = make_config("tiny")
    config.data.update(name="image_folder", data_dir=str(tmp_path / "images"), resolution=8)
    config.data.crop = "none"
    config.conditioning.update(per_class=False, num_components=4, feature_dim=6)
    data = assembly.dataset(config)
    model = untrained(config, data)
    rows = data.train.x[:5]
    stored = {x.tobytes(): model.weights(x[None])[0] for x in rows}
    caplog.set_level("INFO")
    caplog.clear()
    found = []
    for file in sorted((tmp_path / "images").iterdir()):
        with Image.open(file) as opened:
            small = np.asarray(opened.resize((8, 8), Image.Resampling.BILINEAR))
        if small.tobytes() in stored:
            found.append(small.tobytes())
            asked = model.request(f"like:{file}", 2, component="literal").weights
            np.testing.assert_allclose(asked, [stored[small.tobytes()]] * 2, atol=1e-6)
            assert f"{file} has " in caplog.text
    assert sorted(found) == sorted(stored)
    assert "made 8x8 as the data were: data.resolution and data.crop none" in caplog.text


def test_the_last_hidden_layer_of_a_classifier(make_config, tmp_path):
    config = make_config("toy")
    config.training.update(task="classifier", num_steps=4, heldout_every=0)
    config.classifier.update(name="mlp", width=8, embedding_dim=5)
    config.evaluation.at_end = False
    train.train(config, tmp_path / "classifier")
    theirs = load_lib.load_run(tmp_path / "classifier")
    ours = make_config("toy")
    ours.conditioning.features = "classifier"
    ours.conditioning.classifier = str(tmp_path / "classifier")
    data = assembly.dataset(ours)
    made = assembly.fit_statistics(ours, data)
    # What is stored needs the run no more.
    shutil.rmtree(tmp_path / "classifier")
    made = fitted_lib.from_arrays(*fitted_lib.to_arrays(made))
    model = assembly.model(ours, data.shape, made, {})
    classify = theirs.classifier.classify
    own, some = (
        np.asarray(classify(theirs.params["classifier"], theirs.center(x))[1], np.float64)
        for x in (data.train.x, data.heldout.x[:20])
    )
    deviation = own.std(axis=0)
    counts = deviation > 1e-6 * deviation.max()
    z = np.where(counts, (some - own.mean(axis=0)) / np.where(counts, deviation, 1), 0)
    np.testing.assert_allclose(model.weights(data.heldout.x[:20]), shares(model, z), atol=2e-3)
    for place, message in (
        ("none", "which is no folder; it must be the workdir of a run with a classifier"),
        ("", r"needs conditioning\.classifier"),
    ):
        ours.conditioning.classifier = place and str(tmp_path / place)
        with pytest.raises(InputError, match=message):
            train.train(ours, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_columns_of_one_value_do_not_count_and_mirror_images_have_features(make_config, caplog):
    rng = np.random.default_rng(0)
    kinds = np.arange(1000) % 3
    features = np.stack([kinds * 5.0, np.full(1000, 7.0), -(kinds**2) * 9.0], axis=1)
    features += rng.normal(size=(1000, 3)) * [0.5, 0, 0.5]
    data = gd.data.from_arrays(rng.normal(size=(1000, 2)), features=features)
    config = make_config("toy")
    config.data.name = "arrays"
    config.conditioning.update(
        kind="clusters", features="own", per_class=False, num_components=3, em_starts=1
    )
    model = untrained(config, assembly.dataset(config, data))
    assert "1 of the 3 columns of conditioning.features own have one value" in caplog.text
    weights = model.weights(features)
    np.testing.assert_array_equal(np.sort(weights, axis=1), np.eye(3)[[2] * 1000])
    # A cluster is a kind; what the constant column holds changes nothing.
    for kind in range(3):
        assert len(np.unique(weights[kinds == kind].argmax(axis=1))) == 1
    np.testing.assert_array_equal(model.weights(features + np.eye(3)[1] * 90), weights)
    images = gd.data.from_arrays(np.zeros((10, 2, 2, 1), np.uint8), features=features[:10])
    config.data.flip = True
    made = conditioners._examples(config, images.train, model.fitted.transform, None, 0)
    np.testing.assert_array_equal(made.x, np.tile(images.train.features, (2, 1)))


def test_columns_of_any_units_count(make_config, caplog):
    """The mixture is that of the same columns in one unit."""
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(600, 3)) + 4 * rng.integers(0, 2, size=(600, 3))

    def weights(features):
        data = gd.data.from_arrays(rng.normal(size=(600, 2)), features=features)
        config = make_config("toy")
        config.data.name = "arrays"
        config.conditioning.update(
            kind="gmm", features="own", per_class=False, num_components=4, em_starts=1
        )
        return untrained(config, assembly.dataset(config, data)).weights(features)

    units = [3e6, 1, 1e-3]
    found = weights(columns * units + [5e7, 0, 1e-3])
    np.testing.assert_allclose(found, weights(columns), atol=1e-3)
    assert "have one value" not in caplog.text


@pytest.mark.parametrize(
    ("fit", "covariance"),
    [("k_means", "spherical"), *(("em", kind) for kind in ("spherical", "diag", "full", "tied"))],
)
def test_responsibilities_are_those_without_a_column_of_one_value(make_config, fit, covariance):
    """And one that is of one value within a class only is fitted."""
    rng = np.random.default_rng(0)
    label = np.arange(600, dtype=np.int32) % 2
    features = rng.normal(size=(600, 2)) + 2 * (rng.integers(0, 3, size=(600, 1)) + label[:, None])
    wide = np.insert(features, 1, -4.5, axis=1)

    def weights(x, per_class=False):
        data = gd.data.from_arrays(rng.normal(size=(600, 2)), label=label, features=x)
        config = make_config("toy")
        config.data.name = "arrays"
        config.conditioning.update(
            kind="gmm", features="own", num_components=4, em_starts=1, per_class=per_class
        )
        config.conditioning.update(fit=fit, covariance=covariance)
        return untrained(config, assembly.dataset(config, data)).weights(x)

    np.testing.assert_allclose(weights(wide), weights(features), atol=1e-5)
    within = np.where(label[:, None] == 0, wide, np.insert(features, 1, features[:, 0], axis=1))
    assert np.isfinite(weights(within, per_class=True)).all()


DECODER = """
import numpy as np
def grey(z):
    return z[..., :1] / 4
def flat(z):
    return z.reshape(len(z), -1)
"""


def frechet(a, b):
    """Heusel et al. 2017, by SciPy's matrix root."""
    ours, theirs = (np.cov(x, rowvar=False) for x in (a, b))
    apart = np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2)
    return apart + np.trace(ours + theirs - 2 * linalg.sqrtm(ours @ theirs).real)


def test_latents_are_trained_sampled_and_scored(tmp_path, monkeypatch, run_main):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "grey_decoder.py").write_text(DECODER)
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(2, 4, 4, 5)) * 4
    x = (kinds[np.arange(260) % 2] + rng.normal(size=(260, 4, 4, 5))).astype(np.float16)
    np.savez("z.npz", x=x[:200], x_heldout=x[200:])
    fields = {
        "data.name": "arrays",
        "data.data_dir": "z.npz",
        "conditioning.per_class": "false",
        "conditioning.num_components": 2,
        "training.num_steps": 4,
        "training.heldout_every": 4,
        "evaluation.blocks": 1,
        "sample.num": 6,
        "sample.steps": 2,
        "data.validation_fraction": 0,
    }
    flags = [f"--config.{field}={value}" for field, value in fields.items()]
    tiny = f"--config={REPOSITORY / 'configs' / 'tiny.py'}"
    status, out, err = run_main(tiny, "--workdir=run", *flags)
    assert status == 0, err
    assert "200 examples of 4x4x5, latents as floats are (images are uint8), to train on" in err
    # Nobody could look at a sheet.
    assert not list(pathlib.Path("run").rglob("*.png"))
    model = gd.load("run")
    data = assembly.dataset(model.config)
    metrics = gd.evaluate(model, data)["metrics"]
    train_z, heldout_z = (
        PCA(32, random_state=0)
        .fit(x[:200].reshape(200, -1).astype(float))
        .transform(part.reshape(len(part), -1).astype(float))
        for part in (x[:200], x[200:])
    )
    floor = metrics["frechet_60"]["floor"]
    np.testing.assert_allclose(floor, frechet(train_z, heldout_z), rtol=1e-3)
    assert {"precision_60", "recall_60", "coverage_60", "frechet_60"} <= metrics.keys()
    status, out, err = run_main("--workdir=run", "--mode=sample")
    assert status == 0, err
    assert "6 latents in" in out
    decoder = "--config.data.decoder=grey_decoder:grey"
    with monkeypatch.context() as patch:  # Before anything is drawn.
        patch.setattr(assembly, "sample", lambda *_: pytest.fail("sampled"))
        flat = decoder.replace("grey_decoder:grey", "grey_decoder:flat")
        status, out, err = run_main("--workdir=run", "--mode=sample", flat)
    assert (status, "data.decoder returns float32 of shape (32, 80)" in err) == (2, True)
    with np.load("run/samples/train.npz") as file:
        assert (file["x"].shape, file["x"].dtype) == ((6, 4, 4, 5), np.float32)
        assert "images" not in file
        plain = file["x"]
    status, out, err = run_main("--workdir=run", "--mode=sample", decoder)
    assert status == 0, err
    with np.load("run/samples/train.npz") as file:
        np.testing.assert_array_equal(file["x"], plain)
        pixels = np.clip((plain[..., :1].astype(float) / 4 + 1) * 127.5, 0, 255)
        np.testing.assert_allclose(file["images"], pixels, atol=0.51)
    assert pathlib.Path("run/samples/train.png").stat().st_size > 0
    with pytest.raises(InputError, match="samples are latents, which need a decoder"):
        model.sample(2, steps=2).images()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save("a.png")
    with pytest.raises(InputError, match="is an image, and this model is of other data"):
        model.request("like:a.png", 2)
    # The metrics of latents that have pictures are those of the pictures.
    model.config.data.decoder = "grey_decoder:grey"
    pictured = gd.evaluate(model, assembly.dataset(model.config))["metrics"]
    grey = np.rint(np.clip((x[..., :1].astype(float) / 4 + 1) * 127.5, 0, 255)) / 127.5 - 1
    flat = grey.reshape(len(grey), -1)
    found = PCA(16, random_state=0).fit(flat[:200])
    expected = frechet(found.transform(flat[:200]), found.transform(flat[200:]))
    np.testing.assert_allclose(pictured["frechet_60"]["floor"], expected, rtol=1e-3)
