"""From data to standardised features, against NumPy."""

import sys

import jax
import numpy as np
import pytest

from gmm_diffusion.conditioning import FEATURES, features
from gmm_diffusion.conditioning.features import fit_pca, fit_raw


def images(n=300, seed=0):
    """`[n, 4, 4, 1]` with a mean, correlated pixels and two that never change."""
    rng = np.random.default_rng(seed)
    flat = rng.normal(size=(n, 16)) @ rng.normal(size=(16, 16)) + 3.0
    flat[:, 0], flat[:, 7] = -1.0, 0.3
    return flat.reshape(n, 4, 4, 1).astype(np.float32)


def test_pca_is_the_whitened_projection_up_to_signs():
    x = images()
    flat = np.asarray(x, np.float64).reshape(300, 16)
    _, _, directions = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    expected = (flat - flat.mean(0)) @ directions[:6].T
    expected = expected / expected.std(0)
    actual = np.asarray(features(fit_pca(x, 6), x))
    assert actual.shape == (300, 6)
    signs = np.sign((actual * expected).sum(0))
    np.testing.assert_allclose(actual, expected * signs, atol=2e-3)


def test_raw_is_the_standardised_data():
    x = images()
    flat = np.asarray(x, np.float64).reshape(300, 16)
    std = flat.std(0)
    differ = std > 1e-6
    assert 0 < differ.sum() < 16
    expected = ((flat - flat.mean(0)) / np.where(differ, std, 1))[:, differ]
    np.testing.assert_allclose(features(fit_raw(x), x), expected, atol=1e-4)


@pytest.mark.parametrize("name", FEATURES)
def test_standardised_on_the_data_it_was_fitted_to(name):
    x = images()
    z = np.asarray(features(FEATURES[name](x, 5), x), np.float64)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-4)
    varies = z.std(0) > 0
    # All but the two constant ones.
    assert varies.sum() == (5 if name == "pca" else 14)
    np.testing.assert_allclose(z.std(0)[varies], 1, atol=1e-3)


@pytest.mark.parametrize("name", FEATURES)
def test_statistics_do_not_follow_other_data(name):
    """A feature of held-out data depends on nothing but that point and the training split."""
    transform, other = FEATURES[name](images(), 5), images(50, seed=1) * 2.0 + 1.0
    whole = np.asarray(jax.jit(features)(transform, other))
    np.testing.assert_allclose(features(transform, other[7:9]), whole[7:9], atol=1e-4)
    assert np.abs(whole.mean(0)).max() > 0.1


@pytest.mark.parametrize("name", FEATURES)
def test_constant_columns_stay_finite_and_zero(name):
    x = np.full((40, 3), 0.7, np.float32)
    z = np.asarray(features(FEATURES[name](x, 2), x))
    np.testing.assert_allclose(z, 0, atol=1e-5)
    # A constant of training that changes later is ignored, rather than divided by nothing.
    later = np.asarray(features(FEATURES[name](x, 2), x + 5.0))
    np.testing.assert_allclose(later, 0, atol=1e-5)


def test_directions_without_variance_are_switched_off():
    """Three degrees of freedom, ten components asked for."""
    rng = np.random.default_rng(0)
    flat = 1.0 + rng.normal(size=(200, 3)) @ rng.normal(size=(3, 20))
    transform = fit_pca(flat.astype(np.float32), 10)
    z = np.asarray(features(transform, flat.astype(np.float32)))
    assert np.isfinite(z).all()
    np.testing.assert_allclose(z[:, :3].std(0), 1, atol=1e-3)
    # Rounding of the data, blown up to unit variance, would be a feature made of noise.
    np.testing.assert_allclose(z[:, 3:], 0, atol=1e-5)


@pytest.mark.parametrize("dim", [0, 17])
def test_impossible_number_of_components_is_refused(dim):
    with pytest.raises(ValueError, match=rf"is {dim}; with 300 examples of 16 .* from 1 to 16"):
        fit_pca(images(), dim)


def test_fewer_points_than_components_is_refused():
    with pytest.raises(ValueError, match=r"with 4 examples of 16 coordinates .* from 1 to 4"):
        fit_pca(images(4), 5)


def falling(num=4000, coordinates=300):
    """Data whose variances fall as those of photographs do, about `1 / k`, in a random basis."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(coordinates, coordinates)))[0]
    x = (rng.normal(size=(num, coordinates)) / np.sqrt(np.arange(1, coordinates + 1))) @ basis
    return (x + 0.5).astype(np.float32)


def test_pca_in_blocks_finds_the_principal_components(monkeypatch):
    x, dim = falling(), 16
    monkeypatch.setattr(sys.modules[fit_pca.__module__], "_WHOLE_VALUES", 0)
    monkeypatch.setattr(sys.modules[fit_pca.__module__], "_BLOCK_VALUES", 300 * 512)
    made = fit_pca(x, dim)
    flat = np.asarray(x, np.float64)
    _, values, exact = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    directions = np.asarray(made.directions, np.float64)
    np.testing.assert_allclose(directions.T @ directions, np.eye(dim), atol=1e-5)
    np.testing.assert_allclose(1 / made.scale, values[:dim] / np.sqrt(len(x)), rtol=1e-3)
    # The space they span, by the cosine of its largest angle to the exact one.
    cosines = np.linalg.svd(exact[:dim] @ directions, compute_uv=False)
    assert cosines.min() > 0.999
    np.testing.assert_allclose(np.abs((exact[:8] * directions.T[:8]).sum(axis=1)), 1, atol=1e-3)
    # Signs are settled, as scikit-learn settles them.
    assert np.all(directions[np.abs(directions).argmax(axis=0), np.arange(dim)] > 0)


def test_raw_in_blocks_is_the_standardised_data(monkeypatch):
    x = images()
    monkeypatch.setattr(sys.modules[fit_raw.__module__], "_BLOCK_VALUES", 16 * 7)
    flat = np.asarray(x, np.float64).reshape(300, 16)
    made = fit_raw(x)
    np.testing.assert_allclose(made.mean, flat.mean(0), rtol=1e-6)
    varies = flat.std(0) > 1e-6
    np.testing.assert_allclose(made.scale, 1 / flat.std(0)[varies], rtol=1e-6)
    np.testing.assert_array_equal(made.directions, np.eye(16)[:, varies])
