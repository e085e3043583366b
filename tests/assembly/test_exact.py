"""Regression on the best denoiser of a known density in place of the data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion import assembly
from gmm_diffusion import config as config_lib
from gmm_diffusion.assembly import exact
from gmm_diffusion.data import toy as toys
from gmm_diffusion.errors import InputError
from gmm_diffusion.training import state
from gmm_diffusion.types import Batch


@pytest.fixture
def toy(make_config):
    config = make_config("toy")
    config.conditioning.kind = "class"
    config.training.target = "exact"
    return config


def posterior_mean(known, y, sigma, class_shares):
    """By components, in float64, one point at a time."""
    out = []
    for point, s, shares in zip(y, sigma, class_shares, strict=True):
        total, mean = 0.0, 0.0
        for c, share in enumerate(shares):
            own = known.component_class == c
            for w, mu, cov in zip(
                known.weights[own], known.means[own], known.covariances[own], strict=True
            ):
                noisy = cov + s**2 * np.eye(2)
                offset = np.linalg.solve(noisy, point - mu)
                density = np.exp(-0.5 * (point - mu) @ offset) / np.sqrt(np.linalg.det(noisy))
                each = share * w / known.weights[own].sum() * density
                total, mean = total + each, mean + each * (mu + cov @ offset)
        out.append(mean / total)
    return np.array(out)


@pytest.mark.parametrize("kind", ["class", "gmm", "none"])
def test_the_target_is_the_posterior_mean_given_the_class(toy, kind):
    toy.conditioning.kind = kind
    data = assembly.dataset(toy)
    made = assembly.fit_statistics(toy, data)
    known = toys.MIXTURES["ring"]()
    rng = np.random.default_rng(0)
    y, sigma = rng.normal(size=(6, 2)), np.array([0.05, 0.1, 0.3, 0.5, 1.0, 3.0])
    weights = np.eye(4)[[0, 1, 2, 3, 0, 1]]
    weights[3] = [0.1, 0.2, 0.3, 0.4]
    keep = np.array([1, 1, 1, 1, 1, 0])
    shares = np.where(keep[:, None] > 0, weights, 0.25)
    if kind == "none":
        shares = np.full((6, 4), 0.25)
    given = (None, None) if kind == "none" else (jnp.float32(weights), jnp.float32(keep))
    mean = np.asarray(made.transform.mean)[None]
    found = exact.target(toy, made)(jnp.float32(y - mean), jnp.float32(sigma), *given) + mean
    np.testing.assert_allclose(found, posterior_mean(known, y, sigma, shares), atol=2e-4)


def small(config, num):
    """Loss functions on both targets, parameters, and a batch of `num` fresh points."""
    config.conditioning.dropout = 0.2
    data = assembly.dataset(config)
    made = assembly.fit_statistics(config, data)
    fresh = toys.load("ring", num, 10, seed=7).train
    batch = Batch(
        x=jnp.asarray(fresh.x - np.asarray(made.transform.mean)),
        index=jnp.arange(num),
        mask=jnp.ones(num),
        weights=jnp.asarray(assembly.split_weights(config, made, fresh)[0]),
    )
    fns = {}
    for target in ("data", "exact"):
        config.training.target = target
        fns[target] = assembly.loss_fn(config, made)
    params = assembly.init_params(config, data.shape, made)
    # Untrained, some gains are 0 and hide most of the gradient.
    params = jax.tree.map(lambda a: a + 0.3 if a.ndim == 0 else a, params)
    return fns, params, batch, made


def test_both_targets_have_one_gradient_in_expectation(toy):
    num, blocks = 64, 400
    fns, params, batch, _ = small(toy, num * blocks)
    keys = jax.random.split(jax.random.key(3), num * blocks)
    rows = jax.tree.map(lambda a: a.reshape(blocks, num, *a.shape[1:]), (batch, keys))

    def gradients(fn):
        def one(row):
            grads = jax.grad(lambda p: fn(p, *row)[1]["denoising_loss"].mean())(params)
            return jnp.concatenate([g.ravel() for g in jax.tree.leaves(grads["network"])])

        return np.asarray(jax.jit(lambda rows: jax.lax.map(one, rows))(rows), np.float64)

    sampled, best = (gradients(fns[name]) for name in ("data", "exact"))
    # The same points and noise: what differs is the targets' own noise, of mean 0.
    difference = sampled - best
    error = difference.std(axis=0) / np.sqrt(blocks) + 1e-7
    z = difference.mean(axis=0) / error
    assert np.abs(z).max() < 5.5
    # Power: the gradient itself stands far out of that noise.
    assert np.abs(best.mean(axis=0) / error).max() > 20
    assert best.var(axis=0).sum() < sampled.var(axis=0).sum()


def test_exact_targets_reach_a_lower_loss_at_equal_updates(toy):
    toy.network.width, toy.optimizer.warmup_steps = 16, 0
    steps, size = 200, 64
    fns, params, batch, made = small(toy, steps * size)
    optimizer = assembly.optimizer(toy)
    found = {}
    fresh = toys.load("ring", 2048, 10, seed=8).train
    centred = jnp.asarray(fresh.x - np.asarray(made.transform.mean))
    weights = jnp.asarray(assembly.split_weights(toy, made, fresh)[0])
    test = Batch(x=centred, index=jnp.arange(2048), mask=jnp.ones(2048), weights=weights)
    test_keys = jax.random.split(jax.random.key(9), 2048)
    rows = jax.tree.map(lambda a: a.reshape(steps, size, *a.shape[1:]), batch)
    for name in ("data", "exact"):
        toy.training.target = name
        step = assembly.train_step_fn(toy, made)
        start = state.create(params, optimizer, len(toy.training.ema_widths))

        def update(current, batch, step=step):
            return step(current, batch, jax.random.key(0))

        trained, _ = jax.jit(functools.partial(jax.lax.scan, update))(start, rows)
        # Against data, for both.
        losses = fns["data"](trained.params, test, test_keys)[1]["denoising_loss"]
        found[name] = float(losses.mean())
    assert found["exact"] < found["data"]


def test_data_and_conditions_without_a_known_density_are_refused(toy, make_config):
    config_lib.validate(toy)
    assembly.dataset(toy)
    for semantics in ("example", "mixture"):
        toy.conditioning.kind, toy.conditioning.semantics = "gmm", semantics
        toy.conditioning.num_components = 8
        with pytest.raises(InputError, match=r"training\.target is 'exact', which needs a cond"):
            assembly.dataset(toy)
        toy.conditioning.num_components = 4
        assembly.dataset(toy)
        toy.conditioning.per_class = False
        with pytest.raises(InputError, match=r"training\.target is 'exact'"):
            assembly.dataset(toy)
        toy.conditioning.per_class = True
    images = make_config("tiny")
    images.training.target = "exact"
    with pytest.raises(InputError, match=r"training\.target is 'exact'; the density of data\.name"):
        config_lib.validate(images)
    toy.contrastive.weight = 0.1
    with pytest.raises(InputError, match=r"training\.target is 'exact'; contrastive\.weight"):
        config_lib.validate(toy)
