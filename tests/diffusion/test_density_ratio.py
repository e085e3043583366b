"""Densities by an integral over noise levels, against SciPy's of a mixture and its denoiser."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from gmm_diffusion import mixture
from gmm_diffusion.data import toy
from gmm_diffusion.diffusion import density_ratio
from gmm_diffusion.diffusion.density_ratio import Gaussian, Smoothed, log_density_ratio
from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture import GaussianMixture

WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[1.0, 0.0], [-0.8, 0.9], [-0.6, -1.1]])
STDS = np.array([[0.1, 0.4], [0.3, 0.15], [0.2, 0.2]])
RMS = float(np.sqrt(WEIGHTS @ (MEANS**2 + STDS**2).mean(1)))
VARIANCE = np.asarray(WEIGHTS @ STDS**2, np.float32)

CENTERS = np.random.default_rng(0).normal(size=(4, 64))
ROUND = 0.3


def flat(x, sigma, cond=None):
    mix = GaussianMixture.create(WEIGHTS, MEANS, STDS**2, "diag")
    return mixture.denoise(mix, x, sigma)


def wide(x, sigma, cond=None):
    mix = GaussianMixture.create(np.full(4, 0.25), CENTERS, np.full(4, ROUND**2), "spherical")
    return mixture.denoise(mix, x, sigma)


def log_prob(x, weights, means, stds, zeta=0.0):
    """Of the smoothed mixture, by SciPy in double precision."""
    total = np.sqrt(stds**2 + zeta**2)
    joint = stats.norm.logpdf(np.asarray(x, float)[:, None], means, total).sum(-1)
    return special.logsumexp(joint + np.log(weights), axis=1)


def exact_flat(x, zeta):
    return log_prob(x, WEIGHTS, MEANS, STDS) - log_prob(x, WEIGHTS, MEANS, STDS, zeta)


def exact_wide(x, zeta):
    law = np.full(4, 0.25), CENTERS, np.full((4, 64), ROUND)
    return log_prob(x, *law) - log_prob(x, *law, zeta)


def error(ratio, expected):
    """Near a zero of the ratio a relative error would mean nothing."""
    return np.abs(np.asarray(ratio) - expected) / np.maximum(1, np.abs(expected))


@functools.partial(jax.jit, static_argnames=("denoise_fn", "num_points", "importance"))
def ratio_of(denoise_fn, key, x, zeta, low, high, num_points, variance=None, importance=0.0):
    options = {"sigma_min": low, "sigma_max": high, "variance": variance}
    return log_density_ratio(
        denoise_fn, key, x, zeta, None, num_points, importance=importance, **options
    )


NEAR = np.array(
    [[1.05, 0.3], [-0.9, 1.0], [-0.5, -1.2], [0.0, 0.0], [2.0, 2.0], [-3.0, 1.0]], np.float32
)


@pytest.mark.parametrize(
    ("zeta", "variance", "importance"),
    # Importance changes the chance in a ratio and not the ratio, whatever the variance.
    [(0.1, VARIANCE, 0.0), (0.5, VARIANCE, 0.0), (0.5, VARIANCE, 0.8), (0.1, 0.3 * VARIANCE, 0.8)],
)
def test_in_the_plane_in_and_outside_the_data(zeta, variance, importance):
    low, high = density_ratio.sigma_bounds(STDS.min(), RMS, zeta)
    args = jax.random.key(0), NEAR, zeta, low, high, 131_072
    ratio = ratio_of(flat, *args, variance, importance)
    assert error(ratio, exact_flat(NEAR, zeta)).max() < 0.03


@pytest.mark.parametrize(
    ("directions", "num_levels"),
    # From the second, the nearest component changes with the noise level, which makes a kink.
    [([[1, 0], [0, -1], [-0.9, 0.4]], 64), ([[0.7, 0.7]], 256)],
)
def test_far_outside_the_data(directions, num_levels):
    distances = RMS * np.array([10, 30, 100])
    x = (distances[:, None, None] * np.array(directions)[None]).reshape(-1, 2)
    low, high = density_ratio.sigma_bounds(STDS.min(), RMS, 0.5)
    x = x.astype(np.float32)
    ratio = ratio_of(flat, jax.random.key(0), x, 0.5, low, high, 2 * num_levels, VARIANCE)
    expected = exact_flat(x, 0.5)
    assert expected.max() < -50
    assert error(ratio, expected).max() < 0.01


def points_wide(zeta):
    rng = np.random.default_rng(1)
    data = CENTERS + ROUND * rng.normal(size=CENTERS.shape)
    return np.concatenate([data, data + zeta * rng.normal(size=data.shape), 3 * data]).astype("f4")


@pytest.mark.parametrize("zeta", [0.05, 0.2])
def test_in_64_dimensions_with_the_control_variate(zeta):
    x = points_wide(zeta)
    low, high = density_ratio.sigma_bounds(ROUND, 1.05, zeta)
    ratio = ratio_of(wide, jax.random.key(0), x, zeta, low, high, 256, ROUND**2)
    assert error(ratio, exact_wide(x, zeta)).max() < 0.02


def spread(variance, num_points=16, zeta=0.2):
    x = points_wide(zeta)
    low, high = density_ratio.sigma_bounds(ROUND, 1.05, zeta)
    rows = [
        ratio_of(wide, jax.random.key(i), x, zeta, low, high, num_points, variance)
        for i in range(30)
    ]
    return np.asarray(rows), exact_wide(x, zeta)


def test_few_points_suffice_with_the_control_variate():
    """What training takes: a standard deviation below 0.3 wherever the ratio is below 5."""
    plain, expected = spread(None)
    controlled, _ = spread(ROUND**2)
    near = np.abs(expected) < 5
    assert controlled.std(0)[near].max() < 0.3 < plain.std(0)[near].min()
    # Unbiased, whatever the variance of the control.
    for rows in (plain, controlled, spread(0.5 * ROUND**2)[0]):
        mean, standard_error = rows.mean(0), rows.std(0, ddof=1) / np.sqrt(len(rows))
        allowed = 5 * standard_error + 0.02 * np.maximum(1, np.abs(expected))
        assert (np.abs(mean - expected) < allowed).all()


DINO = toy.MIXTURES["dino"]()


def dino(x, sigma, cond=None):
    mix = GaussianMixture.create(DINO.weights, DINO.means, DINO.covariances, "full")
    return mixture.denoise(mix, x, sigma)


def dino_draws(rng, num):
    component = rng.choice(len(DINO.weights), size=num, p=DINO.weights)
    factor = np.linalg.cholesky(DINO.covariances)[component]
    return DINO.means[component] + np.einsum("nij,nj->ni", factor, rng.normal(size=(num, 2)))


def dino_ratio(x, zeta):
    """By SciPy, along the axes of each Gaussian."""
    variances, axes = np.linalg.eigh(DINO.covariances)
    offset = np.einsum("nki,kij->nkj", x[:, None].astype(float) - DINO.means, axes)

    def log_prob(width):
        total = np.sqrt(variances + width**2)
        joint = stats.norm.logpdf(offset, scale=total).sum(-1)
        return special.logsumexp(joint + np.log(DINO.weights), axis=1)

    return log_prob(0.0) - log_prob(zeta[:, None, None])


def dino_variance():
    """What a learned uncertainty says: noise levels -> the variance whose error is dino's."""
    x = jnp.asarray(dino_draws(np.random.default_rng(5), 256), jnp.float32)
    log_sigma = jnp.linspace(jnp.log(1e-3), jnp.log(20.0), 48)

    def left(number):
        sigma = jnp.exp(log_sigma[number])
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(1), number), x.shape)
        found = dino(x + sigma * noise, jnp.full(len(x), sigma))
        return jnp.mean(jnp.square((found - x) / sigma))

    table = jnp.minimum(jax.lax.map(left, jnp.arange(48)), 0.999)

    def variance(sigma):
        share = jnp.interp(jnp.log(sigma), log_sigma, table)
        return jnp.square(sigma) * share / (1 - share)

    return variance


def test_what_training_in_the_plane_takes():
    """Where the ratio is below 5 its deviation is below 0.3, which biases the loss by 0.3^2 / 8."""
    num, repeats, asked = 32, 16, 0.3
    rng = np.random.default_rng(0)
    label = np.where(np.arange(num) % 2, -1.0, 1.0)
    zeta = np.exp(rng.uniform(np.log(0.05), np.log(0.5), num)).astype(np.float32)
    noise = np.where(label < 0, zeta, 0.0)[:, None] * rng.normal(size=(num, 2))
    x = (dino_draws(rng, num) + noise).astype(np.float32)
    expected = dino_ratio(x, zeta)
    thinnest = np.sqrt(np.linalg.eigvalsh(DINO.covariances).min())
    options = {
        "sigma_min": 0.1 * thinnest,
        "sigma_max": jnp.asarray(3 * np.sqrt(1 + zeta**2)),
        "variance": dino_variance(),
    }

    def drawn(num_points, importance):
        def draw(key):
            return density_ratio.ratio_and_spread(
                dino, key, x, zeta, None, num_points, importance=importance, **options
            )

        keys = jax.random.split(jax.random.key(2), repeats)
        return [np.asarray(v) for v in jax.jit(lambda: jax.lax.map(draw, keys))()]

    undecided = np.abs(expected) < 5

    def deviation(ratios):
        return np.sqrt(ratios.var(axis=0, ddof=1)[undecided].mean())

    few, _ = drawn(8, 0.0)
    ratios, spreads = drawn(256, 0.8)
    assert deviation(ratios) < asked < 0.9 < deviation(few)
    # The mean size of what the halves disagree by is a little below the root of its mean square.
    assert 0.7 < spreads[:, undecided].mean() / deviation(ratios) < 1.3
    losses = [np.logaddexp(0, -label * r).mean() for r in (ratios, few, expected)]
    # A loss moves by no more than its ratio.
    allowed = asked**2 / 8 + 4 * asked / np.sqrt(num * repeats)
    assert losses[0] == pytest.approx(losses[2], abs=allowed)
    assert losses[1] > losses[2] + allowed


def test_importance_costs_nothing_in_64_dimensions():
    x, expected = points_wide(0.2), exact_wide(points_wide(0.2), 0.2)
    low, high = density_ratio.sigma_bounds(ROUND, 1.05, 0.2)
    rows = [
        ratio_of(wide, jax.random.key(i), x, 0.2, low, high, 8, ROUND**2, importance)
        for importance in (0.0, 0.8)
        for i in range(30)
    ]
    even, drawn = np.asarray(rows).reshape(2, 30, -1).std(axis=1)[:, np.abs(expected) < 5]
    assert drawn.mean() < even.mean() < 0.3


def test_the_control_may_depend_on_the_noise_level():
    x = points_wide(0.2)
    low, high = density_ratio.sigma_bounds(ROUND, 1.05, 0.2)
    options = {"sigma_min": low, "sigma_max": high}
    args = (wide, jax.random.key(7), x, 0.2, None, 16)
    number = log_density_ratio(*args, **options, variance=ROUND**2)
    function = log_density_ratio(*args, **options, variance=lambda s: 0 * s + ROUND**2)
    np.testing.assert_allclose(number, function, rtol=1e-5, atol=1e-4)


def test_any_chunk_gives_the_same_and_bounds_the_rows():
    rows = []

    def counting(x, sigma, cond):
        rows.append(x.shape[0])
        return x / (1 + jnp.square(sigma))[:, None] + 0 * cond

    x, cond = jnp.asarray(NEAR), jnp.zeros((6, 1))

    def total(scale, chunk):
        def scaled(y, sigma, cond):
            return scale * counting(y, sigma, cond)

        ratio = log_density_ratio(
            scaled, jax.random.key(0), x, 0.3, cond, 60, sigma_max=10.0, chunk=chunk
        )
        return jnp.sum(jnp.sin(ratio)), ratio

    compiled = jax.jit(jax.value_and_grad(total, has_aux=True), static_argnums=1)
    whole = compiled(1.0, 10**6)
    assert set(rows) == {120}
    for chunk, rows_a_call in ((240, 120), (40, 40), (7, 4), (1, 4)):
        rows.clear()
        part = compiled(1.0, chunk)
        assert set(rows) == {rows_a_call}
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4), part, whole)


def test_a_point_is_the_same_in_any_batch_and_with_its_own_key():
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(3), i))(jnp.arange(6))
    zeta = jnp.linspace(0.1, 0.6, 6)
    whole = log_density_ratio(flat, keys, NEAR, zeta, None, 32)
    one_key = log_density_ratio(flat, jax.random.key(3), NEAR, zeta, None, 32)
    np.testing.assert_array_equal(whole, one_key)
    order = np.array([4, 1])
    part = log_density_ratio(flat, keys[order], NEAR[order], zeta[order], None, 32)
    np.testing.assert_allclose(part, whole[order], rtol=1e-4, atol=1e-4)


def test_the_condition_belongs_to_the_point():
    shift = jnp.asarray([[5.0, 0.0], [0.0, 0.0], [-2.0, 3.0]])

    def moved(x, sigma, cond):
        return flat(x - cond, sigma) + cond

    x = jnp.asarray(NEAR[:3])
    options = {"sigma_min": 0.003, "sigma_max": 10.0}
    ratio = log_density_ratio(moved, jax.random.key(0), x + shift, 0.3, shift, 4096, **options)
    plain = log_density_ratio(flat, jax.random.key(0), x, 0.3, None, 4096, **options)
    np.testing.assert_allclose(ratio, plain, rtol=0.01, atol=0.01)


def test_a_gaussian_as_the_second_density():
    """The density itself, in 2 and 64 dimensions, and images of the same numbers."""
    low, high = density_ratio.sigma_bounds(ROUND, 1.05)
    x = points_wide(0.2)[:8]
    options = {"sigma_min": low, "sigma_max": high, "variance": ROUND**2}
    args = (jax.random.key(0), x, Smoothed(0.0), Gaussian(1.05**2), None, 512)
    law = np.full(4, 0.25), CENTERS, np.full((4, 64), ROUND)
    expected = log_prob(x, *law) - stats.norm.logpdf(x.astype(float), scale=1.05).sum(1)
    ratio = density_ratio.integrate(wide, *args, **options)
    assert error(ratio, expected).max() < 0.02

    def image(y, sigma, cond):
        return wide(y.reshape(-1, 64), sigma).reshape(y.shape)

    args = (args[0], x.reshape(-1, 4, 8, 2), *args[2:])
    same = density_ratio.integrate(image, *args, **options)
    np.testing.assert_allclose(same, ratio, rtol=1e-2, atol=0.5)
    assert error(same, expected).max() < 0.02


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zeta": 0.0}, r"zeta is 0\.0; it must be positive"),
        ({"zeta": np.array([0.1, -1, 1, 1, 1, 1])}, "zeta is .*; it must be positive"),
        ({"num_points": 7}, "num_points is 7; it must be a positive even number"),
        ({"num_points": 0}, "num_points is 0"),
        ({"sigma_min": 3.0, "sigma_max": 2.0}, r"sigma_min is 3\.0 and sigma_max is 2\.0"),
        ({"sigma_min": 0.0}, r"sigma_min is 0\.0"),
        ({"chunk": 0}, "chunk is 0; it must be at least 1"),
        ({"importance": 1.0, "variance": 1.0}, r"importance is 1\.0; it must be at least 0 and"),
        ({"importance": 0.5}, r"importance is 0\.5 and variance is None; it needs a variance"),
    ],
)
def test_bad_input_is_named(changes, message):
    arguments = {"x": NEAR, "zeta": 0.3} | changes
    with pytest.raises(InputError, match=message):
        log_density_ratio(flat, jax.random.key(0), **arguments)
