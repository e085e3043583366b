"""The law of sigma in training and the grid of sigmas in sampling."""

from decimal import Decimal, localcontext

import jax
import numpy as np
import pytest
from scipy import stats

from gmm_diffusion.diffusion import noise_levels


@pytest.mark.parametrize(("low", "high", "rho"), [(0.002, 80.0, 7.0), (0.05, 10.0, 3.0)])
@pytest.mark.parametrize("num_steps", [2, 3, 18])
def test_grid_is_the_published_formula(num_steps, low, high, rho):
    expected = [
        (high ** (1 / rho) + i / (num_steps - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
        for i in range(num_steps)
    ]
    sigmas = np.asarray(noise_levels.karras(num_steps, low, high, rho))
    np.testing.assert_allclose(sigmas[:-1], expected, rtol=2e-5)
    assert sigmas[-1] == 0
    assert np.all(np.diff(sigmas) < 0)


@pytest.mark.parametrize("rho", [0.1, 0.5, 1.0, 7.0, 100.0, 1000.0])
@pytest.mark.parametrize("low", [1e-10, 1e-7, 0.002])
def test_ends_that_are_far_apart(low, rho):
    """Against fractions of 60 digits."""
    with localcontext(prec=60):
        ends = [Decimal(str(end)) ** (1 / Decimal(str(rho))) for end in (80.0, low)]
        shares = [Decimal(i) / 17 for i in range(18)]
        expected = [
            float(((1 - share) * ends[0] + share * ends[1]) ** Decimal(str(rho)))
            for share in shares
        ]
    sigmas = np.asarray(noise_levels.karras(18, low, 80.0, rho))
    np.testing.assert_allclose(sigmas[:-1], expected, rtol=2e-7)
    assert np.all(np.diff(sigmas) < 0)


def test_rho_of_one_is_evenly_spaced():
    sigmas = np.asarray(noise_levels.karras(5, 1.0, 9.0, 1.0))
    np.testing.assert_allclose(sigmas, [9, 7, 5, 3, 1, 0], rtol=1e-6)


def test_a_single_step_goes_from_the_top_to_zero():
    np.testing.assert_allclose(noise_levels.karras(1, 0.002, 80.0), [80, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0.002, 80.0), "num_steps is 0; it must be at least 1"),
        ((5, 0.0, 80.0), "sigma_min is 0.0, sigma_max is 80.0"),
        ((5, 2.0, 1.0), "0 < sigma_min < sigma_max"),
        ((5, 0.002, 80.0, 0.0), "rho is 0.0"),
        ((5, 0.002, float("inf")), "cannot tell 5 levels apart"),
        ((5, 0.002, 80.0, float("nan")), "rho is nan"),
        ((50, 1.0, 1.000001), "cannot tell 50 levels apart"),
    ],
)
def test_impossible_grids_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        noise_levels.karras(*arguments)


@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (0.4, 0.7)])
def test_training_noise_is_log_normal(mean, std):
    keys = jax.random.split(jax.random.key(3), 20_000)
    sigma = np.asarray(jax.jit(noise_levels.log_normal)(keys, mean, std))
    assert sigma.shape == (20_000,)
    law = stats.lognorm(s=std, scale=np.exp(mean))
    assert stats.kstest(sigma, law.cdf).pvalue > 1e-3
    # The test has the power to see a standard deviation that is 5 % off.
    assert stats.kstest(sigma, stats.lognorm(s=1.05 * std, scale=np.exp(mean)).cdf).pvalue < 1e-3


def test_a_noise_level_belongs_to_its_key():
    keys = jax.random.split(jax.random.key(0), 5)
    whole = np.asarray(noise_levels.log_normal(keys, -1.2, 1.2))
    part = np.asarray(noise_levels.log_normal(keys[3:], -1.2, 1.2))
    np.testing.assert_array_equal(whole[3:], part)
    assert len(set(whole.tolist())) == 5
