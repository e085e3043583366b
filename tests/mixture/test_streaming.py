"""The same fit from an iterator, from an array, and from several devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion import mixture
from gmm_diffusion.mixture import KINDS, em_steps
from gmm_diffusion.mixture.blocks import split

KEY = jax.random.key(3)
OPTIONS = {"max_iterations": 6, "tolerance": 0.0}


def _data(num_points=240):
    rng = np.random.default_rng(0)
    centers = 3 * rng.normal(size=(3, 4))
    return (centers[rng.integers(3, size=num_points)] + rng.normal(size=(num_points, 4))).astype(
        np.float32
    )


def _same(one, other):
    np.testing.assert_allclose(one.history, other.history, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(one.mixture), jax.tree.leaves(other.mixture), strict=True):
        if a.ndim < 3:
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        one.mixture.covariances, other.mixture.covariances, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("kind", KINDS)
def test_iterator_and_array_give_the_same_mixture(kind):
    x = _data()
    batches = lambda: iter(np.split(x, [80, 160]))  # noqa: E731
    whole = mixture.fit_em(KEY, x, 3, kind, **OPTIONS)
    _same(mixture.fit_em_stream(KEY, batches, 3, kind, **OPTIONS), whole)


def test_batches_with_weights_give_the_same_mixture():
    x, a = _data(), np.random.default_rng(1).uniform(0, 2, size=240)
    a[:40] = 0
    batches = [(x[:120], a[:120]), (x[120:], a[120:])]
    whole = mixture.fit_em(KEY, x, 3, "diag", sample_weights=a, **OPTIONS)
    _same(mixture.fit_em_stream(KEY, batches, 3, "diag", **OPTIONS), whole)


def test_stream_converges_like_the_array():
    x = _data()
    whole = mixture.fit_em(KEY, x, 3, "diag", start="random")
    stream = mixture.fit_em_stream(KEY, [x[:120], x[120:]], 3, "diag", start="random")
    assert stream.converged
    assert whole.converged
    assert abs(stream.num_iterations - whole.num_iterations) <= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mapped", ["vmap", "pmap"])
def test_four_devices_give_the_same_result_as_one(kind, mapped):
    x = _data()
    rng = np.random.default_rng(0)
    root = {
        "full": np.stack([np.eye(4)] * 3),
        "tied": np.eye(4),
        "diag": np.ones((3, 4)),
        "spherical": np.ones(3),
    }[kind]
    arrays = (np.full(3, -np.log(3)), rng.normal(size=(3, 4)), root)
    start = em_steps.Parameters(*(jnp.asarray(v, jnp.float32) for v in arrays), kind)

    def run(points, weights, axis_name=None):
        return mixture.iterate(
            start, points, weights, KEY, 1e-6, 0.0, 5, history_size=6, axis_name=axis_name
        )

    # Component 2 starts far off and is re-seeded: that must agree between devices too.
    start = start.replace(means=start.means.at[2].set(1e3))
    alone = jax.jit(run)(*split(x, None, 3))
    shares = [split(part, None, 3) for part in np.split(x, 4)]
    stacked = [np.stack(a) for a in zip(*shares, strict=True)]
    devices = getattr(jax, mapped)(functools.partial(run, axis_name="devices"), axis_name="devices")
    together = (jax.jit(devices) if mapped == "vmap" else devices)(*stacked)
    assert alone[4] >= 1
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
        for device in range(4):
            np.testing.assert_allclose(np.asarray(b)[device], a, rtol=2e-3, atol=1e-3)


def test_bad_streams_are_named():
    x = _data(20)
    cases = [
        (iter([x]), "can be used only once"),
        ([x, np.where(x == x[3, 1], np.nan, x)], r"batch 1 of x\[3, 1\] is nan"),
        ([x[0]], r"batch 0 of x has shape \(4,\)"),
        ([], "no points"),
        ([x[:2]], "x has 2 points"),
        ([x, x[:, :3]], "batch 1"),
    ]
    for batches, message in cases:
        with pytest.raises(ValueError, match=message):
            mixture.fit_em_stream(KEY, batches, 3)


@pytest.mark.parametrize("later", [[10, 9], [10], [10, 10, 1], [9, 11]])
def test_a_pass_unlike_the_first_is_named(later):
    x = _data(40)
    passes = iter([[10, 10], later, later, later])
    with pytest.raises(ValueError, match="later pass"):
        mixture.fit_em_stream(KEY, lambda: [x[:n] for n in next(passes)], 2)
