"""Complaints about other mixture fits, each on the data that it came with."""

import jax
import numpy as np
import pytest
from sklearn.mixture import GaussianMixture as SklearnMixture

from gmm_diffusion import mixture
from gmm_diffusion.mixture import KINDS

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
DEGENERATE = {
    "duplicates": np.repeat(RNG.normal(size=(4, 3)), 10, axis=0),
    "one point": np.ones((40, 3)),
    "constant column": RNG.normal(size=(40, 3)) * np.array([1, 0, 1]) + 5,
    "fewer points than components and dimensions": RNG.normal(size=(5, 8)),
    "collinear": RNG.normal(size=(40, 1)) @ np.ones((1, 3)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_data_give_a_finite_fit(kind, name):
    # "ill-defined empirical covariance": scikit-learn issue 8453 and others.
    x = DEGENERATE[name].astype(np.float32)
    fit = mixture.fit_em(KEY, x, 6, kind, max_iterations=20, allow_degenerate=True)
    assert np.isfinite(fit.history).all()
    assert np.isfinite(mixture.log_prob(fit.mixture, x)).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fit.mixture))
    np.testing.assert_allclose(fit.mixture.weights.sum(), 1, rtol=1e-5)
    assert np.asarray(fit.mixture.variances).min() > 0


def test_float32_far_from_the_origin():
    # scikit-learn issue 30382: variances [0.1, 112.1] instead of [0.1, 0.1].
    x = np.array([[9999.0], [0.0]], np.float32)
    variance = x.astype(np.float64).var()
    fit = mixture.fit_em(KEY, x, 2, "spherical", covariance_floor=0.1 / variance)
    np.testing.assert_allclose(fit.mixture.covariances, [0.1, 0.1], rtol=1e-3)
    np.testing.assert_allclose(np.sort(fit.mixture.means[:, 0]), [0, 9999], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_shifted_by_a_million_standard_deviations(kind):
    x = RNG.integers(0, 16, size=(240, 4)) / 16 + RNG.integers(0, 3, size=(240, 1)) * 4
    fit = mixture.fit_em(KEY, x, 3, kind, max_iterations=30)
    moved = mixture.fit_em(KEY, (x + 2.0**19).astype(np.float32), 3, kind, max_iterations=30)
    np.testing.assert_allclose(moved.history, fit.history, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(moved.mixture.covariances, fit.mixture.covariances, rtol=1e-3)


def test_two_hundred_components_in_six_dimensions():
    # pycave issue 56: all means NaN near 200 components.
    x = RNG.normal(size=(1000, 6)).astype(np.float32)
    fit = mixture.fit_em(KEY, x, 200, "full", max_iterations=8, tolerance=0.0)
    assert np.isfinite(fit.history).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fit.mixture))
    assert fit.history[-1] > fit.history[0]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_diag_fit_of_double_data_is_sklearns():
    x = RNG.normal(size=(240, 4)) + 4 * RNG.integers(0, 3, size=(240, 1))
    model = SklearnMixture(3, covariance_type="diag", random_state=0, tol=1e-6, max_iter=500).fit(x)
    fit = mixture.fit_em(KEY, x, 3, "diag", num_restarts=4, tolerance=1e-7, max_iterations=500)
    np.testing.assert_allclose(fit.log_likelihood, model.score(x), rtol=1e-4)


def test_a_fit_that_leaves_the_finite_numbers_names_the_component():
    from gmm_diffusion.mixture.checks import check_finite
    from gmm_diffusion.mixture.em_steps import Parameters

    means = np.zeros((3, 2))
    means[1, 0] = np.nan
    with pytest.raises(FloatingPointError, match="component 1 of 3"):
        check_finite(Parameters(np.zeros(3), means, np.ones((3, 2)), "diag"))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_stay_finite_at_the_edges(kind):
    # Weight to 0, variance at the floor, identical means.
    covariances = {
        "full": np.stack([1e-6 * np.eye(2)] * 3),
        "tied": 1e-6 * np.eye(2),
        "diag": np.full((3, 2), 1e-6),
        "spherical": np.full(3, 1e-6),
    }[kind]
    mix = mixture.GaussianMixture.create([1.0, 0.0, 0.0], np.zeros((3, 2)), covariances, kind)
    x = np.array([[0.0, 0.0], [1e-3, 0.0], [5.0, -5.0]], np.float32)
    weights = np.array([1.0, 1e-30, 0.0], np.float32)

    def total(m, p, w):
        return mixture.log_prob(m, p, 0.0, w).sum() + mixture.denoise(m, p, 1e-3, w).sum()

    gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(mix, x, weights)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
