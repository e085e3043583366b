"""Every extractor on small data; a user's own network travels as an exported function."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion.data import dataset, resize
from gmm_diffusion.errors import InputError
from gmm_diffusion.metrics import features, frechet, judge


def _images(shape=(6, 6, 1), num=40):
    rng = np.random.default_rng(0)
    label = np.arange(num, dtype=np.int32) % 2
    x = rng.integers(0, 128, (num, *shape)).astype(np.uint8)
    x[label == 1] += 100
    split = dataset.Split(x, label)
    return dataset.Dataset("images", split, split, 2, ("dark", "light"))


def _export(path, function, shape, platforms=("cpu", "cuda", "tpu")):
    spec = jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape), jnp.float32)
    exported = jax.export.export(jax.jit(function), platforms=platforms)(spec)
    path.write_bytes(exported.serialize())
    return f"file:{path}"


def _row_means(x):
    return x.mean(axis=2).reshape(x.shape[0], -1)


def test_judge_embedding():
    data = _images()
    fitted = judge.fit_judge(data, num_epochs=1)
    extractor = features.make_extractor("judge", data, fitted)
    assert extractor.id == f"judge:{fitted.hash}"
    np.testing.assert_array_equal(
        extractor.extract(data.heldout.x), judge.embed(fitted, data.heldout.x)
    )


def test_pca_is_the_eigendecomposition_of_the_training_covariance():
    data = _images()
    extractor = features.make_extractor("pca", data)
    z = extractor.extract(data.train.x)
    flat = (data.train.x / 127.5 - 1).reshape(40, -1)
    largest = np.sort(np.linalg.eigvalsh(np.cov(flat.T)))[::-1][: z.shape[1]]
    np.testing.assert_allclose(np.cov(z.T), np.diag(largest), atol=1e-5 * largest[0])
    assert extractor.id.startswith("pca32:")
    assert extractor.id == features.make_extractor("pca", data).id


def test_pca_takes_fewer_of_large_images(monkeypatch):
    data = _images()
    asked = []
    sample = dataset.Split.sample
    monkeypatch.setattr(dataset.Split, "sample", lambda s, n: asked.append(n) or sample(s, n))
    monkeypatch.setattr(features, "_PCA_NUMBERS", 36 * 20)
    monkeypatch.setattr(features, "_FEWEST_PCA_EXAMPLES", 10)
    features.make_extractor("pca", data)
    monkeypatch.setattr(features, "_FEWEST_PCA_EXAMPLES", 30)
    features.make_extractor("pca", data)
    assert asked == [20, 30]


def test_pca_of_vectors_keeps_distances():
    x = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    data = dataset.Dataset("vectors", dataset.Split(x), dataset.Split(x))
    z = features.make_extractor("pca", data).extract(x)
    assert z.shape == (50, 2)
    np.testing.assert_allclose(
        np.linalg.norm(z[1:] - z[0], axis=1), np.linalg.norm(x[1:] - x[0], axis=1), rtol=1e-5
    )


def test_file_of_an_exported_function(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "_FILE_ROWS", 16)  # 40 images: two full chunks and a short one
    data = _images()
    spec = _export(tmp_path / "f.jaxexport", _row_means, "b, 6, 6, 1")
    extractor = features.make_extractor(spec, data)
    digest = hashlib.sha256((tmp_path / "f.jaxexport").read_bytes()).hexdigest()
    assert extractor.id == f"file:{digest}"
    assert extractor.resize == ""
    expected = (data.train.x / 127.5 - 1).mean(axis=2)[..., 0]
    np.testing.assert_allclose(extractor.extract(data.train.x), expected, atol=1e-6)


def test_file_resizes_and_repeats_grey(tmp_path):
    data = _images()
    spec = _export(tmp_path / "f.jaxexport", lambda x: x.reshape(2, -1), "2, 9, 9, 3")
    extractor = features.make_extractor(spec, data)
    assert extractor.resize == resize.METHOD
    out = extractor.extract(data.train.x[:5]).reshape(5, 9, 9, 3)
    expected = resize.resize(data.train.x[:5], 9) / 127.5 - 1
    np.testing.assert_allclose(out, np.repeat(expected, 3, axis=-1), atol=1e-6)


@pytest.mark.parametrize("spec", ["inception", "", "file", "file:", "pca:3"])
def test_refuses_a_name(spec):
    with pytest.raises(InputError, match=f"features is '{spec}'; valid are"):
        features.make_extractor(spec, _images())


def test_refuses_a_missing_judge():
    with pytest.raises(InputError, match="features 'judge' needs a dataset with labels"):
        features.make_extractor("judge", _images())


def test_refuses_other_shapes():
    extractor = features.make_extractor("pca", _images())
    with pytest.raises(InputError, match="features 'pca' got examples of shape"):
        extractor.extract(np.zeros((2, 5, 5, 1), np.uint8))


def test_refuses_files(tmp_path):
    data = _images()
    with pytest.raises(InputError, match="names no file"):
        features.make_extractor(f"file:{tmp_path}/none", data)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="cannot be read"):
        features.make_extractor(f"file:{tmp_path}/text", data)
    spec = _export(tmp_path / "tpu", _row_means, "b, 6, 6, 1", platforms=("tpu",))
    with pytest.raises(InputError, match="was exported for tpu; valid is an export for cpu"):
        features.make_extractor(spec, data)
    spec = _export(tmp_path / "vector", lambda x: x, "b, 36")
    with pytest.raises(InputError, match="valid is float32"):
        features.make_extractor(spec, data)
    spec = _export(tmp_path / "rgb", _row_means, "b, 6, 6, 3")
    with pytest.raises(InputError, match="takes 3 channels and the dataset has 2"):
        features.make_extractor(spec, _images((6, 6, 2)))


def test_one_call_from_samples_to_a_distance(tmp_path):
    data, other = _images(), _images(num=30)
    extractor = features.make_extractor("pca", data)
    expected = frechet.distance(
        frechet.statistics(extractor.extract(other.train.x), extractor.id),
        frechet.statistics(extractor.extract(data.train.x), extractor.id),
    )
    assert features.frechet_distance(other.train.x, data) == pytest.approx(expected, rel=1e-9)
    assert features.frechet_distance(data.train.x, data) == pytest.approx(0, abs=1e-6)
    frechet.save(features.statistics(extractor, data.train.x), tmp_path / "stats.npz")
    stored = features.frechet_distance(other.train.x, tmp_path / "stats.npz", extractor)
    assert stored == pytest.approx(expected, rel=1e-9)
    with pytest.raises(InputError, match="beside statistics"):
        features.frechet_distance(other.train.x, tmp_path / "stats.npz")
    spec = _export(tmp_path / "means.bin", _row_means, "b, 6, 6, 1")
    alone = features.frechet_distance(other.train.x, data, spec)
    frechet.save(
        features.statistics(features.make_extractor(spec, data), data.train.x), tmp_path / "own.npz"
    )
    assert features.frechet_distance(other.train.x, tmp_path / "own.npz", spec) == alone


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((9, 4, 4, 1), np.int64), "samples are int64 of shape"),
        ([[0.0]], "N at least 2"),
        (np.zeros((0, 4, 4, 1), np.uint8), "N at least 2"),
        (np.zeros((9, 4, 4, 1), np.float32), "samples are float32 .* are uint8 of shape"),
        (np.zeros((9, 3, 4, 1), np.uint8), r"samples are uint8 of shape \(3, 4, 1\) each"),
        (np.ma.masked_equal(np.zeros((9, 4, 4, 1), np.uint8), 0), "masked values"),
    ],
)
def test_samples_that_no_distance_is_of(samples, message):
    split = dataset.Split(np.zeros((9, 4, 4, 1), np.uint8))
    with pytest.raises(InputError, match=message):
        features.frechet_distance(samples, dataset.Dataset("grey", split, split))
