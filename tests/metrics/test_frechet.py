"""The distance against SciPy's matrix root and closed forms, and what may not be compared."""

import warnings

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from gmm_diffusion.errors import InputError
from gmm_diffusion.metrics import frechet

ORIGIN = {"dataset": "digits", "split": "train", "resolution": "8x8x1", "resize": "method"}


def _of(mean, cov, n=20_000):
    return frechet.Statistics(np.asarray(mean, float), np.asarray(cov, float), n)


def _random(rng, dim):
    a = rng.normal(size=(dim, dim))
    return rng.normal(size=dim), a @ a.T + 0.1 * np.eye(dim)


@given(dim=st.integers(1, 12), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_equals_the_formula_with_scipys_root(dim, seed):
    rng = np.random.default_rng(seed)
    (m1, s1), (m2, s2) = _random(rng, dim), _random(rng, dim)
    root = scipy.linalg.sqrtm(s1 @ s2).real
    expected = ((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * root)
    ours = frechet.distance(_of(m1, s1), _of(m2, s2))
    assert abs(ours - expected) < 1e-7 * max(1, expected)
    assert abs(ours - frechet.distance(_of(m2, s2), _of(m1, s1))) < 1e-7 * max(1, expected)


def test_closed_form_of_commuting_covariances():
    # Squared Wasserstein distance of N(0, diag(t^2)) and N(m, diag(u^2)): |m|^2 + sum (t - u)^2.
    t, u, m = np.array([1.0, 2.0, 0.0]), np.array([3.0, 0.5, 0.5]), np.array([1.0, -2.0, 0.0])
    value = frechet.distance(_of([0, 0, 0], np.diag(t**2)), _of(m, np.diag(u**2)))
    assert abs(value - (5 + 4 + 2.25 + 0.25)) < 1e-10


def test_distance_to_itself_is_zero():
    stats = frechet.statistics(np.random.default_rng(0).normal(size=(500, 16)))
    assert 0 <= frechet.distance(stats, stats) < 1e-10


def test_fewer_samples_than_features_stays_real_and_finite():
    rng = np.random.default_rng(0)
    few, many = (frechet.statistics(rng.normal(size=(n, 64))) for n in (10, 1000))
    value = frechet.distance(few, many)
    assert isinstance(value, float)
    assert np.isfinite(value)
    # The cross term lies between none at all and its bound, the product of the root traces.
    assert 0 < value < ((few.mean - many.mean) ** 2).sum() + np.trace(few.cov + many.cov)


def test_bias_falls_with_the_number_of_samples():
    rng = np.random.default_rng(0)
    exact = _of(np.zeros(32), np.eye(32))
    values = [
        frechet.distance(frechet.statistics(rng.normal(size=(n, 32))), exact)
        for n in (100, 1000, 10_000)
    ]
    assert values[0] > 5 * values[1] > 20 * values[2] > 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_statistics_are_those_of_numpy(dtype):
    x = (1000 + np.random.default_rng(0).normal(size=(300, 5))).astype(dtype)
    stats = frechet.statistics(x)
    assert stats.cov.dtype == np.float64
    np.testing.assert_allclose(stats.mean, x.astype(np.float64).mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(stats.cov, np.cov(x.astype(np.float64).T), atol=1e-10)


@given(cut=st.integers(2, 98), seed=st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_merge_is_the_statistics_of_both(cut, seed):
    x = np.random.default_rng(seed).normal(3, 2, (100, 4)) @ np.diag([1, 2, 3, 4])
    merged = frechet.merge(frechet.statistics(x[:cut]), frechet.statistics(x[cut:]))
    assert merged.n == 100
    np.testing.assert_allclose(merged.mean, x.mean(axis=0), atol=1e-10)
    np.testing.assert_allclose(merged.cov, np.cov(x.T), atol=1e-10)


def test_merge_keeps_only_what_both_share():
    x = np.random.default_rng(0).normal(size=(10, 2))
    a = frechet.statistics(x, "e", **ORIGIN)
    b = frechet.statistics(x, "e", **{**ORIGIN, "split": "heldout"})
    merged = frechet.merge(a, b)
    assert (merged.extractor, merged.dataset, merged.split) == ("e", "digits", "")


@pytest.mark.parametrize("function", [frechet.distance, frechet.merge])
@pytest.mark.parametrize("field", ["extractor", "resolution", "resize"])
def test_refuses_to_compare(function, field):
    x = np.random.default_rng(0).normal(size=(10, 2))
    a = frechet.statistics(x, **{"extractor": "e", **ORIGIN})
    b = frechet.statistics(x, **{"extractor": "e", **ORIGIN, field: "other"})
    with pytest.raises(InputError, match=f"differ in {field}: .* and 'other'"):
        function(a, b)


def test_refuses_other_dimensions():
    with pytest.raises(InputError, match="have 2 and 3 features"):
        frechet.distance(_of(np.zeros(2), np.eye(2)), _of(np.zeros(3), np.eye(3)))


def test_statistics_refuse():
    with pytest.raises(InputError, match="N at least 2"):
        frechet.statistics(np.zeros((1, 3)))
    with pytest.raises(InputError, match="N at least 2"):
        frechet.statistics(np.zeros((4, 3, 2)))
    with pytest.raises(InputError, match="not finite"):
        frechet.statistics(np.array([[1.0], [np.nan]]))


def test_name_carries_the_count_and_few_samples_warn():
    with pytest.warns(UserWarning, match="360 samples is strongly biased"):
        assert frechet.metric_name(360) == "frechet_360"
    with pytest.warns(UserWarning, match="biased"):
        assert frechet.metric_name(5000) == "frechet_5k"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert frechet.metric_name(50_000) == "frechet_50k"
        assert frechet.metric_name(12_345) == "frechet_12345"


def test_file_round_trip_and_damage(tmp_path):
    path = tmp_path / "stats.npz"
    x = np.random.default_rng(0).normal(size=(50, 12))
    stats = frechet.statistics(x, "judge:abc", **ORIGIN)
    frechet.save(stats, path)
    loaded = frechet.load(path)
    np.testing.assert_array_equal(loaded.cov, stats.cov)
    np.testing.assert_array_equal(loaded.mean, stats.mean)
    assert (loaded.n, loaded.extractor) == (50, "judge:abc")
    assert {k: getattr(loaded, k) for k in ORIGIN} == ORIGIN
    content = path.read_bytes()
    for position in np.linspace(200, len(content) * 0.6, 10).astype(int):
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"statistics file .*stats.npz"):
            frechet.load(path)


def test_file_edited_missing_or_foreign(tmp_path):
    path = tmp_path / "stats.npz"
    frechet.save(frechet.statistics(np.random.default_rng(0).normal(size=(9, 3)), "e"), path)
    with np.load(path) as f:
        fields = dict(f)
    np.savez(path, **{**fields, "extractor": "f"})
    with pytest.raises(InputError, match="does not match its checksum"):
        frechet.load(path)
    with pytest.raises(InputError, match="does not exist"):
        frechet.load(tmp_path / "none.npz")
    np.savez(path, a=1)
    with pytest.raises(InputError, match="cannot be read"):
        frechet.load(path)
