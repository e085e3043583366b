"""EM against scikit-learn from the same start, its invariances, and bad input."""

import jax
import numpy as np
import pytest
from sklearn.mixture import GaussianMixture as SklearnMixture

from gmm_diffusion import mixture
from gmm_diffusion.mixture import KINDS, GaussianMixture, blocks

KEY = jax.random.key(0)


def _data(oracle, num_points=240, num_components=3, dim=4, seed=0):
    rng = np.random.default_rng(seed)
    weights, means, covariances = oracle.arrays("full", num_components, dim, seed=seed)
    label = rng.choice(num_components, size=num_points, p=weights)
    x = np.stack([rng.multivariate_normal(means[k], covariances[k]) for k in label])
    return x.astype(np.float32)


def _start(x, kind, num_components):
    """Unit weights, data points as means, the data's covariance."""
    means = x[:: len(x) // num_components][:num_components]
    covariances = {
        "full": np.stack([np.cov(x.T)] * num_components),
        "tied": np.cov(x.T),
        "diag": np.stack([x.var(axis=0)] * num_components),
        "spherical": np.full(num_components, x.var(axis=0).mean()),
    }[kind]
    weights = np.full(num_components, 1 / num_components)
    return GaussianMixture.create(weights, means, covariances, kind)


def _sklearn_fit(x, start, kind, iterations, sample=slice(None)):
    covariances = np.asarray(start.covariances, np.float64)
    precisions = 1 / covariances if kind in ("diag", "spherical") else np.linalg.inv(covariances)
    model = SklearnMixture(
        len(start.means),
        covariance_type=kind,
        tol=0,
        max_iter=iterations,
        reg_covar=0,
        weights_init=np.full(len(start.means), 1 / len(start.means)),
        means_init=np.asarray(start.means, np.float64),
        precisions_init=precisions,
    )
    return model.fit(x.astype(np.float64)[sample])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("iterations", [1, 30])
def test_same_path_as_sklearn_from_the_same_start(kind, iterations, oracle):
    x = _data(oracle)
    start = _start(x, kind, 3)
    model = _sklearn_fit(x, start, kind, iterations)
    fit = mixture.fit_em(
        KEY, x, 3, kind, start=start, max_iterations=iterations, tolerance=0.0,
        covariance_floor=1e-12,
    )  # fmt: skip
    np.testing.assert_allclose(fit.log_likelihood, model.score(x), rtol=1e-5)
    np.testing.assert_allclose(
        mixture.responsibilities(fit.mixture, x), model.predict_proba(x), atol=1e-3
    )
    np.testing.assert_allclose(fit.mixture.means, model.means_, atol=2e-3)
    np.testing.assert_allclose(fit.mixture.covariances, model.covariances_, rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_likelihood_rises_and_is_that_of_the_mixture(kind, oracle):
    x = _data(oracle)
    fit = mixture.fit_em(KEY, x, 3, kind, max_iterations=40, tolerance=0.0, start="random")
    assert len(fit.history) == fit.num_iterations + 1
    assert np.diff(fit.history).min() > -2e-5
    assert fit.history[-1] > fit.history[0] + 0.1
    expected = oracle.log_prob(
        np.asarray(fit.mixture.weights, float),
        fit.mixture.means,
        oracle.matrices(np.asarray(fit.mixture.covariances), kind, 3, 4),
        x,
    ).mean()
    np.testing.assert_allclose(fit.log_likelihood, expected, rtol=1e-4)


@pytest.mark.parametrize("start", ["k-means++", "random"])
def test_deterministic_given_the_key(start, oracle):
    x = _data(oracle)
    fits = [mixture.fit_em(jax.random.key(k), x, 3, start=start) for k in (0, 0, 1)]
    for a, b in zip(jax.tree.leaves(fits[0]), jax.tree.leaves(fits[1]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (np.asarray(fits[0].mixture.means) != fits[2].mixture.means).any()


def test_finds_separated_clusters():
    centers = np.array([[-6, 0, 0, 0], [6, 0, 0, 0], [0, 8, 0, 0]], np.float32)
    rng = np.random.default_rng(0)
    x = np.repeat(centers, 80, axis=0) + rng.normal(size=(240, 4)).astype(np.float32)
    fit = mixture.fit_em(KEY, x, 3, "full")
    assert fit.converged
    distance = np.linalg.norm(np.asarray(fit.mixture.means)[:, None] - centers[None], axis=2)
    assert (distance.min(axis=0) < 0.5).all()
    np.testing.assert_allclose(fit.mixture.weights, 1 / 3, atol=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_fit_follows_shift_and_scale_of_the_data(kind, oracle):
    x = _data(oracle)
    scale = 50.0 if kind == "spherical" else np.array([50, 0.02, 1, 7])
    plain = mixture.fit_em(KEY, x, 3, kind, max_iterations=20)
    moved = mixture.fit_em(KEY, np.float32(x * scale + 100), 3, kind, max_iterations=20)
    np.testing.assert_allclose(
        moved.mixture.means, np.asarray(plain.mixture.means) * scale + 100, rtol=1e-3, atol=1e-2
    )
    log_scale = np.log(np.broadcast_to(scale, 4)).sum()
    np.testing.assert_allclose(
        moved.log_likelihood, plain.log_likelihood - log_scale, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_change_nothing(kind, oracle, monkeypatch):
    x = _data(oracle)[:239]
    whole = mixture.fit_em(KEY, x, 3, kind, max_iterations=5, tolerance=0.0)
    monkeypatch.setitem(blocks.BLOCK_ELEMENTS, "cpu", (3 * 4 * 50, 3 * 4 * 50))
    split = mixture.fit_em(KEY, x, 3, kind, max_iterations=5, tolerance=0.0)
    np.testing.assert_allclose(split.history, whole.history, rtol=1e-5)
    np.testing.assert_allclose(split.mixture.means, whole.mixture.means, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_of_two_is_the_point_twice(kind, oracle):
    x = _data(oracle)
    weights = np.repeat([2, 0, 1, 1], 60)
    start = _start(x, kind, 3)
    options = {"start": start, "max_iterations": 10, "tolerance": 0.0}
    weighted = mixture.fit_em(KEY, x, 3, kind, sample_weights=weights, **options)
    repeated = mixture.fit_em(KEY, np.repeat(x, weights, axis=0), 3, kind, **options)
    np.testing.assert_allclose(weighted.history, repeated.history, rtol=1e-4)
    np.testing.assert_allclose(weighted.mixture.means, repeated.mixture.means, rtol=1e-3, atol=1e-3)


def test_points_of_weight_zero_are_never_a_start():
    x = np.concatenate([np.random.default_rng(0).normal(size=(120, 4)), np.full((120, 4), 1e3)])
    weights = np.repeat([1.0, 0.0], 120)
    for start in ("random", "k-means++"):
        fit = mixture.fit_em(KEY, x, 3, start=start, sample_weights=weights)
        assert np.abs(fit.mixture.means).max() < 10


def test_more_restarts_are_never_worse(oracle):
    x = _data(oracle)
    options = {"start": "random", "max_iterations": 30}
    few = mixture.fit_em(KEY, x, 3, "full", **options)
    many = mixture.fit_em(KEY, x, 3, "full", num_restarts=4, **options)
    assert many.log_likelihood >= few.log_likelihood - 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_empty_component_is_reseeded(kind, oracle):
    x = _data(oracle)
    far = np.asarray(_start(x, kind, 3).means).copy()
    far[2] = 1e4
    start = _start(x, kind, 3)
    covariances = np.asarray(start.covariances)
    start = GaussianMixture.create(start.weights, far, covariances, kind)
    fit = mixture.fit_em(KEY, x, 3, kind, start=start)
    assert fit.num_reseeded >= 1
    assert fit.mixture.weights.min() > 0.01
    assert np.abs(fit.mixture.means).max() < 20


GOOD = np.random.default_rng(0).normal(size=(20, 2))


def _with(value):
    x = GOOD.copy()
    x[3, 1] = value
    return x


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (_with(np.nan), {}, r"x\[3, 1\] is nan"),
        (_with(-np.inf), {}, r"x\[3, 1\] is -inf"),
        (GOOD[:, 0], {}, r"x has shape \(20,\)"),
        (GOOD[:0], {}, r"x has shape \(0, 2\)"),
        (GOOD[:2], {}, "x has 2 points"),
        (GOOD * [1, 0], {}, r"x\[:, 1\] has variance 0"),
        (GOOD, {"num_components": 0}, "num_components is 0"),
        (GOOD, {"num_components": 2.5}, "num_components is 2.5"),
        (GOOD, {"kind": "round"}, "kind is 'round'"),
        (GOOD, {"start": "best"}, "start is 'best'"),
        (GOOD, {"max_iterations": 0}, "max_iterations is 0"),
        (GOOD, {"num_restarts": -1}, "num_restarts is -1"),
        (GOOD, {"tolerance": -1.0}, "tolerance is -1.0"),
        (GOOD, {"covariance_floor": 0.0}, "covariance_floor is 0.0"),
        (GOOD, {"sample_weights": np.ones(3)}, r"sample_weights has shape \(3,\)"),
        (GOOD, {"sample_weights": -np.ones(20)}, r"sample_weights\[0\] is -1.0"),
        (GOOD, {"sample_weights": np.zeros(20)}, "sample_weights are all 0"),
        (GOOD, {"sample_weights": np.eye(20)[0]}, "x has 1 points of positive weight"),
    ],
)
def test_bad_input_is_named(x, options, message):
    options = {"num_components": 3} | options
    with pytest.raises(ValueError, match=message):
        mixture.fit_em(KEY, x, **options)


def test_bad_start_is_named():
    start = GaussianMixture.create([1.0], [[0.0, 0.0]], [[1.0, 1.0]], "diag")
    with pytest.raises(ValueError, match="start is a 'diag' mixture with K=1 and D=2"):
        mixture.fit_em(KEY, GOOD, 3, start=start)


def test_looking_for_nan_finds_none(oracle):
    """`JAX_DEBUG_NANS=1` stops at a NaN in any result; what a history has not reached is none."""
    x = _data(oracle, 60)
    usual = mixture.fit_em(KEY, x, 2, "diag", max_iterations=7)
    with jax.debug_nans(True):
        jax.clear_caches()
        watched = mixture.fit_em(KEY, x, 2, "diag", max_iterations=7)
        mixture.fit_expansion(x, 4, num_iterations=7)
    np.testing.assert_allclose(watched.history, usual.history)
