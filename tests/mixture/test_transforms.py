"""Smoothing, sampling and conditioning, against moments, a two-sample test and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gmm_diffusion import mixture
from gmm_diffusion.mixture import KINDS, GaussianMixture


@pytest.mark.parametrize("kind", KINDS)
def test_smooth_adds_noise_variance(kind, oracle):
    weights, means, covariances = oracle.arrays(kind, 3, 4)
    mix = mixture.smooth(GaussianMixture.create(weights, means, covariances, kind), 0.5)
    matrices = oracle.matrices(np.asarray(mix.covariances), kind, 3, 4)
    expected = oracle.matrices(covariances, kind, 3, 4) + 0.25 * np.eye(4)
    np.testing.assert_allclose(matrices, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="sigma has shape"):
        mixture.smooth(mix, jnp.ones(3))


@pytest.mark.parametrize("kind", KINDS)
def test_sample_has_the_mixtures_moments(kind, oracle):
    weights, means, covariances = oracle.arrays(kind, 3, 2)
    mix = GaussianMixture.create(weights, means, covariances, kind)
    n = 40_000
    x = np.asarray(mixture.sample(mix, jax.random.key(0), n), np.float64)
    mean = weights @ means
    within = np.einsum("k,kde->de", weights, oracle.matrices(covariances, kind, 3, 2))
    covariance = within + np.einsum("k,kd,ke->de", weights, means - mean, means - mean)
    # Five standard errors.
    std = np.sqrt(np.diag(covariance))
    assert (np.abs(x.mean(axis=0) - mean) < 5 * std / np.sqrt(n)).all()
    error = np.abs(np.cov(x.T) - covariance)
    assert (error < 5 * np.sqrt(3) * np.outer(std, std) / np.sqrt(n)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_sample_passes_a_two_sample_test(kind, oracle):
    weights, means, covariances = oracle.arrays(kind, 3, 2)
    mix = GaussianMixture.create(weights, means, covariances, kind)
    x = np.asarray(mixture.sample(mix, jax.random.key(1), 3000))
    rng = np.random.default_rng(0)
    matrices = oracle.matrices(covariances, kind, 3, 2)
    label = rng.choice(3, size=3000, p=weights)
    y = np.stack([rng.multivariate_normal(means[k], matrices[k]) for k in label])
    for direction in np.random.default_rng(1).normal(size=(5, 2)):
        assert stats.ks_2samp(x @ direction, y @ direction).pvalue > 1e-3
    shifted = x + 0.3
    assert stats.ks_2samp(shifted[:, 0], y[:, 0]).pvalue < 1e-3


def test_sample_is_deterministic_and_follows_the_key(oracle):
    mix = GaussianMixture.create(*oracle.arrays("full", 3, 2), "full")
    first = mixture.sample(mix, jax.random.key(0), 100)
    np.testing.assert_array_equal(first, mixture.sample(mix, jax.random.key(0), 100))
    assert (first != mixture.sample(mix, jax.random.key(1), 100)).all()


def test_sample_never_uses_a_component_of_weight_zero():
    mix = GaussianMixture.create([0.0, 1.0], [[-9.0], [9.0]], [[0.1], [0.1]], "diag")
    assert (mixture.sample(mix, jax.random.key(0), 500) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dims", [(1,), (2, 0)])
def test_condition_on_matches_integration(kind, dims, oracle):
    weights, means, covariances = oracle.arrays(kind, 3, 3, spread=1.0)
    matrices = oracle.matrices(covariances, kind, 3, 3)
    mix = GaussianMixture.create(weights, means, covariances, kind)
    values = np.array([0.4, -0.3], np.float32)[: len(dims)]
    conditional = jax.jit(lambda v: mixture.condition_on(mix, dims, v))(values)
    assert conditional.kind == kind
    rest = [d for d in range(3) if d not in dims]
    grid = np.linspace(-9, 9, 301)
    axes = np.meshgrid(*[grid] * len(rest), indexing="ij")
    points = np.stack([a.ravel() for a in axes], axis=1)
    whole = np.empty((len(points), 3))
    whole[:, rest], whole[:, list(dims)] = points, values
    joint = np.exp(oracle.log_prob(weights, means, matrices, whole))
    evidence = joint.sum() * (grid[1] - grid[0]) ** len(rest)
    density = np.exp(mixture.log_prob(conditional, np.float32(points)))
    np.testing.assert_allclose(density, joint / evidence, rtol=1e-3, atol=1e-5)


def test_condition_on_works_under_vmap_and_grad(oracle):
    mix = GaussianMixture.create(*oracle.arrays("full", 3, 3, spread=1.0), "full")
    values = jnp.array([[0.1], [0.7]])
    means = jax.vmap(lambda v: mixture.condition_on(mix, [1], v).means)(values)
    single = mixture.condition_on(mix, [1], values[1]).means
    np.testing.assert_allclose(means[1], single, rtol=1e-5)
    gradient = jax.grad(lambda v: mixture.condition_on(mix, [1], v).weights[0])(values[0])
    step = 1e-2
    up, down = (mixture.condition_on(mix, [1], values[0] + s).weights[0] for s in (step, -step))
    np.testing.assert_allclose(gradient[0], (up - down) / (2 * step), rtol=2e-2, atol=1e-4)


@pytest.mark.parametrize("dims", [(), (0, 1, 2), (3,), (-1,), (1, 1)])
def test_condition_on_names_bad_dims(dims, oracle):
    mix = GaussianMixture.create(*oracle.arrays("diag", 2, 3), "diag")
    with pytest.raises(ValueError, match="dims is"):
        mixture.condition_on(mix, dims, np.zeros(len(dims)))


def test_condition_on_names_bad_values(oracle):
    mix = GaussianMixture.create(*oracle.arrays("diag", 2, 3), "diag")
    with pytest.raises(ValueError, match="values has shape"):
        mixture.condition_on(mix, [0], np.zeros(2))
