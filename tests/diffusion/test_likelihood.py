"""Likelihoods and noise levels against SciPy's densities of a mixture and its exact denoiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from gmm_diffusion import mixture
from gmm_diffusion.diffusion import density_ratio
from gmm_diffusion.diffusion.likelihood import bits_per_dimension, log_likelihood, noise_level
from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture import GaussianMixture

DIM, STD, RMS = 16, 0.25, 1.03
CENTERS = np.random.default_rng(0).normal(size=(3, DIM))


def exact(x, sigma, cond=None):
    mix = GaussianMixture.create(np.full(3, 1 / 3), CENTERS, np.full(3, STD**2), "spherical")
    return mixture.denoise(mix, x, sigma)


def log_prob(x, zeta=0.0):
    joint = stats.norm.logpdf(x.astype(float)[:, None], CENTERS, np.hypot(STD, zeta)).sum(-1)
    return special.logsumexp(joint, axis=1) - np.log(3)


def points(zeta, n=6):
    rng = np.random.default_rng(1)
    x = CENTERS[rng.integers(3, size=n)] + np.hypot(STD, zeta) * rng.normal(size=(n, DIM))
    return x.astype(np.float32)


def options():
    low, high = density_ratio.sigma_bounds(STD, RMS, 1.0)
    return {"sigma_min": low, "sigma_max": high, "variance": STD**2, "rms": RMS}


@pytest.mark.parametrize("zeta", [0.0, 0.4])
def test_the_likelihood_of_clean_noisy_and_strange_points(zeta):
    x = np.concatenate([points(0.0), points(0.4), 3 * points(0.0)])
    found = log_likelihood(exact, jax.random.key(0), x, None, 8192, zeta=zeta, **options())
    expected = log_prob(x, zeta)
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.1)


def test_bits_of_a_gaussian_are_its_entropy():
    """Rounded finely, an entry of standard deviation s takes log2(s sqrt(2 pi e) / bin) bits."""
    std, width, n = 0.5, 2 / 255, 20_000
    x = std * np.random.default_rng(0).normal(size=(n, 4))
    log_p = stats.norm.logpdf(x, scale=std).sum(axis=1)
    bits = bits_per_dimension(log_p, 4, width).mean()
    assert bits == pytest.approx(np.log2(std * np.sqrt(2 * np.pi * np.e) / width), abs=0.01)
    # The same from SciPy's entropy of the rounded values.
    edges = np.arange(-3, 3, width)
    shares = np.diff(stats.norm.cdf(edges, scale=std))
    assert bits == pytest.approx(stats.entropy(shares, base=2), abs=0.01)
    with pytest.raises(InputError, match="bin_width is 0"):
        bits_per_dimension(log_p, 4, 0)


def test_the_noise_level_that_is_most_likely():
    levels = np.array([0.0, 0.2, 0.5, 1.2], np.float32)
    for true in levels:
        x = points(true, 5)
        level, found = noise_level(exact, jax.random.key(0), x, levels, None, 2048, **options())
        expected = np.stack([log_prob(x, zeta) for zeta in levels], axis=1)
        np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.4)
        best = np.sort(expected, axis=1)
        clear = best[:, -1] - best[:, -2] > 1
        assert clear.any()
        assert (np.asarray(level)[clear] == levels[expected.argmax(axis=1)][clear]).all()


def test_bad_input_is_named():
    x = jnp.asarray(points(0.0))
    with pytest.raises(InputError, match="rms is 0"):
        log_likelihood(exact, jax.random.key(0), x, rms=0.0)
    with pytest.raises(InputError, match=r"zeta is -0\.1; it must be at least 0"):
        log_likelihood(exact, jax.random.key(0), x, rms=1.0, zeta=-0.1)
