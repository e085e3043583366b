"""The contrastive loss against its expectation under exact densities, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gmm_diffusion import mixture
from gmm_diffusion.diffusion.contrastive_loss import contrastive_loss
from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture import GaussianMixture

CENTERS = np.array([[-1.0], [1.0]])
STD = 0.2


def log_prob(x, zeta=0.0):
    total = np.sqrt(STD**2 + np.square(zeta))
    parts = [stats.norm.logpdf(x[:, 0], center[0], total) for center in CENTERS]
    return np.logaddexp(*parts) - np.log(2)


def exact(x, sigma, cond):
    mix = GaussianMixture.create(np.full(2, 0.5), CENTERS, np.full(2, STD**2), "spherical")
    return mixture.denoise(mix, x, sigma)


def keys(n):
    return jax.random.split(jax.random.key(0), n)


def data(n):
    rng = np.random.default_rng(0)
    x = CENTERS[rng.integers(2, size=n)] + STD * rng.normal(size=(n, 1))
    return jnp.asarray(x, jnp.float32)


OPTIONS = {"num_points": 64, "sigma_min": 0.006, "sigma_max": 10.0, "variance": STD**2}


def test_the_loss_is_the_logistic_loss_of_the_exact_ratio():
    n, zeta = 4000, 0.4
    label = jnp.where(jnp.arange(n) % 2 == 0, 1.0, -1.0)
    loss, ratio, _ = contrastive_loss(exact, keys(n), data(n), label, zeta=(zeta, zeta), **OPTIONS)
    rng = np.random.default_rng(5)
    clean = CENTERS[rng.integers(2, size=200_000)] + STD * rng.normal(size=(200_000, 1))
    noisy = clean + zeta * rng.normal(size=clean.shape)
    for sign, x in ((1, clean), (-1, noisy)):
        truth = log_prob(x) - log_prob(x, zeta)
        own = np.asarray(label) == sign
        for ours, expected in ((ratio, truth), (loss, np.logaddexp(0, -sign * truth))):
            allowed = 6 * expected.std() / np.sqrt(n / 2)
            assert np.asarray(ours)[own].mean() == pytest.approx(expected.mean(), abs=allowed)


def test_the_exact_denoiser_loses_less_than_wrong_ones():
    n = 4000
    label = jnp.where(jnp.arange(n) % 2 == 0, 1.0, -1.0)

    def loss_of(denoise_fn):
        loss, *_ = contrastive_loss(denoise_fn, keys(n), data(n), label, zeta=(0.2, 0.8), **OPTIONS)
        return float(loss.mean())

    right = loss_of(exact)
    assert 0.1 < right < 0.65
    for scale in (0.9, 1.1):
        assert loss_of(lambda x, s, c, scale=scale: scale * exact(x, s, c)) > right + 0.01


def test_a_point_of_data_stays_and_its_upper_level_follows_zeta():
    seen = []

    def bound(zeta):
        seen.append(zeta)
        return 7.4 * jnp.sqrt(1 + jnp.square(zeta))

    options = OPTIONS | {"sigma_max": bound, "num_points": 2048}
    loss, ratio, _ = contrastive_loss(
        exact, keys(6), data(6), jnp.ones(6), zeta=(0.1, 1.0), **options
    )
    (zeta,) = seen
    truth = log_prob(np.asarray(data(6))) - log_prob(np.asarray(data(6)), np.asarray(zeta))
    np.testing.assert_allclose(ratio, truth, atol=0.2)
    np.testing.assert_allclose(loss, np.logaddexp(0, -np.asarray(ratio)), rtol=1e-5)


@pytest.mark.parametrize(
    ("law", "expected"),
    [
        ("uniform", stats.uniform(np.log(0.05), np.log(40))),
        # Scales of a sixth of the range; the ends are cut off.
        ("logistic", stats.logistic(0.5 * np.log(0.1), np.log(40) / 6)),
    ],
)
def test_the_law_of_zeta(law, expected):
    seen, n = [], 4000

    def bound(zeta):
        seen.append(np.log(np.asarray(zeta, np.float64)))
        return 10.0

    options = OPTIONS | {"sigma_max": bound, "num_points": 2}
    contrastive_loss(exact, keys(n), data(n), jnp.ones(n), zeta=(0.05, 2.0), law=law, **options)
    low, high = np.log(0.05), np.log(2.0)
    assert (seen[0].min() >= low - 1e-5) & (seen[0].max() <= high + 1e-5)
    ends = expected.cdf([low, high])
    share = (expected.cdf(seen[0]) - ends[0]) / (ends[1] - ends[0])
    assert stats.kstest(share, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("zeta", [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_an_empty_range_of_zeta_is_named(zeta):
    with pytest.raises(InputError, match=r"The range of zeta is \(.*\); it must be two positive"):
        contrastive_loss(exact, keys(2), data(2), jnp.ones(2), zeta=zeta, **OPTIONS)
