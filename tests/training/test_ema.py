"""The power-function average against its closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion.errors import InputError
from gmm_diffusion.training import ema

# From method: the roots of gamma^3 + 7 gamma^2 + (16 - w^-2) gamma + (12 - w^-2).
KNOWN = {0.05: 16.972, 0.10: 6.937}


def run(values, widths, start=123.0):
    """Averages after each of `values [T]`, as `[T, len(widths)]`."""
    start = tuple(jnp.asarray(start, jnp.float32) for _ in widths)

    def body(emas, step_value):
        emas = ema.update(emas, step_value[1], step_value[0], widths)
        return emas, jnp.stack(emas)

    steps = jnp.arange(1, len(values) + 1)
    return np.asarray(jax.lax.scan(body, start, (steps, jnp.asarray(values, jnp.float32)))[1])


@pytest.mark.parametrize(("width", "gamma"), KNOWN.items())
def test_gamma_matches_published_values(width, gamma):
    assert ema.gamma_from_width(width) == pytest.approx(gamma, abs=1e-3)


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.2, 0.279])
def test_gamma_is_a_root_of_the_moment_equation(width):
    gamma = ema.gamma_from_width(width)
    assert gamma > -1
    # Moments of tau^gamma on [0, 1] by the midpoint rule.
    tau = (np.arange(400_000) + 0.5) / 400_000
    weights = tau**gamma / np.sum(tau**gamma)
    mean = np.sum(weights * tau)
    assert np.sqrt(np.sum(weights * (tau - mean) ** 2)) == pytest.approx(width, rel=1e-3)


@pytest.mark.parametrize("width", [0.0, -0.1, 1e-300, 9e-7, 0.28, 1.0, float("nan")])
def test_width_outside_its_range_is_refused(width):
    with pytest.raises(InputError, match=r"EMA width .* at least 1e-06 and below 0\.28"):
        ema.gamma_from_width(width)


@pytest.mark.parametrize("width", KNOWN)
def test_average_equals_the_direct_weighted_sum(width):
    """With whole gamma the weights of `(1 - 1/t)^(gamma + 1)` are differences of i^(gamma + 1)."""
    total = 300
    values = np.random.default_rng(0).normal(size=total)
    exponent = KNOWN[width] + 1
    edges = np.arange(total + 1, dtype=np.float64) / total
    weights = np.diff(edges**exponent)
    expected = np.sum(weights * values)
    averages = run(values, (width,))
    np.testing.assert_allclose(averages[-1, 0], expected, atol=2e-4)


@pytest.mark.parametrize("width", KNOWN)
def test_measured_profile_is_the_power_function_of_that_width(width):
    total = 600
    # The response to a single 1 at update i is the weight of update i.
    response = jax.jit(
        jax.vmap(
            lambda one: jax.lax.scan(
                lambda carry, x: (ema.update(carry, x[1], x[0], (width,)), None),
                (jnp.zeros(()),),
                (jnp.arange(1, total + 1), one),
            )[0][0]
        )
    )(jnp.eye(total))
    weights = np.asarray(response, np.float64)
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    steps = np.arange(1, total + 1)
    mean = np.sum(weights * steps)
    std = np.sqrt(np.sum(weights * (steps - mean) ** 2))
    assert std / total == pytest.approx(width, rel=0.01)
    power = (steps / total) ** KNOWN[width]
    np.testing.assert_allclose(
        weights[300:] / weights[-1], power[300:] / power[-1], rtol=0.03, atol=3e-3
    )


def test_first_update_copies_the_parameters():
    assert float(ema.beta(1, 6.9)) == 0
    assert run([7.0], (0.05, 0.1)).tolist() == [[7.0, 7.0]]


def test_beta_is_the_published_decay():
    for step in (2, 10, 1000):
        assert float(ema.beta(step, 3.0)) == pytest.approx((1 - 1 / step) ** 4, rel=1e-6)


def test_constant_parameters_stay_exactly_constant():
    assert np.all(run(np.full(2000, 0.1), (0.05, 0.1), start=0.1) == np.float32(0.1))


def test_late_updates_do_not_lose_their_weight():
    """At update a million `1 - beta` is 1.8e-5, where float32 `1 - beta` would be off by 1 %."""
    params = jnp.ones(())
    (average,) = ema.update((jnp.zeros(()),), params, 1_000_000, (0.05,))
    assert float(average) == pytest.approx(17.972e-6, rel=1e-4)


def test_average_is_float32_for_bfloat16_parameters():
    params = {"w": jnp.ones((2, 3), jnp.bfloat16)}
    averages = ema.update((params, params), params, jnp.asarray(5), (0.05, 0.1))
    assert [a["w"].dtype for a in averages] == [jnp.float32] * 2
    assert averages[0]["w"].shape == (2, 3)


def test_a_missing_average_is_refused():
    with pytest.raises(ValueError, match="zip"):
        ema.update((jnp.zeros(()),), jnp.zeros(()), 1, (0.05, 0.1))
