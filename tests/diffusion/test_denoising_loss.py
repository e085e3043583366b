"""The denoising loss against floors known in closed form or by quadrature, and learning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from gmm_diffusion import mixture
from gmm_diffusion.diffusion.denoising_loss import denoising_loss, uncertainty_weighted
from gmm_diffusion.diffusion.preconditioning import precondition
from gmm_diffusion.mixture import GaussianMixture
from gmm_diffusion.model import denoiser as denoiser_lib
from gmm_diffusion.networks import MLP, LogVariance
from gmm_diffusion.networks.initialisation import initialise
from gmm_diffusion.training import loss as loss_lib
from gmm_diffusion.training import optimizer as optimizer_lib
from gmm_diffusion.training import state as state_lib
from gmm_diffusion.training.step import train_step
from gmm_diffusion.types import Batch


def zero_network(sigma_data):
    return precondition(lambda x, c_noise, cond: jnp.zeros_like(x), sigma_data)


def exact(mix):
    return lambda x, sigma, cond: mixture.denoise(mix, x, sigma)


@functools.partial(jax.jit, static_argnames=("denoise_fn", "sigma_data", "n"))
def losses(denoise_fn, x, sigma, key, *, sigma_data, n):
    keys = jax.random.split(key, n)
    return denoising_loss(denoise_fn, keys, x, jnp.full(n, sigma), sigma_data=sigma_data)


@pytest.mark.parametrize("shape", [(5, 3), (5, 4, 4, 2)])
def test_is_the_weighted_mean_square_of_each_example(shape):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    sigma, sd = jnp.asarray([0.01, 0.1, 1.0, 5.0, 50.0]), 0.7
    keys = jax.random.split(jax.random.key(0), 5)
    seen = []

    def denoise_fn(noisy, level, cond):
        seen.append((noisy, level, cond))
        return noisy * 0.0 + 0.25

    loss = denoising_loss(denoise_fn, keys, x, sigma, "condition", sigma_data=sd)
    assert loss.shape == (5,)
    s = np.asarray(sigma, np.float64)
    error = np.square(0.25 - np.asarray(x, np.float64)).reshape(5, -1).mean(1)
    np.testing.assert_allclose(loss, (s**2 + sd**2) / (s * sd) ** 2 * error, rtol=1e-5)
    noisy, level, cond = seen[0]
    assert cond == "condition"
    np.testing.assert_array_equal(level, sigma)
    noise = (np.asarray(noisy) - np.asarray(x)).reshape(5, -1) / s[:, None]
    for row, key in zip(noise[2:], keys[2:], strict=True):
        np.testing.assert_allclose(
            row, np.asarray(jax.random.normal(key, shape[1:])).ravel(), atol=1e-4
        )


@pytest.mark.parametrize("sigma", [0.002, 0.1, 0.5, 3.0, 80.0])
def test_zero_network_on_white_data_has_loss_one(sigma):
    sd, n = 0.6, 40_000
    x = jnp.asarray(sd * np.random.default_rng(0).normal(size=(n, 4)), jnp.float32)
    loss = losses(zero_network(sd), x, sigma, jax.random.key(1), sigma_data=sd, n=n)
    assert float(loss.mean()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("sigma", [0.05, 0.4, 2.0, 20.0])
def test_exact_denoiser_of_a_gaussian_reaches_the_closed_form(sigma):
    deviations = np.array([2.0, 0.7, 0.1])
    sd = np.sqrt(np.mean(deviations**2))
    floor = (sigma**2 + sd**2) / sd**2 * np.mean(deviations**2 / (sigma**2 + deviations**2))
    rng, n = np.random.default_rng(0), 60_000
    basis, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    mix = GaussianMixture.create(
        np.ones(1), np.zeros((1, 3)), (basis * deviations**2 @ basis.T)[None], "full"
    )
    x = jnp.asarray((deviations * rng.normal(size=(n, 3))) @ basis.T, jnp.float32)
    loss = np.asarray(losses(exact(mix), x, sigma, jax.random.key(2), sigma_data=sd, n=n))
    assert loss.mean() == pytest.approx(floor, abs=5 * loss.std() / np.sqrt(n))
    # The zero network is above it, unless there is only noise to see.
    linear = losses(zero_network(sd), x, sigma, jax.random.key(2), sigma_data=sd, n=n).mean()
    assert float(linear) == pytest.approx(1, abs=0.03)
    assert floor < 1


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.5, 6.0])
def test_exact_denoiser_of_a_mixture_reaches_its_floor_by_quadrature(sigma):
    weights, means, stds = (
        np.array([0.5, 0.2, 0.3]),
        np.array([-1.0, 0.2, 1.3]),
        np.array([0.1, 0.4, 0.05]),
    )
    means = means - weights @ means
    sd = np.sqrt(weights @ (means**2 + stds**2))
    # E Var(x | y) on a grid of y, from the components' own posteriors.
    y = np.linspace(-12 * (1 + sigma), 12 * (1 + sigma), 400_001)[:, None]
    total = stds**2 + sigma**2
    joint = weights * stats.norm.pdf(y, means, np.sqrt(total))
    density = joint.sum(1)
    r = joint / np.maximum(density, 1e-300)[:, None]
    posterior_mean = (stds**2 * y + sigma**2 * means) / total
    second = (r * (stds**2 * sigma**2 / total + posterior_mean**2)).sum(1)
    variance = second - (r * posterior_mean).sum(1) ** 2
    spacing = y[1, 0] - y[0, 0]
    assert density.sum() * spacing == pytest.approx(1, abs=1e-6)
    floor = (sigma**2 + sd**2) / (sigma * sd) ** 2 * (density * variance).sum() * spacing

    rng, n = np.random.default_rng(0), 200_000
    k = rng.choice(3, size=n, p=weights)
    x = jnp.asarray((means[k] + stds[k] * rng.normal(size=n))[:, None], jnp.float32)
    mix = GaussianMixture.create(weights, means[:, None], stds**2, "spherical")
    loss = np.asarray(losses(exact(mix), x, sigma, jax.random.key(3), sigma_data=sd, n=n))
    assert loss.mean() == pytest.approx(floor, abs=5 * loss.std() / np.sqrt(n))
    # A denoiser that is a little off is measurably above the floor.
    off = GaussianMixture.create(weights, means[:, None] * 1.3 + 0.2, stds**2, "spherical")
    worse = np.asarray(losses(exact(off), x, sigma, jax.random.key(3), sigma_data=sd, n=n))
    excess = worse - loss
    assert excess.mean() > 5 * excess.std() / np.sqrt(n)


def test_noise_belongs_to_the_example():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.float32)
    keys, sigma = jax.random.split(jax.random.key(0), 6), jnp.linspace(0.1, 2.0, 6)
    whole = denoising_loss(zero_network(1.0), keys, x, sigma, sigma_data=1.0)
    part = denoising_loss(zero_network(1.0), keys[4:], x[4:], sigma[4:], sigma_data=1.0)
    np.testing.assert_allclose(whole[4:], part, rtol=1e-5)


@pytest.mark.parametrize("loss", [0.01, 0.3, 1.0, 7.0])
def test_uncertainty_weighting_is_least_at_the_logarithm_of_the_loss(loss):
    found = optimize.minimize_scalar(
        lambda u: float(uncertainty_weighted(jnp.float32(loss), jnp.float32(u))),
        bounds=(-10, 5),
        method="bounded",
    )
    assert found.x == pytest.approx(np.log(loss), abs=0.01)
    assert found.fun == pytest.approx(1 + np.log(loss), abs=1e-4)


def test_a_small_network_approaches_the_exact_denoiser_and_score():
    """Error relative to what a linear denoiser misses: 1 at the start, a few percent later."""
    weights = np.array([0.4, 0.3, 0.2, 0.1])
    means = np.array([[0.8, 0.6], [-0.9, 0.5], [0.1, -0.9], [-0.4, -0.3]])
    means = means - weights @ means
    mix = GaussianMixture.create(weights, means, np.full(4, 0.15**2), "spherical")
    sd = float(np.sqrt(np.mean(weights @ (means**2 + 0.15**2))))

    network, log_variance = MLP(64, 2), LogVariance(16)
    params = {
        "network": initialise(lambda key: network.init(key, jnp.zeros((1, 2)), jnp.zeros(1)), 0),
        "log_variance": initialise(lambda key: log_variance.init(key, jnp.zeros(1)), 0),
    }
    denoise = denoiser_lib.Denoiser(network, sd)
    loss_fn = loss_lib.make_loss_fn(
        denoise,
        denoiser_lib.make_log_variance(log_variance),
        None,
        sigma_data=sd,
        sigma_log_mean=-1.0,
        sigma_log_std=1.2,
    )
    batch_size = 512
    made = optimizer_lib.make_optimizer(optimizer_lib.learning_rate("edm2", 0.01, 20, 200, 10_000))
    optimizer = {"network": made, "log_variance": made}
    index = jnp.arange(batch_size)

    @functools.partial(jax.jit, static_argnames="num_steps")
    def train(state, num_steps):
        def body(state, _):
            x = mixture.sample(mix, jax.random.fold_in(jax.random.key(5), state.step), batch_size)
            batch = Batch(x, index, jnp.ones(batch_size))
            return train_step(state, batch, jax.random.key(6), loss_fn=loss_fn, optimizer=optimizer)

        return jax.lax.scan(body, state, length=num_steps)

    points = mixture.sample(mix, jax.random.key(7), 4000)
    noise = jax.random.normal(jax.random.key(8), points.shape)

    @jax.jit
    def errors(params, sigma):
        y = points + sigma * noise
        network_output = denoise(params, y, sigma)
        optimal = mixture.denoise(mix, y, sigma)
        linear = sd**2 / (sd**2 + sigma**2) * y
        signal = jnp.mean(jnp.square(optimal - linear))
        denoiser_error = jnp.mean(jnp.square(network_output - optimal)) / signal
        score = (network_output - y) / sigma**2
        score_error = jnp.mean(jnp.square(score - mixture.score(mix, y, sigma))) / jnp.mean(
            jnp.square(mixture.score(mix, y, sigma))
        )
        return denoiser_error, score_error

    levels = (0.1, 0.3, 0.8)
    state, measured, logged = state_lib.create(params, optimizer, 2), [], []
    for num_steps in (0, 100, 1100):
        if num_steps:
            state, metrics = train(state, num_steps)
            logged.append(np.asarray(metrics["denoising_loss"]))
        measured.append(np.array([errors(state.params, level) for level in levels]))
    measured = np.stack(measured)  # [times, levels, (denoiser, score)]
    np.testing.assert_allclose(measured[0, :, 0], 1, atol=1e-3)
    assert np.all(measured[1, :, 0] < 0.8)
    assert np.all(measured[2, :, 0] < 0.07), measured
    assert np.all(measured[2] < 0.5 * measured[1]), measured
    # The score's error relative to the score itself, 0.92, 0.73 and 0.07 at the start.
    assert np.all(measured[2, :, 1] < [0.07, 0.03, 0.005]), measured
    # The raw loss that the step logs is the mean over noise levels, above its floor.
    sigma = jnp.exp(-1.0 + 1.2 * jax.random.normal(jax.random.key(9), (50_000,)))
    x = mixture.sample(mix, jax.random.key(10), 50_000)
    y = x + sigma[:, None] * jax.random.normal(jax.random.key(11), x.shape)
    weight = (sigma**2 + sd**2) / (sigma * sd) ** 2
    best = jnp.mean(jnp.square(mixture.denoise(mix, y, sigma) - x), axis=1)
    floor = float(jnp.mean(weight * best))
    assert floor < logged[-1][-300:].mean() < 1.1 * floor
    assert int(state.nonfinite) == 0
