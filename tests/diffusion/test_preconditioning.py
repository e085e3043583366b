"""EDM preconditioning against table 1 of arXiv 2206.00364, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion.diffusion import preconditioning
from gmm_diffusion.diffusion.preconditioning import loss_weight, precondition

SIGMAS = np.geomspace(0.002, 80, 9)


def table(sigma, sd):
    """c_skip, c_out, c_in, c_noise and the loss weight as printed in table 1."""
    return (
        sd**2 / (sigma**2 + sd**2),
        sigma * sd / np.sqrt(sigma**2 + sd**2),
        1 / np.sqrt(sigma**2 + sd**2),
        np.log(sigma) / 4,
        (sigma**2 + sd**2) / (sigma * sd) ** 2,
    )


@pytest.mark.parametrize("sd", [0.25, 0.5, 1.7])
@pytest.mark.parametrize("shape", [(9, 3), (9, 4, 4, 2)])
def test_coefficients(sd, shape):
    x = np.random.default_rng(0).normal(size=shape)
    wide = SIGMAS.reshape(-1, *(1,) * (len(shape) - 1))
    c_skip, c_out, c_in, _, weight = table(wide, sd)
    seen = {}

    def network(x, c_noise, cond):
        seen.update(x=x, c_noise=c_noise, cond=cond)
        return jnp.full_like(x, 3.0)

    x32, sigma32 = jnp.asarray(x, jnp.float32), jnp.asarray(SIGMAS, jnp.float32)
    denoised = precondition(network, sd)(x32, sigma32, "the condition")
    np.testing.assert_allclose(denoised, c_skip * x + c_out * 3.0, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seen["x"], c_in * x, rtol=1e-5)
    np.testing.assert_allclose(seen["c_noise"], np.log(SIGMAS) / 4, rtol=1e-5, atol=1e-6)
    assert seen["cond"] == "the condition"
    np.testing.assert_allclose(loss_weight(sigma32, sd), weight.ravel(), rtol=1e-5)
    np.testing.assert_allclose(preconditioning.c_noise(sigma32), table(SIGMAS, sd)[3], rtol=1e-5)


def test_one_noise_level_for_all_is_the_same_as_one_each():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)

    def network(x, c_noise, cond):
        assert c_noise.shape == (4,)
        return jnp.sin(x) + c_noise[:, None]

    denoise = jax.jit(precondition(network, 0.5))
    np.testing.assert_allclose(denoise(x, 0.7), denoise(x, jnp.full(4, 0.7)), rtol=1e-6)
    assert denoise(x, 0.7).dtype == jnp.float32


def test_network_sees_unit_variance_and_has_a_unit_target():
    """What the coefficients are for: input and training target of unit RMS at every sigma."""
    rng, sd = np.random.default_rng(0), 0.5
    for sigma in SIGMAS:
        x = sd * rng.normal(size=(50_000, 1))
        noisy = x + sigma * rng.normal(size=x.shape)
        c_skip, c_out, c_in, *_ = table(sigma, sd)
        seen = []

        def network(y, c_noise, cond, seen=seen):
            seen.append(np.asarray(y))
            return jnp.zeros_like(y)

        skip = np.asarray(precondition(network, sd)(jnp.asarray(noisy, jnp.float32), sigma))
        assert np.std(seen[0]) == pytest.approx(1, abs=0.02)
        assert np.std((x - skip) / c_out) == pytest.approx(1, abs=0.02)
        np.testing.assert_allclose(skip, c_skip * noisy, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(seen[0], c_in * noisy, rtol=1e-4, atol=1e-6)


def test_zero_network_is_the_best_linear_denoiser():
    rng, sd = np.random.default_rng(1), 0.8
    zero = precondition(lambda x, c_noise, cond: jnp.zeros_like(x), sd)
    for sigma in (0.1, 1.0, 5.0):
        x = sd * rng.normal(size=200_000)
        noisy = x + sigma * rng.normal(size=x.shape)
        slope = np.sum(x * noisy) / np.sum(noisy**2)  # least squares
        points = jnp.asarray([[-1.0], [2.0]])
        np.testing.assert_allclose(zero(points, sigma), slope * points, rtol=0.01)


def test_network_error_is_the_denoisers_error_divided_by_c_out():
    """An exact denoiser written as a network comes back from the preconditioning."""
    sd, mean, sigma = 0.5, 0.3, jnp.asarray([0.1, 1.0, 10.0])
    # A Gaussian of std t and the given mean, denoised: a textbook posterior mean.
    t, x = 0.4, jnp.asarray([[0.2], [-1.0], [4.0]])

    def exact(x, sigma):
        return (t**2 * x + sigma**2 * mean) / (t**2 + sigma**2)

    def network(y, c_noise, cond):
        s = jnp.exp(4 * c_noise)[:, None]
        c_skip, c_out, c_in = (
            c(s)
            for c in (
                lambda s: sd**2 / (s**2 + sd**2),
                lambda s: s * sd / jnp.sqrt(s**2 + sd**2),
                lambda s: 1 / jnp.sqrt(s**2 + sd**2),
            )
        )
        noisy = y / c_in
        return (exact(noisy, s) - c_skip * noisy) / c_out

    np.testing.assert_allclose(
        precondition(network, sd)(x, sigma), exact(x, sigma[:, None]), rtol=1e-4, atol=1e-5
    )


def test_noise_prediction_of_a_gaussian():
    """`eps = sigma (y - m) / (t^2 + sigma^2)` of a Gaussian, and its textbook posterior mean."""
    t, mean, sd = 0.4, 0.3, 0.5
    sigma, x = jnp.asarray([0.1, 1.0, 10.0, 150.0]), jnp.asarray([[0.2], [-1.0], [4.0], [-90.0]])

    def network(y, c_noise, cond):
        s = jnp.exp(4 * c_noise)[:, None]
        return s * (y * jnp.sqrt(s**2 + sd**2) - mean) / (t**2 + s**2)

    wide = np.asarray(sigma, np.float64)[:, None]
    expected = (t**2 * np.asarray(x, np.float64) + wide**2 * mean) / (t**2 + wide**2)
    # What float32 leaves of a difference of two numbers of the size of x.
    found = precondition(network, sd, "noise")(x, sigma)
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(x).max(), rtol=1e-4)


@pytest.mark.parametrize("kind", preconditioning.PRECONDITIONINGS)
@pytest.mark.parametrize("sigma", [0.02, 0.5, 80.0])
def test_networks_of_all_kinds_have_targets_of_unit_size(kind, sigma):
    """And the weight of the loss is that of their squared error."""
    rng, sd = np.random.default_rng(2), 0.7
    x = sd * rng.normal(size=(50_000, 1))
    noisy = x + sigma * rng.normal(size=x.shape)
    seen = []

    def network(y, c_noise, cond):
        seen.append(np.asarray(y))
        return jnp.zeros_like(y)

    zero = np.asarray(precondition(network, sd, kind)(jnp.asarray(noisy, jnp.float32), sigma))
    one = np.asarray(
        precondition(lambda y, *_: jnp.ones_like(y), sd, kind)(
            jnp.asarray(noisy, jnp.float32), sigma
        )
    )
    assert np.std(seen[0]) == pytest.approx(1, abs=0.02)
    out = (one - zero).astype(np.float64).mean()
    # The target of the network: what it would have to say for the clean data.
    assert np.std((x - zero) / out) == pytest.approx(1, abs=0.02)
    assert float(loss_weight(sigma, sd, kind)) == pytest.approx(1 / out**2, rel=1e-3)
