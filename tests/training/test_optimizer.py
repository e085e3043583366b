"""Schedules and Adam against their formulas in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion.errors import InputError
from gmm_diffusion.training import optimizer


def rates(kind, peak, warmup, decay, total):
    schedule = optimizer.learning_rate(kind, peak, warmup, decay, total)
    return np.asarray(jax.vmap(schedule)(jnp.arange(total)))


def test_edm2_is_a_ramp_and_an_inverse_square_root():
    update = np.arange(1, 1001)
    expected = 0.01 / np.sqrt(np.maximum(update / 100, 1)) * np.minimum(update / 20, 1)
    np.testing.assert_allclose(rates("edm2", 0.01, 20, 100, 1000), expected, rtol=1e-6)


def test_constant_is_a_ramp_and_the_peak():
    update = np.arange(1, 51)
    expected = 0.3 * np.minimum(update / 10, 1)
    np.testing.assert_allclose(rates("constant", 0.3, 10, 5, 50), expected, rtol=1e-6)


def test_cosine_peaks_at_the_end_of_the_ramp_and_ends_at_zero():
    got = rates("cosine", 2.0, 10, 5, 110)
    assert got[9] == pytest.approx(2.0)
    assert got[59] == pytest.approx(1.0)
    assert got[34] == pytest.approx(1 + np.cos(np.pi / 4), rel=1e-5)
    assert got[-1] == pytest.approx(0, abs=1e-6)
    assert np.argmax(got) == 9


@pytest.mark.parametrize("kind", optimizer.SCHEDULES)
@pytest.mark.parametrize("total", [1, 2, 5])
def test_short_runs_are_finite_and_reach_the_peak(kind, total):
    got = rates(kind, 0.1, 1000, 1000, total)
    assert np.all(np.isfinite(got))
    assert got.max() == pytest.approx(0.1) or (kind == "cosine" and total == 1)


@pytest.mark.parametrize("kind", optimizer.SCHEDULES)
def test_no_ramp_starts_at_the_peak(kind):
    assert rates(kind, 0.1, 0, 100, 100)[0] == pytest.approx(0.1, rel=1e-3)


def test_unknown_schedule_is_refused():
    with pytest.raises(InputError, match="'step', which is not one of edm2, cosine, constant"):
        optimizer.learning_rate("step", 0.1, 1, 1, 1)


def adam_reference(grads, rate, b1, b2, eps, clip_norm):
    mean = variance = np.zeros_like(grads[0])
    total = np.zeros_like(grads[0])
    for i, grad in enumerate(grads, 1):
        norm = np.sqrt(np.sum(grad**2))
        if clip_norm and norm > clip_norm:
            grad = grad * clip_norm / norm
        mean = b1 * mean + (1 - b1) * grad
        variance = b2 * variance + (1 - b2) * grad**2
        total -= rate(i) * (mean / (1 - b1**i)) / (np.sqrt(variance / (1 - b2**i)) + eps)
    return total


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_adam_with_clipping_matches_its_definition(clip_norm):
    grads = np.random.default_rng(0).normal(size=(6, 5)) * 3.0 ** np.arange(-3, 3)[:, None]
    schedule = optimizer.learning_rate("edm2", 0.1, 2, 3, 6)
    transform = optimizer.make_optimizer(schedule, b1=0.8, b2=0.95, eps=1e-3, clip_norm=clip_norm)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(3)}
    state = transform.init(params)
    for grad in grads:
        tree = {"a": jnp.asarray(grad[:2], jnp.float32), "b": jnp.asarray(grad[2:], jnp.float32)}
        updates, state = transform.update(tree, state, params)
        params = jax.tree.map(jnp.add, params, updates)

    def rate(i):
        return 0.1 * min(i / 2, 1) / np.sqrt(max(i / 3, 1))

    expected = adam_reference(grads, rate, 0.8, 0.95, 1e-3, clip_norm)
    got = np.concatenate([params["a"], params["b"]])
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_state_has_the_same_structure_with_and_without_a_bound():
    params = {"w": jnp.zeros(3)}
    trees = [
        jax.tree.structure(optimizer.make_optimizer(lambda _: 0.1, clip_norm=c).init(params))
        for c in (0.0, 1.0)
    ]
    assert trees[0] == trees[1]


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_gradient_descent_matches_its_definition(clip_norm):
    grads = np.random.default_rng(0).normal(size=(6, 5))
    schedule = optimizer.learning_rate("constant", 0.1, 0, 1, 6)
    transform = optimizer.make_sgd(schedule, momentum=0.7, clip_norm=clip_norm)
    params, momentum, expected = jnp.zeros(5), np.zeros(5), np.zeros(5)
    state = transform.init(params)
    for grad in grads:
        updates, state = transform.update(jnp.asarray(grad, jnp.float32), state, params)
        params = params + updates
        norm = np.linalg.norm(grad)
        momentum = 0.7 * momentum + grad * (min(1, clip_norm / norm) if clip_norm else 1)
        expected -= 0.1 * momentum
    np.testing.assert_allclose(params, expected, rtol=1e-5)
