"""The fast paths: right where they are taken, and not taken where they would be wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion import mixture
from gmm_diffusion.mixture import KINDS, GaussianMixture, blocks, density, em_loop, em_steps
from gmm_diffusion.mixture.triangular import triangular_inverse
from gmm_diffusion.mixture.whitened import (
    direct_log_joint,
    is_accurate,
    log_joint,
    white_coordinates,
)

EXPANDED = ("tied", "diag", "spherical")


def _points(weights, means, matrices, num_points, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.choice(len(weights), size=num_points, p=weights)
    roots = np.linalg.cholesky(matrices)
    x = means[label] + np.einsum("nde,ne->nd", roots[label], rng.normal(size=(num_points, 4)))
    return x.astype(np.float32)


@pytest.fixture
def always_many(monkeypatch):
    """Few points take the path of many, in several blocks."""
    monkeypatch.setattr(density, "_FEW_ELEMENTS", 0)
    monkeypatch.setattr(density, "_MANY_ELEMENTS", 400)
    monkeypatch.setitem(blocks.BLOCK_ELEMENTS, "cpu", (400, 400))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_many_points_match_scipy(kind, shift, oracle, always_many):
    weights, means, covariances = oracle.arrays(kind, 5, 4)
    matrices = oracle.matrices(covariances, kind, 5, 4)
    x = _points(weights, means, matrices, 103) + np.float32(shift)
    means = np.float32(means + shift)
    mix = GaussianMixture.create(weights, means, covariances, kind)
    noisy = matrices + 0.3**2 * np.eye(4)
    np.testing.assert_allclose(
        mixture.log_prob(mix, x, 0.3), oracle.log_prob(weights, means, noisy, x), atol=2e-3
    )
    other = np.array([0.5, 0.0, 0.2, 0.3, 0.0], np.float32)
    np.testing.assert_allclose(
        mixture.responsibilities(mix, x, 0.3, other),
        oracle.responsibilities(other, means, noisy, x),
        atol=2e-3,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_narrow_components_far_apart_take_differences(kind, oracle, always_many):
    mix, x, expected = _narrow(kind, oracle)
    w = density._whitened(mix, jnp.zeros(4), jnp.asarray(0.0), None)
    assert not is_accurate(w)
    np.testing.assert_allclose(mixture.log_prob(mix, x), expected, atol=2e-3)
    if kind in EXPANDED:
        # What the guard is for.
        wrong = jax.nn.logsumexp(log_joint(w, x), axis=1)
        assert np.abs(wrong - expected).max() > 0.5


def _narrow(kind, oracle):
    std = 1e-3
    rng = np.random.default_rng(0)
    means = np.float32(rng.uniform(-3, 3, size=(5, 4)))
    covariances = {
        "full": np.stack([std**2 * np.eye(4)] * 5),
        "tied": std**2 * np.eye(4),
        "diag": np.full((5, 4), std**2),
        "spherical": np.full(5, std**2),
    }[kind]
    weights = np.full(5, 0.2)
    mix = GaussianMixture.create(weights, means, covariances, kind)
    matrices = oracle.matrices(covariances, kind, 5, 4)
    x = _points(weights, means.astype(float), matrices, 200)
    return mix, x, oracle.log_prob(weights, means.astype(float), matrices, x.astype(float))


@pytest.mark.parametrize("kind", KINDS)
def test_em_recovers_narrow_components_far_apart(kind, oracle):
    mix, x, _ = _narrow(kind, oracle)
    means = np.asarray(mix.means) + np.float32(2e-3)
    start = GaussianMixture.create(mix.weights, means, 4 * np.asarray(mix.covariances), kind)
    fit = mixture.fit_em(jax.random.key(0), x, 5, kind, start=start, covariance_floor=1e-12)
    nearest = np.linalg.norm(x[:, None] - np.asarray(mix.means)[None], axis=2).argmin(axis=1)
    for k in range(5):
        own = x[nearest == k].astype(np.float64)
        np.testing.assert_allclose(fit.mixture.means[k], own.mean(axis=0), atol=2e-6)
    within = np.stack([x[nearest == k].var(axis=0, dtype=np.float64) for k in range(5)])
    got = oracle.matrices(np.asarray(fit.mixture.covariances), kind, 5, 4)
    diagonal = np.diagonal(got, axis1=1, axis2=2)
    if kind == "tied":
        within = np.average(within, axis=0, weights=np.bincount(nearest))[None]
    elif kind == "spherical":
        within = within.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(diagonal, np.broadcast_to(within, (5, 4)), rtol=5e-3)


@pytest.mark.parametrize("kind", EXPANDED)
def test_expanded_statistics_are_those_of_differences(kind, oracle):
    weights, means, _ = oracle.arrays(kind, 3, 4)
    rng = np.random.default_rng(0)
    root = {
        "tied": np.linalg.cholesky(oracle.arrays("tied", 3, 4)[2]),
        "diag": rng.uniform(0.3, 1, (3, 4)),
        "spherical": rng.uniform(0.3, 1, 3),
    }[kind]
    arrays = (np.log(weights), means, root)
    params = em_steps.Parameters(*(jnp.asarray(a, jnp.float32) for a in arrays), kind)
    x = jnp.asarray(3 * rng.normal(size=(60, 4)), jnp.float32)
    a = jnp.asarray(rng.uniform(size=60), jnp.float32)
    w = em_steps.whiten(params)
    assert is_accurate(w)
    one, other = em_steps.statistics(w, x, a), em_steps.expanded_statistics(w, x, a)
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-3)


def _nothing(w, x, a):
    return jax.tree.map(jnp.zeros_like, em_steps.expanded_statistics(w, x, a))


def _one_far(kind, oracle):
    """32 components, of which one is as narrow as EM leaves it around a single point."""
    rng = np.random.default_rng(0)
    means = np.float32(rng.uniform(-3, 3, size=(32, 4)))
    std = rng.uniform(0.5, 1, (32, 4) if kind == "diag" else 32)
    std[7] = 1e-3
    weights = np.full(32, 1 / 32)
    x = _points(weights, means.astype(float), oracle.matrices(std**2, kind, 32, 4), 300)
    x[:20] = means[7] + 1e-3 * rng.normal(size=(20, 4)).astype(np.float32)
    return weights, means, std, x


@pytest.mark.parametrize("kind", ["diag", "spherical"])
def test_only_the_components_that_are_far_take_differences(kind, oracle, always_many, monkeypatch):
    weights, means, std, x = _one_far(kind, oracle)
    # All by differences would say nothing.
    monkeypatch.setattr(em_loop, "statistics", _nothing)
    params = em_steps.Parameters(
        *(jnp.asarray(a, jnp.float32) for a in (np.log(weights), means, std)), kind
    )
    points, a = blocks.split(x, np.random.default_rng(1).uniform(size=len(x)), 32)
    got = em_loop.data_statistics(params, jnp.asarray(points), jnp.asarray(a))

    points, a = points.reshape(-1, 4).astype(float), a.reshape(-1).astype(float)
    matrices = oracle.matrices(std**2, kind, 32, 4)
    r = oracle.responsibilities(weights, means.astype(float), matrices, points) * a[:, None]
    y = (points[:, None] - means.astype(float)) / (std if kind == "diag" else std[:, None])
    square = np.einsum("nk,nkd->kd", r, y**2)
    np.testing.assert_allclose(got.count, r.sum(0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(got.first, np.einsum("nk,nkd->kd", r, y), rtol=1e-3, atol=2e-2)
    second = square if kind == "diag" else square.sum(1)
    np.testing.assert_allclose(got.second, second, rtol=1e-3, atol=2e-2)
    # What is avoided: the expansion of a component that is far.
    w = em_steps.whiten(params)
    wrong = em_steps.expanded_statistics(w, jnp.asarray(points), jnp.asarray(a))
    assert np.abs(wrong.second[7] - second[7]).max() > 1

    mix = GaussianMixture.create(weights, means, std**2, kind)
    expected = oracle.log_prob(weights, means.astype(float), matrices, points)
    np.testing.assert_allclose(mixture.log_prob(mix, points), expected, atol=5e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_log_joint_is_scipys(kind, oracle):
    weights, means, covariances = oracle.arrays(kind, 3, 4)
    mix = GaussianMixture.create(weights, means, covariances, kind)
    x = 3 * np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    w = density._whitened(mix, jnp.zeros(4), jnp.asarray(0.0), None)
    expected = oracle.log_joint(weights, means, oracle.matrices(covariances, kind, 3, 4), x)
    np.testing.assert_allclose(log_joint(w, x), expected, rtol=1e-4, atol=1e-3)
    direct = direct_log_joint(w, white_coordinates(w, x)).T
    np.testing.assert_allclose(direct, expected, rtol=1e-4, atol=1e-3)


def test_gradient_flows_through_the_path_of_many(oracle, always_many):
    mix = GaussianMixture.create(*oracle.arrays("diag", 3, 4), "diag")
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    gradient = jax.grad(lambda p: mixture.log_prob(mix, p, 0.5).sum())(x)
    np.testing.assert_allclose(gradient, mixture.score(mix, x, 0.5), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (3, 7, 7), (2, 3, 16, 16)])
def test_triangular_inverse(shape):
    lower = np.tril(np.random.default_rng(0).normal(size=shape)) + 2 * np.eye(shape[-1])
    got = triangular_inverse(jnp.asarray(lower, jnp.float32))
    np.testing.assert_allclose(got, np.linalg.inv(lower), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("num_points", [1, 99, 100, 1001])
@pytest.mark.parametrize("elements", [40, 400, 4000])
def test_blocks_hold_every_point_once(num_points, elements, monkeypatch):
    monkeypatch.setitem(blocks.BLOCK_ELEMENTS, "cpu", (elements, 2 * elements))
    x = np.arange(1.0, num_points + 1, dtype=np.float32)[:, None]
    points, weights = blocks.split(x, None, 5)
    merged, merged_weights = blocks.merge(points, weights, 5)
    for p, a in ((points, weights), (merged, merged_weights)):
        np.testing.assert_array_equal(p[a > 0], x)
        assert a.size < num_points + max(2 * a.shape[1], len(a))
    assert len(merged) <= len(points)
