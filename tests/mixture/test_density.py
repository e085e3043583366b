"""Density, responsibilities, score and denoiser against SciPy in float64, and autodiff."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax.test_util import check_grads
from scipy.special import logsumexp

from gmm_diffusion import mixture
from gmm_diffusion.mixture import KINDS, GaussianMixture, blocks


def _case(oracle, kind, num_components=4, dim=3, num_points=50, **options):
    weights, means, covariances = oracle.arrays(kind, num_components, dim, **options)
    matrices = oracle.matrices(covariances, kind, num_components, dim)
    mix = GaussianMixture.create(weights, means, covariances, kind)
    rng = np.random.default_rng(1)
    x = means[rng.integers(num_components, size=num_points)]
    x = (x + rng.normal(size=x.shape)).astype(np.float32)
    return mix, (weights, means, matrices), x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("num_components", "dim"), [(1, 1), (5, 1), (512, 3), (2, 256)])
def test_matches_scipy(kind, num_components, dim, oracle):
    mix, arrays, x = _case(oracle, kind, num_components, dim)
    np.testing.assert_allclose(
        mixture.log_prob(mix, x), oracle.log_prob(*arrays, x), rtol=2e-5, atol=2e-4
    )
    np.testing.assert_allclose(
        mixture.responsibilities(mix, x), oracle.responsibilities(*arrays, x), atol=2e-3
    )


@pytest.mark.float64
@pytest.mark.parametrize("kind", KINDS)
def test_matches_scipy_to_double_precision(kind, oracle):
    mix, arrays, x = _case(oracle, kind)
    x = np.asarray(x, np.float64)
    np.testing.assert_allclose(mixture.log_prob(mix, x), oracle.log_prob(*arrays, x), rtol=1e-11)
    np.testing.assert_allclose(
        mixture.responsibilities(mix, x), oracle.responsibilities(*arrays, x), atol=1e-11
    )


@pytest.mark.parametrize("kind", ["full", "tied"])
def test_condition_number_of_a_million(kind, oracle):
    mix, (weights, means, matrices), _ = _case(oracle, kind, 3, 4, condition=1e6)
    rng = np.random.default_rng(3)
    x = np.concatenate(
        [rng.multivariate_normal(m, c, 40) for m, c in zip(means, matrices, strict=True)]
    )
    # Means exactly representable, so that the only rounding left is the function's own.
    x = x.astype(np.float32)
    expected = oracle.log_prob(weights, np.float32(means).astype(float), matrices, x.astype(float))
    np.testing.assert_allclose(mixture.log_prob(mix, x), expected, rtol=1e-3, atol=2e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_narrow_components_far_apart(kind, oracle):
    # Here an expanded square has an error of 247 where the squared distance is 32.
    std, dim = 1e-3, 32
    rng = np.random.default_rng(0)
    means = np.float32(rng.uniform(-3, 3, size=(5, dim)))
    covariances = {
        "full": np.stack([std**2 * np.eye(dim)] * 5),
        "tied": std**2 * np.eye(dim),
        "diag": np.full((5, dim), std**2),
        "spherical": np.full(5, std**2),
    }[kind]
    mix = GaussianMixture.create(np.full(5, 0.2), means, covariances, kind)
    x = np.repeat(means, 20, axis=0) + np.float32(std * rng.normal(size=(100, dim)))
    matrices = oracle.matrices(covariances, kind, 5, dim)
    expected = oracle.log_prob(np.full(5, 0.2), means.astype(float), matrices, x.astype(float))
    np.testing.assert_allclose(mixture.log_prob(mix, x), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_standard_deviations_away(kind, oracle):
    mix, arrays, _ = _case(oracle, kind)
    directions = np.random.default_rng(0).normal(size=(20, 3))
    x = np.float32(1e4 * directions / np.linalg.norm(directions, axis=1, keepdims=True))
    value = mixture.log_prob(mix, x)
    np.testing.assert_allclose(value, oracle.log_prob(*arrays, x.astype(float)), rtol=1e-4)
    r = mixture.responsibilities(mix, x)
    np.testing.assert_allclose(r.sum(axis=1), 1, rtol=1e-5)
    gradient_fn = jax.jit(jax.grad(lambda m, p: mixture.log_prob(m, p).sum(), argnums=(0, 1)))
    for gradient in jax.tree.leaves(gradient_fn(mix, jnp.asarray(x))):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_point", [False, True])
def test_noise_adds_to_the_covariances(kind, per_point, oracle):
    mix, (weights, means, matrices), x = _case(oracle, kind, num_points=6)
    sigma = np.geomspace(1e-2, 50, 6).astype(np.float32) if per_point else np.float32(0.7)
    expected = [
        oracle.log_prob(weights, means, matrices + float(s) ** 2 * np.eye(3), x[i : i + 1])[0]
        for i, s in enumerate(np.broadcast_to(sigma, 6))
    ]
    np.testing.assert_allclose(mixture.log_prob(mix, x, sigma), expected, rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize("per_point", [False, True])
def test_weights_replace_the_mixtures_own(per_point, oracle):
    mix, (_, means, matrices), x = _case(oracle, "diag")
    rng = np.random.default_rng(5)
    weights = rng.dirichlet(np.ones(4), size=len(x) if per_point else None).astype(np.float32)
    rows = np.broadcast_to(weights, (len(x), 4))
    expected = [oracle.log_prob(w, means, matrices, x[i : i + 1])[0] for i, w in enumerate(rows)]
    np.testing.assert_allclose(mixture.log_prob(mix, x, weights=weights), expected, rtol=2e-5)
    expected = [
        oracle.responsibilities(w, means, matrices, x[i : i + 1])[0] for i, w in enumerate(rows)
    ]
    np.testing.assert_allclose(
        mixture.responsibilities(mix, x, weights=weights), expected, atol=1e-3
    )


@pytest.mark.parametrize("kind", KINDS)
def test_zero_weights_are_exact_and_differentiable(kind, oracle):
    mix, (_, means, matrices), x = _case(oracle, kind)
    some = np.array([0.0, 0.3, 0.7, 0.0], np.float32)
    expected = oracle.log_prob(some[1:3], means[1:3], matrices[1:3], x)
    np.testing.assert_allclose(mixture.log_prob(mix, x, weights=some), expected, rtol=2e-5)
    own = mix.replace(log_weights=jnp.log(jnp.asarray(some)))
    np.testing.assert_allclose(mixture.log_prob(own, x), expected, rtol=2e-5)
    assert (mixture.responsibilities(mix, x, weights=some)[:, [0, 3]] == 0).all()

    def total(m, points, w):
        return (
            mixture.log_prob(m, points, weights=w).sum()
            + mixture.denoise(m, points, 0.5, w).sum()
            + mixture.responsibilities(m, points, 0.1, w)[:, 1].sum()
        )

    gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(mix, jnp.asarray(x), jnp.asarray(some))
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


@pytest.mark.float64
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_match_finite_differences(kind, oracle):
    mix, _, x = _case(oracle, kind, num_points=3)
    check_grads(
        lambda m, p, s: mixture.log_prob(m, p, s),
        (mix, jnp.asarray(x, jnp.float64), jnp.array([0.1, 1.0, 3.0])),
        order=2,
        modes=("rev",),
        rtol=1e-4,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_point", [False, True])
def test_score_and_denoise_match_autodiff_of_smooth(kind, per_point, oracle):
    mix, _, x = _case(oracle, kind, num_points=6)
    sigma = np.array([0.01, 0.1, 0.5, 1, 5, 80], np.float32) if per_point else np.float32(0.4)

    @jax.jit
    @jax.vmap
    def scores(points, s):
        return jax.grad(lambda p: mixture.log_prob(mixture.smooth(mix, s), p[None])[0])(points)

    expected = scores(jnp.asarray(x), jnp.broadcast_to(sigma, 6))
    np.testing.assert_allclose(mixture.score(mix, x, sigma), expected, rtol=1e-4, atol=1e-4)
    s = np.broadcast_to(sigma, 6)[:, None]
    np.testing.assert_allclose(
        mixture.denoise(mix, x, sigma), x + s**2 * np.asarray(expected), rtol=1e-3, atol=2e-3
    )


@pytest.mark.parametrize("kind", KINDS)
def test_denoise_with_weights_is_the_denoiser_of_the_reweighted_mixture(kind, oracle):
    mix, _, x = _case(oracle, kind)
    weights = np.random.default_rng(2).dirichlet(np.ones(4), size=len(x)).astype(np.float32)
    other = GaussianMixture.create(weights[7], mix.means, np.asarray(mix.covariances), kind)
    per_point = mixture.denoise(mix, x, 0.8, weights)
    np.testing.assert_allclose(
        per_point[7], mixture.denoise(other, x[7:8], 0.8)[0], rtol=1e-4, atol=1e-4
    )


def test_denoise_keeps_precision_at_large_noise():
    # x + sigma^2 score loses 80 * 6e-8 here, a thousandth of the component's standard deviation.
    mix = GaussianMixture.create([1.0], [[0.25]], [[1e-6]], "diag")
    noisy = np.float32([[80.0], [-120.0]])
    expected = 0.25 + (noisy.astype(float) - 0.25) * 1e-6 / (1e-6 + 6400)
    np.testing.assert_allclose(mixture.denoise(mix, noisy, 80.0), expected, rtol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_change_nothing(kind, oracle, monkeypatch):
    mix, _, x = _case(oracle, kind, num_points=33)
    sigma = np.linspace(0.1, 2, 33).astype(np.float32)
    weights = np.random.default_rng(2).dirichlet(np.ones(4), size=33).astype(np.float32)
    # Without their own `jit`, which would remember the whole.
    calls = {
        "log_prob": lambda m, x: mixture.log_prob.__wrapped__(m, x),
        "responsibilities": lambda m, x: mixture.responsibilities.__wrapped__(m, x, sigma),
        "score": lambda m, x: mixture.score.__wrapped__(m, x, 0.3, weights),
        "denoise": lambda m, x: mixture.denoise.__wrapped__(m, x, sigma, weights),
    }

    def run():
        return jax.jit(lambda m, x: {name: call(m, x) for name, call in calls.items()})(mix, x)

    whole = run()
    monkeypatch.setitem(blocks.BLOCK_ELEMENTS, "cpu", (4 * 3 * 8, 4 * 3 * 8))
    for name, split in run().items():
        np.testing.assert_allclose(split, whole[name], rtol=1e-5, atol=1e-6)


def test_jit_vmap_and_grad_compose(oracle):
    mix, _, x = _case(oracle, "full")
    stacked = jax.tree.map(lambda a: jnp.stack([a, a + 0.1]), mix)
    values = jax.jit(jax.vmap(mixture.log_prob, in_axes=(0, None)))(stacked, x)
    np.testing.assert_allclose(values[0], mixture.log_prob(mix, x), rtol=1e-5)
    assert values.shape == (2, 50)


@pytest.mark.parametrize(
    ("x", "sigma", "weights", "message"),
    [
        (np.zeros(3), 0.0, None, r"x has shape \(3,\)"),
        (np.zeros((2, 4)), 0.0, None, r"x has shape \(2, 4\); valid is \[N, 3\]"),
        (np.zeros((2, 3)), np.zeros(3), None, r"sigma has shape \(3,\)"),
        (np.zeros((2, 3)), 0.0, np.ones(3), r"weights has shape \(3,\)"),
    ],
)
def test_wrong_shapes_are_named(x, sigma, weights, message, oracle):
    mix, _, _ = _case(oracle, "diag")
    for fn in (mixture.log_prob, mixture.responsibilities, mixture.score, mixture.denoise):
        with pytest.raises(ValueError, match=message):
            fn(mix, x, sigma, weights)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    means=arrays(np.float32, (3, 2), elements=st.floats(-100, 100, width=32)),
    log_std=arrays(np.float32, (3, 2), elements=st.floats(-4, 4, width=32)),
    x=arrays(np.float32, (5, 2), elements=st.floats(-1000, 1000, width=32)),
    sigma=st.floats(0, 100, width=32),
    weights=st.sampled_from([(0.2, 0.3, 0.5), (0.0, 0.5, 0.5), (1.0, 0.0, 0.0)]),
)
def test_any_mixture_anywhere(means, log_std, x, sigma, weights):
    variances = np.exp(2 * log_std.astype(np.float64))
    mix = GaussianMixture.create(weights, means, variances, "diag")
    std = np.sqrt(variances + float(sigma) ** 2)
    z = (x.astype(np.float64)[:, None] - means) / std
    with np.errstate(divide="ignore"):
        joint = np.log(weights) - np.log(std).sum(axis=1) - 0.5 * (z**2).sum(axis=2)
    joint -= np.log(2 * np.pi)
    value = mixture.log_prob(mix, x, np.float32(sigma))
    np.testing.assert_allclose(value, logsumexp(joint, axis=1), rtol=1e-5, atol=1e-4)
    r = np.asarray(mixture.responsibilities(mix, x, np.float32(sigma)))
    np.testing.assert_allclose(r.sum(axis=1), 1, rtol=1e-5)
    assert (r >= 0).all()
    assert (r[:, np.array(weights) == 0] == 0).all()
    # The posterior mean lies in the hull of the means and the point, in each dimension.
    denoised = mixture.denoise(mix, x, np.float32(sigma))
    low = np.minimum(means.min(axis=0), x)
    high = np.maximum(means.max(axis=0), x)
    tolerance = 1e-5 * (1 + np.maximum(np.abs(low), np.abs(high)))
    assert (denoised >= low - tolerance).all()
    assert (denoised <= high + tolerance).all()
