"""Distances between mixtures against closed forms and quadrature."""

import jax
import numpy as np
import pytest
from scipy import linalg, stats

from gmm_diffusion import mixture
from gmm_diffusion.mixture import KINDS, GaussianMixture

KEY = jax.random.key(0)


def _bures(m, s, m2, s2):
    root = linalg.sqrtm(s)
    return np.sqrt(((m - m2) ** 2).sum() + np.trace(s + s2 - 2 * linalg.sqrtm(root @ s2 @ root)))


@pytest.mark.parametrize("kinds", [(kind, kind) for kind in KINDS] + [("full", "diag")])
def test_components_follow_the_bures_formula(kinds, oracle):
    arrays = [oracle.arrays(kind, 2 + i, 3, seed=i) for i, kind in enumerate(kinds)]
    mixes = [GaussianMixture.create(*a, kind) for a, kind in zip(arrays, kinds, strict=True)]
    matrices = [oracle.matrices(a[2], kind, 2 + i, 3) for i, (a, kind) in
                enumerate(zip(arrays, kinds, strict=True))]  # fmt: skip
    expected = [
        [_bures(m, s, m2, s2) for m2, s2 in zip(arrays[1][1], matrices[1], strict=True)]
        for m, s in zip(arrays[0][1], matrices[0], strict=True)
    ]
    np.testing.assert_allclose(mixture.gaussian_wasserstein(*mixes), expected, rtol=1e-4)


def test_mixture_wasserstein_of_narrow_components_is_that_of_points():
    # Transport between points on a line is by quantiles, which SciPy solves without a program.
    rng = np.random.default_rng(0)
    locations = [np.sort(rng.normal(size=k)) for k in (4, 6)]
    weights = [rng.dirichlet(np.ones(k)) for k in (4, 6)]
    mixes = [
        GaussianMixture.create(w, x[:, None], np.full(len(x), 1e-8), "spherical")
        for x, w in zip(locations, weights, strict=True)
    ]
    distance, plan = mixture.mixture_wasserstein(*mixes)
    levels = (np.arange(200_000) + 0.5) / 200_000
    quantiles = [
        x[np.minimum(np.searchsorted(np.cumsum(w), levels), len(x) - 1)]
        for x, w in zip(locations, weights, strict=True)
    ]
    np.testing.assert_allclose(distance**2, ((quantiles[0] - quantiles[1]) ** 2).mean(), rtol=1e-3)
    np.testing.assert_allclose(plan.sum(axis=1), weights[0], atol=1e-6)
    np.testing.assert_allclose(plan.sum(axis=0), weights[1], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_mixture_wasserstein_is_a_distance(kind, oracle):
    mix = GaussianMixture.create(*oracle.arrays(kind, 4, 3), kind)
    reverse = slice(None, None, -1)
    covariances = np.asarray(mix.covariances)
    permuted = GaussianMixture.create(
        mix.weights[reverse],
        mix.means[reverse],
        covariances if kind == "tied" else covariances[reverse],
        kind,
    )
    assert mixture.mixture_wasserstein(mix, permuted)[0] < 2e-3
    shifted = mix.replace(means=mix.means + np.array([[3.0, 0.0, 4.0]]))
    np.testing.assert_allclose(mixture.mixture_wasserstein(mix, shifted)[0], 5, rtol=1e-4)
    np.testing.assert_allclose(mixture.mixture_wasserstein(shifted, mix)[0], 5, rtol=1e-4)


def test_kl_of_gaussians_is_the_closed_form():
    p = GaussianMixture.create([1.0], [[0.5]], [[1.0]], "diag")
    q = GaussianMixture.create([1.0], [[-0.5]], [[4.0]], "diag")
    value, error = mixture.kl_divergence(KEY, p, q, 20_000)
    expected = 0.5 * (1 / 4 + 1 / 4 - 1 + np.log(4))
    assert abs(value - expected) < 5 * error < 0.05


def test_js_matches_quadrature():
    p = GaussianMixture.create([0.3, 0.7], [[-1.0], [2.0]], [0.5, 1.0], "spherical")
    q = GaussianMixture.create([1.0], [[0.5]], [1.5], "spherical")
    grid = np.linspace(-12, 12, 20_001)
    a = 0.3 * stats.norm(-1, 0.5**0.5).pdf(grid) + 0.7 * stats.norm(2, 1).pdf(grid)
    b = stats.norm(0.5, 1.5**0.5).pdf(grid)
    middle = (a + b) / 2
    integrand = (a * np.log(a / middle) + b * np.log(b / middle)) / 2
    expected = integrand.sum() * (grid[1] - grid[0])
    value, error = mixture.js_divergence(KEY, p, q, 20_000)
    assert abs(value - expected) < 5 * error < 0.02
    far = q.replace(means=q.means + 1e3)
    np.testing.assert_allclose(mixture.js_divergence(KEY, p, far, 100)[0], np.log(2), rtol=1e-5)
    assert abs(mixture.js_divergence(KEY, p, p, 100)[0]) < 1e-6


def test_bad_input_is_named(oracle):
    p = GaussianMixture.create(*oracle.arrays("diag", 2, 3), "diag")
    q = GaussianMixture.create(*oracle.arrays("diag", 2, 2), "diag")
    for distance in (
        mixture.mixture_wasserstein,
        lambda a, b: mixture.kl_divergence(KEY, a, b),
        lambda a, b: mixture.js_divergence(KEY, a, b),
    ):
        with pytest.raises(ValueError, match="3 and 2 dimensions"):
            distance(p, q)
    with pytest.raises(ValueError, match="num_points gives 1"):
        mixture.kl_divergence(KEY, p, p, 1)
