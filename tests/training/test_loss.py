"""The composition of the training loss, seen through a denoiser that records what it is given."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion import conditioning
from gmm_diffusion.training import loss
from gmm_diffusion.types import Batch

CLASSES = 4
SIZE = 64
SETTINGS = {"sigma_data": 0.5, "sigma_log_mean": -1.0, "sigma_log_std": 0.7}


@functools.cache
def make_conditioner(semantics="example", embedding="table"):
    labels = np.arange(200) % CLASSES
    return conditioning.create(
        conditioning.lay_out(CLASSES),
        None,
        np.arange(CLASSES),
        np.eye(CLASSES, dtype=np.float32)[labels],
        labels,
        CLASSES,
        embedding_name=embedding,
        semantics=semantics,
        num_draws=5,
    )


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return Batch(
        x=rng.normal(size=(SIZE, 3)).astype(np.float32),
        index=np.arange(SIZE, dtype=np.int32),
        mask=np.ones(SIZE, np.float32),
        weights=np.eye(CLASSES, dtype=np.float32)[np.arange(SIZE) % CLASSES],
    )


def keys_of(seed):
    return jax.random.split(jax.random.key(seed), SIZE)


def seen(batch, conditioner, seed=1, **options):
    """What reaches the denoiser, and the loss that it makes of an answer of zeros."""

    @jax.jit
    def run(batch, keys):
        given = {}

        def denoise(params, x, sigma, cond, keys):
            given.update(x=x, sigma=sigma, cond=cond, keys=jax.random.key_data(keys))
            return jnp.zeros_like(x)

        loss_fn = loss.make_loss_fn(
            denoise, lambda params, sigma: 0.3 * sigma, conditioner, **SETTINGS, **options
        )
        losses, aux = loss_fn({}, batch, keys)
        return given | {"losses": losses, "aux": aux}

    return jax.device_get(run(batch, keys_of(seed)))


def test_the_loss_is_that_of_edm_with_a_learned_uncertainty(batch):
    given = seen(batch, None)
    sigma = np.asarray(given["sigma"], np.float64)
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    denoising = weight * (batch.x.astype(np.float64) ** 2).mean(axis=1)
    np.testing.assert_allclose(given["aux"]["denoising_loss"], denoising, rtol=1e-5)
    u = 0.3 * sigma
    np.testing.assert_allclose(given["losses"], denoising / np.exp(u) + u, rtol=1e-5)
    noise = (given["x"] - batch.x) / sigma[:, None]
    assert abs(noise.std() - 1) < 0.15
    assert abs(np.log(sigma).mean() + 1.0) < 0.3
    assert abs(np.log(sigma).std() - 0.7) < 0.2
    # Noise levels and noise are independent draws, one an example.
    assert len(np.unique(sigma)) == SIZE


def gaussian_losses(std, other, n=100_000, **options):
    """Losses of the best denoiser of a Gaussian of standard deviation `other`, of data of `std`."""

    def denoise(params, x, sigma, cond, keys):
        return x * (other**2 / (other**2 + jnp.square(sigma)))[:, None]

    made = loss.make_loss_fn(
        denoise,
        lambda params, sigma: jnp.zeros_like(sigma),
        None,
        sigma_data=std,
        sigma_log_mean=-0.5,
        sigma_log_std=2.5,
        weighting="likelihood",
        **options,
    )
    x = std * np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    batch = Batch(x=x, index=np.arange(n, dtype=np.int32), mask=np.ones(n, np.float32))
    losses, aux = jax.jit(made)({}, batch, jax.random.split(jax.random.key(0), n))
    # With an uncertainty of 0 its own loss is the denoising loss.
    return np.asarray(losses, np.float64) - np.asarray(aux["denoising_loss"], np.float64)


@pytest.mark.parametrize("preconditioning", ["edm", "noise"])
def test_the_likelihood_weighting_is_information_and_divergence(preconditioning):
    """Guo, Shamai & Verdu 2005: the integral of the least error is the information at its ends.

    And of two denoisers' errors that of their likelihoods (arXiv 2407.08946, section 3), whose mean
    over data is Kullback and Leibler's divergence.
    """
    std, other, low, high = 0.7, 1.0, np.exp(-8.0), np.exp(7.0)
    best = gaussian_losses(std, std, preconditioning=preconditioning)
    ends = [0.5 * np.log1p(std**2 / sigma**2) for sigma in (low, high)]
    error = 5 * best.std() / np.sqrt(len(best))
    assert error < 0.25
    assert best.mean() == pytest.approx(ends[0] - ends[1], abs=error)
    excess = gaussian_losses(std, other, preconditioning=preconditioning) - best
    ratio = std**2 / other**2
    error = 5 * excess.std() / np.sqrt(len(excess))
    assert error < 0.03
    assert excess.mean() == pytest.approx(0.5 * (ratio - 1 - np.log(ratio)), abs=error)


def test_the_uncertainty_is_learned_beside_the_likelihood(batch):
    def denoise(params, x, sigma, cond, keys):
        return params["network"] * x

    made = loss.make_loss_fn(
        denoise,
        lambda params, sigma: params["log_variance"] * jnp.ones_like(sigma),
        None,
        weighting="likelihood",
        **SETTINGS,
    )

    @jax.jit
    def gradient(u):
        params = {"network": 0.3, "log_variance": u}
        aux = made(params, batch, keys_of(1))[1]["denoising_loss"].mean()
        return jax.grad(lambda p: made(p, batch, keys_of(1))[0].mean())(params), aux

    (zero, raw), (other, _) = gradient(0.0), gradient(1.5)
    assert float(zero["network"]) == pytest.approx(float(other["network"]), rel=1e-6)
    for u, found in ((0.0, zero), (1.5, other)):
        assert float(found["log_variance"]) == pytest.approx(1 - float(raw) * np.exp(-u), rel=1e-4)


def test_what_is_switched_off_leaves_the_other_random_numbers_bit_identical(batch):
    reference = seen(batch, make_conditioner(), null_probability=0.5)
    others = {
        "no null": seen(batch, make_conditioner(), null_probability=0.0),
        "only null": seen(batch, make_conditioner(), null_probability=1.0),
        "mixture": seen(batch, make_conditioner("mixture")),
        "draws": seen(batch, make_conditioner(embedding="draws")),
        "none": seen(batch, None),
    }
    for name, other in others.items():
        for part in ("x", "sigma", "keys", "losses"):
            np.testing.assert_array_equal(other[part], reference[part], err_msg=f"{name} {part}")
    for name in ("no null", "only null"):
        np.testing.assert_array_equal(
            others[name]["cond"].features, reference["cond"].features, err_msg=name
        )
    again = seen(batch, make_conditioner(), seed=2, null_probability=0.5)
    for part in ("x", "sigma", "keys"):
        assert np.all(np.any(np.atleast_2d(again[part] != reference[part]), axis=-1)), part


def test_the_null_condition_comes_as_often_as_asked(batch):
    keep = [
        np.concatenate(
            [seen(batch, make_conditioner(), s, null_probability=p)["cond"].keep for s in range(4)]
        )
        for p in (0.0, 0.25, 1.0)
    ]
    assert keep[0].min() == 1
    assert keep[2].max() == 0
    assert abs(1 - keep[1].mean() - 0.25) < 0.1


def test_weights_reach_the_denoiser_through_their_semantics(batch):
    given = seen(batch, make_conditioner())
    np.testing.assert_allclose(given["cond"].features, 2 * batch.weights)
    options = {"one_hot_share": 0.0}
    mixed = seen(batch, make_conditioner("mixture"), semantics_options=options)
    mixed = np.asarray(mixed["cond"].features) / 2
    np.testing.assert_allclose(mixed.sum(axis=1), 1, rtol=1e-5)
    assert np.mean(mixed.max(axis=1) < 0.999) > 0.2
    # `semantics_options` are those of the semantics: with everything over single classes, w is
    # one-hot again.
    options = {"shares": (0.0, 1.0), "one_hot_share": 0.0}
    within = seen(batch, make_conditioner("mixture"), semantics_options=options)
    np.testing.assert_allclose(within["cond"].features, 2 * batch.weights, atol=1e-5)
