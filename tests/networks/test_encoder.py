"""Encoders and their plain layers: shapes, independence, scale at the start, the noise level."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from gmm_diffusion.networks import normalize_weights, plain
from gmm_diffusion.networks.encoder import ENCODERS
from gmm_diffusion.networks.initialisation import initialise

CASES = [("conv", (4, 6, 2)), ("conv", (1, 1, 1)), ("mlp", (2,)), ("mlp", (4, 4, 1))]


def make(name, shape, normalize, noisy=False, batch=6, width=16, seed=0, dims=(5, 32)):
    network = ENCODERS[name](dims[0], width=width, embedding_dim=dims[1], normalize=normalize)
    x = jax.random.normal(jax.random.key(1), (batch, *shape))
    c_noise = jnp.linspace(-1, 1, batch) if noisy else None
    params = initialise(lambda key: network.init(key, x, c_noise), seed)

    @jax.jit
    def apply(params, x, c_noise=None):
        return network.apply({"params": params}, x, c_noise)

    return apply, params, x, c_noise


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("name", "shape"), CASES)
def test_shapes_and_independence_within_a_batch(name, shape, normalize):
    apply, params, x, c_noise = make(name, shape, normalize, noisy=True)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    out, embedding = apply(params, x, c_noise)
    assert (out.shape, embedding.shape) == ((6, 5), (6, 32))
    assert np.isfinite(out).all()
    order = np.array([3, 1, 4, 0, 2, 5])
    for a, b in zip((out, embedding), apply(params, x[order], c_noise[order]), strict=True):
        np.testing.assert_allclose(a[order], b, atol=1e-4)


@pytest.mark.parametrize(("name", "shape"), [("conv", (2, 2, 16)), ("mlp", (64,))])
def test_magnitudes_are_kept(name, shape):
    apply, params, x, _ = make(name, shape, True, batch=64, width=64, dims=(256, 256))
    out, embedding = apply(params, x)
    for values in (out, embedding):
        assert np.sqrt(np.mean(np.square(values))) == pytest.approx(1, abs=0.15)


def test_plain_layers_start_as_he_has_it():
    _, params, _, _ = make("conv", (8, 8, 1), False, width=64)
    kernel = params["conv_1_1"]["kernel"]
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 128)), rel=0.02)
    assert not np.any(params["conv_1_1"]["bias"])
    kernel = params["head"]["embedding"]["kernel"]
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / kernel.shape[0]), rel=0.02)
    # Linen's own start has the same law.
    layer = plain.Linear(300)
    kernel = layer.init(jax.random.key(0), jnp.zeros((1, 200)))["params"]["kernel"]
    assert np.std(kernel) == pytest.approx(0.1, rel=0.02)


def test_plain_layers_are_not_normalised_by_force():
    for name, shape in (("conv", (8, 8, 1)), ("mlp", (4,))):
        _, params, _, _ = make(name, shape, False)
        params = jax.tree.map(lambda leaf: leaf + 3.0, params)
        assert jax.tree.all(jax.tree.map(np.array_equal, normalize_weights(params), params))


def test_plain_layers_are_those_of_numpy_and_scipy():
    rng = np.random.default_rng(0)
    x, kernel, bias = rng.normal(size=(2, 6, 5, 3)), rng.normal(size=(3, 3, 3, 4)), np.arange(4.0)
    params = {"params": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}
    expected = [
        [
            sum(signal.correlate2d(x[b, ..., c], kernel[..., c, f], "same") for c in range(3))
            + bias[f]
            for f in range(4)
        ]
        for b in range(2)
    ]
    actual = plain.Conv(4, 3).apply(params, jnp.asarray(x))
    np.testing.assert_allclose(np.moveaxis(actual, 3, 1), expected, atol=1e-4)
    params = {"params": {"kernel": jnp.asarray(kernel[0, 0]), "bias": jnp.asarray(bias)}}
    actual = plain.Linear(4).apply(params, jnp.asarray(x))
    np.testing.assert_allclose(actual, x @ kernel[0, 0] + bias, atol=1e-5)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("name", "shape"), [("conv", (2, 2, 1)), ("mlp", (3,))])
def test_the_noise_level_starts_switched_off_and_everything_is_learned(name, shape, normalize):
    apply, params, x, c_noise = make(name, shape, normalize, noisy=True, batch=32)
    np.testing.assert_array_equal(apply(params, x, c_noise)[0], apply(params, x, -c_noise)[0])
    opened = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + 0.3 if path[-1].key == "gain" else leaf, params
    )
    assert np.abs(apply(opened, x, c_noise)[0] - apply(opened, x, -c_noise)[0]).max() > 1e-3
    slopes = jax.jit(jax.grad(lambda p: jnp.sum(apply(p, x, c_noise)[0] ** 3)))
    switched_off, everything = slopes(params), slopes(opened)
    gains = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(switched_off):
        if path[-1].key == "gain":
            assert np.all(leaf != 0)
            gains += 1
    assert gains >= 2
    for path, leaf in jax.tree_util.tree_leaves_with_path(everything):
        assert np.any(leaf != 0), jax.tree_util.keystr(path)


def test_the_seed_decides_the_start():
    one, again, other = (make("mlp", (4,), False, seed=seed)[1] for seed in (0, 0, 1))
    same = jax.tree.map(np.array_equal, one, again)
    assert jax.tree.all(same)
    assert not np.array_equal(one["hidden_0"]["kernel"], other["hidden_0"]["kernel"])
