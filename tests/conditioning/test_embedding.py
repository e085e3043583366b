"""The three embeddings of `G_w` against Monte-Carlo, and their scale in 2, 16 and 64 dimensions."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from gmm_diffusion.conditioning import EMBEDDINGS
from gmm_diffusion.conditioning.embedding import (
    apply_mean_embedding,
    cosine_means,
    fit_mean_embedding,
    full_covariances,
    random_frequencies,
)
from gmm_diffusion.data import toy
from gmm_diffusion.mixture import KINDS, GaussianMixture


def rms(x, axis=None):
    return np.sqrt(np.mean(np.square(np.asarray(x, np.float64)), axis=axis))


def small(kind, dim=3, num_components=4):
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(num_components, dim, dim))
    full = 0.1 * factors @ factors.transpose(0, 2, 1) + 0.2 * np.eye(dim)
    covariances = {
        "full": full,
        "tied": full[0],
        "diag": rng.uniform(0.1, 1.0, (num_components, dim)),
        "spherical": rng.uniform(0.1, 1.0, num_components),
    }[kind]
    weights, means = rng.dirichlet(np.ones(num_components)), rng.normal(size=(num_components, dim))
    return GaussianMixture.create(weights, means, covariances, kind)


def matrices(mix):
    """`[K, D, D]` covariances, written out per kind."""
    k, d = mix.means.shape
    c = np.asarray(mix.covariances, np.float64)
    if mix.kind in ("full", "tied"):
        c = (c + np.swapaxes(c, -1, -2)) / 2
    return {
        "full": lambda: c,
        "tied": lambda: np.stack([c] * k),
        "diag": lambda: np.stack([np.diag(row) for row in c]),
        "spherical": lambda: np.stack([v * np.eye(d) for v in c]),
    }[mix.kind]()


def draws_of(mix, w, n, seed=0):
    """`[n, D]` from `G_w`, by NumPy."""
    rng = np.random.default_rng(seed)
    covariances, k = matrices(mix), rng.choice(len(w), size=n, p=w)
    z = np.empty((n, mix.dim))
    for j in range(len(w)):
        own = k == j
        z[own] = rng.multivariate_normal(np.asarray(mix.means)[j], covariances[j], own.sum())
    return z


def some_weights(n=6, num_components=4, seed=1):
    return np.random.default_rng(seed).dirichlet(np.full(num_components, 0.5), n)


# ---- properties of every member of the table


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_under_jit_the_same_in_any_batch_in_float32(name):
    fit, apply, fitted_type, _ = EMBEDDINGS[name]
    fitted = fit(small("diag"), some_weights(50), num_features=16, num_draws=8, seed=0)
    assert isinstance(fitted, fitted_type)
    weights = jnp.asarray(some_weights(), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 6)
    whole = np.asarray(jax.jit(apply)(fitted, weights, keys))
    assert whole.dtype == np.float32
    assert whole.shape[0] == 6
    assert np.isfinite(whole).all()
    part = np.asarray(jax.jit(apply)(fitted, weights[4:], keys[4:]))
    np.testing.assert_allclose(whole[4:], part, atol=1e-4)
    mapped = jax.vmap(lambda w, key: apply(fitted, w[None], key[None])[0])(weights, keys)
    np.testing.assert_allclose(mapped, whole, atol=1e-4)
    # Another distribution is another embedding.
    assert rms(whole[0] - whole[1]) > 0.05


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_statistics_are_a_function_of_the_seed(name):
    fit = EMBEDDINGS[name].fit
    one, again = (fit(small("full"), some_weights(50), seed=3) for _ in range(2))
    assert jax.tree.structure(one) == jax.tree.structure(again)
    assert jax.tree.all(jax.tree.map(np.array_equal, one, again))


@pytest.mark.parametrize("kind", KINDS)
def test_full_covariances(kind):
    mix = small(kind)
    np.testing.assert_allclose(full_covariances(mix), matrices(mix), atol=1e-6)


# ---- mean embedding


@pytest.mark.parametrize("kind", KINDS)
def test_closed_form_is_the_mean_of_the_cosines(kind):
    mix, w, n = small(kind), some_weights(1)[0], 200_000
    frequencies, phases = random_frequencies(mix, 24, seed=5)
    assert frequencies.shape == (3, 24)
    cosines = np.sqrt(2) * np.cos(draws_of(mix, w, n) @ frequencies + phases)
    expected, error = cosines.mean(0), cosines.std(0) / np.sqrt(n)
    closed = w @ cosine_means(mix, frequencies, phases)
    assert np.max(np.abs(closed - expected) / error) < 5
    assert rms(closed) > 0.3
    # As applied: the same, centred and scaled entry by entry.
    fitted = fit_mean_embedding(mix, some_weights(50), num_features=24, seed=5)
    seen = apply_mean_embedding(fitted, jnp.asarray(w[None], jnp.float32), None)[0]
    center, scale = np.asarray(fitted.center), np.asarray(fitted.scale)
    np.testing.assert_allclose(np.asarray(seen) / scale + center, closed, atol=1e-5)


def made(dim, num_components=40):
    """Standardised features; components tile the plane, and overlap by projection elsewhere.

    Within a component are 3 to 6 % of each variance in 2 dimensions, 20 to 60 % in more; the means
    are spread (each the farthest of 20 candidates), as those of a fit are.
    """
    rng = np.random.default_rng(dim)
    within = rng.uniform(0.03, 0.06, dim) if dim == 2 else rng.uniform(0.2, 0.6, dim)
    means = rng.normal(size=(1, dim))
    while len(means) < num_components:
        candidates = rng.normal(size=(20, dim))
        distance = np.linalg.norm(candidates[:, None] - means, axis=-1).min(1)
        means = np.append(means, candidates[[np.argmax(distance)]], axis=0)
    means = np.sqrt(1 - within) * (means - means.mean(0)) / means.std(0)
    variances = within * rng.uniform(0.5, 1.5, (num_components, dim))
    weights = rng.dirichlet(np.full(num_components, 5.0))
    # Nearly one-hot, as responsibilities of fitted components are.
    k = rng.choice(num_components, size=3000, p=weights)
    examples = 0.95 * np.eye(num_components)[k] + 0.05 * rng.dirichlet(
        np.full(num_components, 0.1), 3000
    )
    return GaussianMixture.create(weights, means, variances, "diag"), examples


def digits(dim, num_components=40):
    """Clusters of real digits in PCA coordinates of unit variance (64: the varying pixels)."""
    x = load_digits().data / 16.0
    x = PCA(dim, random_state=0).fit_transform(x) if dim < 64 else x[:, x.std(0) > 0.05]
    x = (x - x.mean(0)) / x.std(0)
    label = KMeans(num_components, n_init=1, random_state=0).fit_predict(x)
    own = [x[label == k] for k in range(num_components)]
    variances = np.stack([rows.var(0) + 0.01 for rows in own])
    weights = np.bincount(label, minlength=num_components) / len(x)
    mix = GaussianMixture.create(
        weights, np.stack([rows.mean(0) for rows in own]), variances, "diag"
    )
    return mix, np.eye(num_components)[label]


@functools.cache
def realistic(source, dim):
    """A mixture of 40 components and training weights `[N, 40]`."""
    return {"made": made, "digits": digits}[source](dim)


@pytest.mark.parametrize("source", ["made", "digits"])
@pytest.mark.parametrize("dim", [2, 16, 64])
def test_unit_rms_and_components_apart_in_any_dimension(source, dim):
    mix, weights = realistic(source, dim)
    fitted = fit_mean_embedding(mix, weights, num_features=256, seed=0)
    apply = jax.jit(apply_mean_embedding)
    over_training = apply(fitted, jnp.asarray(weights, jnp.float32), None)
    assert rms(over_training) == pytest.approx(1, abs=0.02)
    # Entry by entry, so that none is silent.
    np.testing.assert_allclose(rms(over_training, axis=0), 1, atol=0.05)
    np.testing.assert_allclose(np.asarray(over_training).mean(0), 0, atol=0.02)
    components = np.asarray(apply(fitted, jnp.eye(40), None))
    distance = rms(components[:, None] - components[None], axis=-1)
    assert distance[~np.eye(40, dtype=bool)].min() > 0.3


def test_frequencies_follow_the_scale_of_the_components():
    """In other units, even different ones for each feature, their law stays the same."""
    mix, _ = realistic("made", 16)
    units = np.geomspace(1e-2, 1e2, 16)
    stretched = GaussianMixture.create(
        np.asarray(mix.weights, np.float64),
        np.asarray(mix.means, np.float64) * units,
        np.asarray(mix.variances, np.float64) * units**2,
        "diag",
    )
    quantiles = []
    for each in (mix, stretched):
        frequencies, _ = random_frequencies(each, 1024, seed=0)
        spread = np.einsum("df,kd,df->kf", frequencies, np.asarray(each.covariances), frequencies)
        quantiles.append(np.quantile(np.median(spread, axis=0), [0.05, 0.5, 0.95]))
    np.testing.assert_allclose(quantiles[0], quantiles[1], rtol=0.1)
    # o' Sigma o of a typical component is about 1 at the highest frequencies, and not above; two
    # octaves of frequencies are four of o' Sigma o.
    low, _, high = quantiles[0]
    assert 0.5 < high < 1.5
    assert high / low > 8


# ---- draws


def test_draws_have_the_moments_of_the_distribution():
    mix = small("full")
    fit, apply = EMBEDDINGS["draws"][:2]
    n = 50_000
    fitted = fit(mix, None, num_draws=n)
    w = np.stack([[0.0, 1.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.6, 0.0, 0.3, 0.1]])
    keys = jax.random.split(jax.random.key(0), 3)
    z = np.asarray(jax.jit(apply)(fitted, jnp.asarray(w, jnp.float32), keys), np.float64)
    assert z.shape == (3, n, 3)
    means, covariances = np.asarray(mix.means, np.float64), matrices(mix)
    for own, rows in zip(w, z, strict=True):
        mean = own @ means
        second = np.einsum(
            "k,kij->ij", own, covariances + means[:, :, None] * means[:, None]
        ) - np.outer(mean, mean)
        np.testing.assert_allclose(rows.mean(0), mean, atol=0.03)
        np.testing.assert_allclose(np.cov(rows.T), second, atol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_mean_of_fixed_cosines_over_draws_approaches_the_mean_embedding(kind):
    mix, weights, n = small(kind), some_weights(3), 20_000
    frequencies, phases = random_frequencies(mix, 16, seed=2)
    fit, apply = EMBEDDINGS["draws"][:2]
    keys = jax.random.split(jax.random.key(1), 3)
    z = np.asarray(
        jax.jit(apply)(fit(mix, None, num_draws=n), jnp.asarray(weights, jnp.float32), keys)
    )
    cosines = np.sqrt(2) * np.cos(z @ frequencies + phases)
    error = cosines.std(1) / np.sqrt(n)
    closed = weights @ cosine_means(mix, frequencies, phases)
    assert np.max(np.abs(cosines.mean(1) - closed) / error) < 5
    # A few draws are far from it, and the error falls as their number grows.
    few = rms(cosines[:, :10].mean(1) - closed)
    assert few > 10 * rms(cosines.mean(1) - closed)


def test_draws_belong_to_their_key():
    fit, apply = EMBEDDINGS["draws"][:2]
    fitted = fit(small("diag"), None, num_draws=8)
    w = jnp.asarray(some_weights(2), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 4)
    one, again, other = (np.asarray(apply(fitted, w, k)) for k in (keys[:2], keys[:2], keys[2:]))
    assert np.array_equal(one, again)
    assert not np.any(one == other)
    # Within one example all draws are different, too.
    assert len(np.unique(one[0, :, 0])) == 8


def test_draws_without_keys_are_refused():
    fit, apply = EMBEDDINGS["draws"][:2]
    with pytest.raises(ValueError, match="'draws' needs keys, one an example"):
        apply(fit(small("diag"), None), jnp.eye(4), None)


# ---- table


def test_table_is_the_scaled_weights():
    fit, apply = EMBEDDINGS["table"][:2]
    w = some_weights(5, 9)
    actual = apply(fit(small("diag"), w), jnp.asarray(w, jnp.float32), None)
    np.testing.assert_allclose(actual, 3.0 * w, rtol=1e-5)
    np.testing.assert_allclose(rms(apply(None, jnp.eye(9), None), axis=1), 1, rtol=1e-5)


# ---- the blurred mixture of mixture guidance


@pytest.mark.parametrize("kind", KINDS)
def test_the_blurred_mean_embedding_is_that_of_the_wider_mixture(kind):
    """By draws from `Sigma_k + amount W`, under the sharp one's frequencies and scale.

    The centre is the wider mixture's, too: what it would read of the training weights' mean.
    """
    mix, w, n, amount = small(kind), some_weights(1)[0], 200_000, 20.0
    seen = some_weights(100)
    fitted = fit_mean_embedding(mix, seen, num_features=8, seed=0)
    blurred = EMBEDDINGS["mean_embedding"].blur(fitted, jnp.float32(amount))
    ours = apply_mean_embedding(blurred, jnp.asarray(w[None], jnp.float32), None)[0]
    within = np.einsum("k,kde->de", np.asarray(mix.weights), matrices(mix))
    rng = np.random.default_rng(1)
    frequencies, phases = random_frequencies(mix, 8, 0)

    def cosines(w):
        z = draws_of(mix, w, n) + rng.multivariate_normal(np.zeros(3), amount * within, n)
        return np.sqrt(2) * np.cos(z @ frequencies + phases).mean(0)

    expected = (cosines(w) - cosines(seen.mean(0))) * np.asarray(fitted.scale)
    atol = 6 * np.sqrt(4 / n) * float(np.max(fitted.scale))
    np.testing.assert_allclose(ours, expected, atol=atol)
    sharp = apply_mean_embedding(fitted, jnp.asarray(w[None], jnp.float32), None)[0]
    assert rms(ours - sharp) > 5 * atol / 6


def random_mixture(seed, num_components, dim):
    """Components of very different widths, as full as they come."""
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(num_components, dim, dim))
    roots *= rng.uniform(0.1, 1.0, (num_components, 1, 1))
    covariances = roots @ roots.swapaxes(1, 2) + 1e-3 * np.eye(dim)
    weights, means = rng.dirichlet(np.ones(num_components)), rng.normal(size=(num_components, dim))
    return GaussianMixture.create(weights, 3 * means, covariances, "full")


TREE = toy.MIXTURES["tree"]()
BLURRED = {
    "tree": GaussianMixture.create(TREE.weights, TREE.means, TREE.covariances, "full"),
    "as of digits": GaussianMixture.create(
        np.full(40, 1 / 40),
        np.random.default_rng(0).normal(size=(40, 16)),
        np.random.default_rng(1).uniform(0.05, 0.5, (40, 16)),
        "diag",
    ),
    "random, 2": random_mixture(2, 5, 2),
    "random, 8": random_mixture(3, 12, 8),
    "random, 64": random_mixture(4, 6, 64),
}


@pytest.mark.parametrize("one_hot", [True, False])
@pytest.mark.parametrize("name", BLURRED)
def test_blur_shrinks_towards_the_average_condition(name, one_hot):
    mix = BLURRED[name]
    num_components = mix.means.shape[0]
    rng = np.random.default_rng(5)
    weights = rng.dirichlet(np.ones(num_components), 500)
    if one_hot:
        weights = np.eye(num_components)[weights.argmax(1)]
    fitted = fit_mean_embedding(mix, weights, num_features=64, seed=0)

    def read(amount):
        blurred = EMBEDDINGS["mean_embedding"].blur(fitted, jnp.float32(amount))
        return np.asarray(apply_mean_embedding(blurred, jnp.asarray(weights, jnp.float32), None))

    # Small entries are scaled up, and their rounding with them.
    rounding = 4e-6 * float(np.max(fitted.scale))
    sharp, sizes = read(0.0), []
    for amount in (0.0, 0.01, 0.1, 0.5, 1.0, 3.0, 10.0, 100.0):
        features = read(amount)
        # Over the training weights each entry has mean 0 and RMS 1 at the most, as in training.
        assert rms(features, axis=0).max() < 1 + rounding
        np.testing.assert_allclose(features.mean(0), 0, atol=rounding)
        assert np.all(np.abs(features) <= np.abs(sharp) + rounding)
        sizes.append(rms(features))
    assert sizes[0] > 0.9
    assert all(later < earlier for earlier, later in itertools.pairwise(sizes))
    # The average condition is 0; nothing of the request is left.
    np.testing.assert_allclose(read(1e6), 0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_blurred_draws_have_the_wider_covariance(kind):
    mix, amount = small(kind), 0.7
    embedding = EMBEDDINGS["draws"]
    fitted = embedding.blur(embedding.fit(mix, None, num_draws=40_000), jnp.float32(amount))
    w, keys = jnp.eye(4)[2:3], jax.random.split(jax.random.key(0), 1)
    z = np.asarray(embedding.apply(fitted, w, keys))
    within = np.einsum("k,kde->de", np.asarray(mix.weights), matrices(mix))
    expected = matrices(mix)[2] + amount * within
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.cov(z[0].T), expected, atol=0.05 * scale)


@pytest.mark.parametrize("name", ["mean_embedding", "draws"])
def test_no_blur_changes_nothing(name):
    embedding, weights = EMBEDDINGS[name], jnp.asarray(some_weights(), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 6)
    fitted = embedding.fit(small("full"), some_weights(50), num_features=16, seed=0)
    same = embedding.blur(fitted, jnp.float32(0.0))
    ours, sharp = (embedding.apply(c, weights, keys) for c in (same, fitted))
    if name == "mean_embedding":
        np.testing.assert_array_equal(ours, sharp)
    np.testing.assert_allclose(ours, sharp, atol=1e-4)


def test_a_table_cannot_be_blurred():
    with pytest.raises(ValueError, match="blur the weights instead"):
        EMBEDDINGS["table"].blur(EMBEDDINGS["table"].fit(small("diag"), None), 1.0)
