"""Weights of fixed components: monotone, and at the maximum that a generic optimiser finds."""

import jax
import numpy as np
import pytest
from scipy import optimize, stats

from gmm_diffusion import mixture


def _data(num_points=300):
    rng = np.random.default_rng(0)
    return np.where(
        rng.uniform(size=(num_points, 1)) < 0.3,
        rng.normal(-2, 0.4, size=(num_points, 1)),
        rng.normal(1, 0.8, size=(num_points, 1)),
    ).astype(np.float32)


def test_one_pass_is_the_mean_responsibility_under_equal_weights():
    x = _data()
    means, sigma = np.linspace(-4, 4, 12)[:, None], 0.5
    fit = mixture.fit_expansion(x, means=means, sigma=sigma, num_iterations=1)
    density = stats.norm(means.T, sigma).pdf(x)
    expected = (density / density.sum(axis=1, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(fit.mixture.weights, expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(fit.mixture.means, means, atol=1e-6)
    np.testing.assert_allclose(fit.mixture.covariances, sigma**2, rtol=1e-5)
    expected = np.log(density @ expected).mean()
    np.testing.assert_allclose(fit.log_likelihood, expected, rtol=1e-5)
    np.testing.assert_allclose(fit.history[0], np.log(density.mean(axis=1)).mean(), rtol=1e-5)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_likelihood_never_falls(dim):
    x = np.random.default_rng(1).standard_t(3, size=(400, dim)).astype(np.float32)
    fit = mixture.fit_expansion(x, 40, num_iterations=30)
    assert len(fit.history) == 31
    assert np.diff(fit.history).min() > -1e-5
    assert fit.history[-1] > fit.history[1] > fit.history[0]


@pytest.mark.float64
def test_reaches_the_maximum_of_the_concave_problem():
    x = _data().astype(np.float64)
    means, sigma = np.linspace(-4, 4, 7)[:, None], 0.8
    density = stats.norm(means.T, sigma).pdf(x)
    best = optimize.minimize(
        lambda w: -np.log(density @ w).mean(),
        np.full(7, 1 / 7),
        jac=lambda w: -(density / (density @ w)[:, None]).mean(axis=0),
        bounds=[(0, 1)] * 7,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(7)},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    fit = mixture.fit_expansion(x, means=means, sigma=sigma, num_iterations=20_000, tolerance=1e-6)
    assert fit.converged
    assert fit.num_iterations < 20_000
    np.testing.assert_allclose(fit.log_likelihood, -best.fun, atol=1.1e-6)
    np.testing.assert_allclose(fit.mixture.weights, best.x, atol=5e-3)


def test_sample_weights_are_repetitions():
    x = _data(60)
    a = np.random.default_rng(0).integers(0, 3, size=60)
    means = np.linspace(-4, 4, 9)[:, None]
    weighted = mixture.fit_expansion(x, means=means, sigma=0.6, sample_weights=a)
    repeated = mixture.fit_expansion(np.repeat(x, a, axis=0), means=means, sigma=0.6)
    np.testing.assert_allclose(weighted.history, repeated.history, rtol=1e-4)
    np.testing.assert_allclose(weighted.mixture.weights, repeated.mixture.weights, atol=1e-5)


def test_means_are_spread_evenly():
    x = np.array([[0.0], [8.0]])
    np.testing.assert_allclose(mixture.even_means(x, 4)[:, 0], [1, 3, 5, 7])
    x = np.random.default_rng(0).uniform(-1, 3, size=(500, 3))
    means = mixture.even_means(x, 64)
    assert means.shape == (64, 3)
    assert (means >= x.min(axis=0)).all()
    assert (means <= x.max(axis=0)).all()
    # Apart: random points in this box come about twenty times closer.
    distance = np.linalg.norm(means[:, None] - means[None], axis=2) + 9 * np.eye(64)
    assert distance.min() > 0.4 * 4 / 64 ** (1 / 3)
    for d in range(3):
        counts, _ = np.histogram(means[:, d], bins=8, range=(x.min(), x.max()))
        assert counts.min() >= 4


def test_default_sigma_fills_the_box():
    x = np.random.default_rng(0).uniform(size=(200, 2)).astype(np.float32)
    fit = mixture.fit_expansion(x, 25)
    side = np.prod(np.ptp(x, axis=0)) ** 0.5 / 5
    np.testing.assert_allclose(fit.mixture.covariances, side**2, rtol=1e-4)
    inside = mixture.sample(fit.mixture, jax.random.key(0), 500)
    assert np.abs(np.asarray(inside).mean(axis=0) - 0.5).max() < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "num_components is None"),
        ({"num_components": 0}, "num_components is 0"),
        ({"num_components": 2, "means": [[0.0]]}, "num_components is 2"),
        ({"means": [0.0]}, "means has shape"),
        ({"num_components": 3, "sigma": -1.0}, "sigma is -1.0"),
        ({"num_components": 3, "num_iterations": 0}, "num_iterations is 0"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        mixture.fit_expansion(_data(10), **options)


def test_constant_data_are_named():
    with pytest.raises(ValueError, match="sigma is 0"):
        mixture.fit_expansion(np.ones((5, 1)), 3)
