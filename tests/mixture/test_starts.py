"""Starts of EM: what k-means++ must do and uniform choice does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial
from sklearn.cluster import kmeans_plusplus

from gmm_diffusion.mixture import KINDS, starts
from gmm_diffusion.mixture.em import choose_points


def test_seeds_are_far_apart():
    # One point of 500 holds nearly all the squared distance, so it is nearly always a seed.
    x = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
    x[123] = 1e3
    keys = jax.random.split(jax.random.key(0), 40)
    seeds = jax.vmap(lambda key: starts._seeds(key, jnp.asarray(x), 2))(keys)
    assert ((seeds == 1e3).all(axis=2).any(axis=1)).mean() > 0.95


def test_seeds_of_many_clusters_cost_what_scikit_learns_do(monkeypatch):
    rng = np.random.default_rng(0)
    centers = 8 * rng.normal(size=(100, 4))
    x = (centers[rng.integers(100, size=4000)] + rng.normal(size=(4000, 4))).astype(np.float32)

    def cost(seeds):
        return scipy.spatial.distance.cdist(x, seeds, "sqeuclidean").min(axis=1).mean()

    def ours():
        keys = (jax.random.key(i) for i in range(5))
        return np.mean([cost(starts._seeds(key, jnp.asarray(x), 100)) for key in keys])

    theirs = np.mean([cost(kmeans_plusplus(x, 100, random_state=i)[0]) for i in range(5)])
    assert ours() == pytest.approx(theirs, rel=0.1)
    # One draw a seed finds fewer of the clusters.
    monkeypatch.setattr(starts, "_FEW_COMPONENTS", 100)
    assert ours() > 1.2 * theirs


def test_seeds_are_distinct_points_of_the_data():
    x = np.arange(12, dtype=np.float32)[:, None] ** 2
    seeds = starts._seeds(jax.random.key(1), jnp.asarray(x), 12)
    np.testing.assert_array_equal(np.sort(seeds, axis=0), x)


@pytest.mark.parametrize("kind", KINDS)
def test_start_from_clusters_has_their_means_and_inner_variance(kind):
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1, 2], [100, 60, 40])
    centers = np.array([[-9.0, 0.0], [9.0, 0.0], [0.0, 15.0]])
    x = (centers[label] + rng.normal(size=(200, 2)) * [1.0, 0.2]).astype(np.float32)
    params = starts.make_start(jax.random.key(0), jnp.asarray(x), 3, kind, "k-means++")
    order = np.argsort(-np.asarray(params.log_weights))
    means = np.stack([x[label == k].mean(axis=0) for k in range(3)])
    np.testing.assert_allclose(params.means[order], means, rtol=1e-4, atol=1e-4)
    expected = (np.bincount(label) + 1) / 203
    np.testing.assert_allclose(np.exp(params.log_weights)[order], expected, rtol=1e-4)
    variance = np.mean((x - means[label]) ** 2, axis=0)
    got = {
        "full": lambda r: np.diagonal(r @ np.swapaxes(r, 1, 2), axis1=1, axis2=2),
        "tied": lambda r: np.diagonal(r @ r.T)[None],
        "diag": lambda r: r**2,
        "spherical": lambda r: r[:, None] ** 2,
    }[kind](np.asarray(params.root))
    if kind == "spherical":
        variance = variance.mean()
    np.testing.assert_allclose(got, np.broadcast_to(variance, got.shape), rtol=1e-3)


def test_random_start_takes_distinct_points():
    x = jnp.arange(20.0)[:, None]
    means = starts.make_start(jax.random.key(0), x, 20, "diag", "random").means
    np.testing.assert_array_equal(np.sort(means, axis=0), x)


def test_heavy_points_are_chosen_more_often():
    weights = np.repeat([0.0, 1.0, 3.0], 1000)
    chosen = choose_points(jax.random.key(0), 3000, 200, weights)
    assert len(set(chosen)) == 200
    counts = np.bincount(chosen // 1000, minlength=3)
    assert counts[0] == 0
    # About 150 of 200; seven standard deviations.
    assert 110 < counts[2] < 190
