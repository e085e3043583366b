"""Construction of mixtures: round trip, tracing, and every kind of bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion import mixture
from gmm_diffusion.mixture import KINDS, GaussianMixture


@pytest.mark.parametrize("kind", KINDS)
def test_create_gives_back_what_it_was_given(kind, oracle):
    weights, means, covariances = oracle.arrays(kind, 3, 4)
    mix = GaussianMixture.create(weights, means, covariances, kind)
    np.testing.assert_allclose(mix.weights, weights, rtol=1e-6)
    np.testing.assert_allclose(mix.means, means, rtol=1e-6)
    np.testing.assert_allclose(mix.covariances, covariances, rtol=1e-5, atol=1e-6)
    assert (mix.num_components, mix.dim, mix.kind) == (3, 4, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_create_works_when_traced(kind, oracle):
    weights, means, covariances = oracle.arrays(kind, 3, 2)
    x = jnp.array([[0.3, -1.0], [2.0, 0.5]])

    @jax.jit
    def traced(w, m, c):
        return mixture.log_prob(GaussianMixture.create(w, m, c, kind), x)

    expected = oracle.log_prob(weights, means, oracle.matrices(covariances, kind, 3, 2), x)
    np.testing.assert_allclose(traced(weights, means, covariances), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_host_arrays_make_a_mixture_that_outlives_a_trace(kind, oracle):
    weights, means, covariances = oracle.arrays(kind, 3, 4)
    kept = []

    @jax.jit
    def traced(x):
        kept.append(GaussianMixture.create(weights, means, covariances, kind))
        return x + kept[0].means.sum()

    traced(jnp.float32(0))
    np.testing.assert_allclose(kept[0].weights, weights, rtol=1e-6)
    np.testing.assert_allclose(kept[0].covariances, covariances, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_mixture_is_a_pytree_with_static_kind(kind, oracle):
    mix = GaussianMixture.create(*oracle.arrays(kind, 2, 3), kind)
    doubled = jax.jit(lambda m: jax.tree.map(lambda a: 2 * a, m))(mix)
    assert doubled.kind == kind
    np.testing.assert_allclose(doubled.means, 2 * np.asarray(mix.means))


ONE = np.ones(1)


@pytest.mark.parametrize(
    ("weights", "means", "covariances", "kind", "message"),
    [
        (ONE, np.zeros((1, 2)), np.ones((1, 2)), "round", "kind is 'round'"),
        (np.ones(2) / 2, np.zeros((1, 2)), np.ones((1, 2)), "diag", r"weights has shape \(2,\)"),
        (ONE, np.zeros(2), np.ones((1, 2)), "diag", r"means has shape \(2,\)"),
        (ONE, np.zeros((1, 2)), np.ones(2), "diag", r"covariances has shape \(2,\)"),
        (ONE, np.zeros((1, 2)), np.ones((1, 2)), "full", r"valid for 'full' is \(1, 2, 2\)"),
        ([1.5, -0.5], np.zeros((2, 1)), np.ones((2, 1)), "diag", r"weights\[1\] is -0.5"),
        ([0.5, 0.4], np.zeros((2, 1)), np.ones((2, 1)), "diag", "weights sum to 0.9"),
        ([np.nan], np.zeros((1, 1)), np.ones((1, 1)), "diag", r"weights\[0\] is nan"),
        (ONE, [[0, np.inf]], np.ones((1, 2)), "diag", r"means\[0, 1\] is inf"),
        (ONE, np.zeros((1, 2)), [[1, 0]], "diag", r"covariances\[0\] has smallest eigenvalue 0"),
        (ONE, np.zeros((1, 2)), [-1], "spherical", r"covariances\[0\] has smallest"),
        (ONE, np.zeros((1, 2)), [[[1, 2], [2, 1]]], "full", "smallest eigenvalue -1"),
        (ONE, np.zeros((1, 2)), [[1, 2], [2, 1]], "tied", "covariances has smallest"),
        (ONE, np.zeros((1, 2)), [[1, 0.5], [0, 1]], "tied", "not symmetric"),
    ],
)
def test_bad_input_is_named(weights, means, covariances, kind, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture.create(weights, means, covariances, kind)
