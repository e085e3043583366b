"""The learned log-variance of the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gmm_diffusion.diffusion.denoising_loss import uncertainty_weighted
from gmm_diffusion.networks import LogVariance, normalize_weights
from gmm_diffusion.networks.initialisation import initialise

MODEL = LogVariance(32)


def params(seed=0):
    return initialise(lambda key: MODEL.init(key, jnp.zeros(1)), seed)


def test_zero_at_the_start_one_value_an_example():
    u = MODEL.apply({"params": params()}, jnp.linspace(-1.5, 1.0, 7))
    assert u.shape == (7,)
    assert np.all(np.asarray(u) == 0)


def test_examples_do_not_mix():
    opened = {**params(), "gain": jnp.ones(())}
    c_noise = jnp.linspace(-1.5, 1.0, 7)
    whole = np.asarray(MODEL.apply({"params": opened}, c_noise))
    assert np.ptp(whole) > 0.1
    order = np.array([4, 2, 6, 0, 1, 3, 5])
    np.testing.assert_allclose(
        MODEL.apply({"params": opened}, c_noise[order]), whole[order], atol=1e-5
    )
    np.testing.assert_allclose(MODEL.apply({"params": opened}, c_noise[3:4]), whole[3:4], atol=1e-5)


def test_learns_the_logarithm_of_the_loss():
    """With the uncertainty-weighted loss of a known `L(sigma)` its fit is `u = log L`."""
    c_noise = jnp.linspace(-1.2, 0.8, 64)
    true_loss = 0.1 + 0.8 / (1 + jnp.exp(-4 * c_noise))
    optimizer = optax.adam(0.02)

    @jax.jit
    def fit(start):
        def step(carry, _):
            p, state = carry
            gradient = jax.grad(
                lambda p: jnp.mean(
                    uncertainty_weighted(true_loss, MODEL.apply({"params": p}, c_noise))
                )
            )(p)
            updates, state = optimizer.update(gradient, state)
            return (normalize_weights(optax.apply_updates(p, updates)), state), None

        return jax.lax.scan(step, (start, optimizer.init(start)), length=600)[0][0]

    u = np.asarray(MODEL.apply({"params": fit(params())}, c_noise))
    expected = np.log(np.asarray(true_loss))
    assert np.ptp(expected) > 1
    assert np.sqrt(np.mean((u - expected) ** 2)) < 0.05


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_float32_whatever_the_input(dtype):
    assert MODEL.apply({"params": params()}, jnp.zeros(3, dtype)).dtype == jnp.float32
