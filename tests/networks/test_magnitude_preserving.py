"""Layers that keep magnitudes, and forced weight normalisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from gmm_diffusion.networks import magnitude_preserving as mp
from gmm_diffusion.networks import normalize_weights


def rms(x, axis=None):
    return np.sqrt(np.mean(np.square(np.asarray(x, np.float64)), axis=axis))


def unit_normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def layers():
    """Each layer with a unit input whose borders, where there are any, are negligible."""
    return {
        "linear": (mp.MPLinear(256), unit_normal(128, 192)),
        "conv_1": (mp.MPConv(64, 1), unit_normal(4, 16, 16, 48)),
        "conv_3": (mp.MPConv(64, 3), unit_normal(2, 48, 48, 48)),
        "conv_5": (mp.MPConv(32, 5), unit_normal(1, 80, 80, 16)),
    }


@pytest.mark.parametrize("name", layers())
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_unit_input_gives_unit_output(name, seed):
    layer, x = layers()[name]
    y, variables = jax.jit(layer.init_with_output)(jax.random.key(seed), x)
    assert rms(y) == pytest.approx(1, abs=0.05)
    # The parameter's own scale must not matter, which is what lets it be normalised by force.
    scaled = jax.tree.map(lambda leaf: 7.0 * leaf, variables)
    np.testing.assert_allclose(layer.apply(scaled, x), y, atol=2e-3)
    np.testing.assert_allclose(layer.apply(variables, x, 0.25), 0.25 * y, atol=1e-4)


def test_layer_is_the_normalised_product():
    weight = np.random.default_rng(0).normal(size=(5, 3))
    x = np.random.default_rng(1).normal(size=(7, 5))
    expected = x @ (weight / np.linalg.norm(weight, axis=0))
    actual = mp.MPLinear(3).apply({"params": {"weight": jnp.asarray(weight)}}, jnp.asarray(x))
    np.testing.assert_allclose(actual, expected, atol=1e-3)


@pytest.mark.parametrize("axis", [-1, (1, 2)])
def test_normalize_gives_unit_rms_and_keeps_the_direction(axis):
    x = unit_normal(4, 6, 8) * 37.0
    y = np.asarray(mp.normalize(x, axis))
    np.testing.assert_allclose(rms(y, axis), 1, atol=1e-4)
    ratio = y / np.asarray(x)
    np.testing.assert_allclose(
        ratio, np.broadcast_to(ratio.mean(axis, keepdims=True), x.shape), rtol=1e-5
    )


def test_normalize_of_zero_is_zero():
    x = jnp.zeros((2, 3))
    assert np.all(np.asarray(mp.normalize(x, -1)) == 0)


def test_silu_constant_is_the_rms_of_silu_under_a_unit_normal():
    second = integrate.quad(lambda x: (x / (1 + np.exp(-x))) ** 2 * stats.norm.pdf(x), -12, 12)[0]
    x = jnp.asarray([-2.0, 0.5, 3.0])
    expected = np.asarray(x) / (1 + np.exp(-np.asarray(x))) / np.sqrt(second)
    np.testing.assert_allclose(mp.mp_silu(x), expected, rtol=1e-3)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_sum_of_independent_units_is_a_unit_in_the_given_proportion(t):
    a, b = unit_normal(100_000, seed=1), unit_normal(100_000, seed=2)
    y = np.asarray(mp.mp_sum(a, b, t))
    assert rms(y) == pytest.approx(1, abs=0.01)
    covariances = np.mean(y * np.asarray(a)), np.mean(y * np.asarray(b))
    assert covariances[0] * t == pytest.approx(covariances[1] * (1 - t), abs=0.01)


@pytest.mark.parametrize("t", [0.3, 0.5])
@pytest.mark.parametrize("channels", [(8, 8), (4, 28)])
def test_concatenation_has_unit_rms_in_the_given_proportion(t, channels):
    a, b = (unit_normal(2000, c, seed=c) for c in channels)
    y = np.asarray(mp.mp_cat(a, b, t), np.float64)
    assert rms(y) == pytest.approx(1, abs=0.01)
    energy_a, energy_b = np.sum(y[:, : channels[0]] ** 2), np.sum(y[:, channels[0] :] ** 2)
    assert energy_a / energy_b == pytest.approx(((1 - t) / t) ** 2, rel=0.05)
    # Order and values are those of a plain concatenation.
    ratio = y / np.concatenate([a, b], axis=-1)
    np.testing.assert_allclose(ratio[:, 0], ratio[0, 0], rtol=1e-5)
    np.testing.assert_allclose(ratio[:, -1], ratio[0, -1], rtol=1e-5)


def test_attention_weights_and_sums_keep_bfloat16():
    """A NumPy scalar among the factors would turn every activation into float32."""
    a = jnp.ones((2, 4), jnp.bfloat16)
    outputs = [mp.mp_sum(a, a, 0.3), mp.mp_cat(a, a), mp.mp_silu(a), mp.normalize(a, -1)]
    assert [y.dtype for y in outputs] == [jnp.bfloat16] * 4


# An odd number leaves one cosine without its sine.
@pytest.mark.parametrize(("num_features", "tolerance"), [(32, 1e-5), (33, 0.04), (128, 1e-5)])
def test_fourier_features_have_unit_rms(num_features, tolerance):
    # ln(sigma) / 4 for sigma from 0.002 to 80, and beyond.
    c_noise = jnp.linspace(-1.6, 1.2, 801)
    values = np.asarray(mp.fourier_features(c_noise, num_features))
    assert values.shape == (801, num_features)
    np.testing.assert_allclose(rms(values, axis=1), 1, atol=tolerance)
    assert rms(values) == pytest.approx(1, abs=0.025)


def test_fourier_features_tell_noise_levels_apart():
    sigmas = np.geomspace(0.002, 80, 20)
    values = np.asarray(mp.fourier_features(jnp.asarray(np.log(sigmas) / 4, jnp.float32), 128))
    distance = rms(values[:, None] - values[None], axis=-1) + 10 * np.eye(20)
    assert distance.min() > 0.5


def tree(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "conv": {"weight": jnp.asarray(5 * rng.normal(size=(3, 3, 8, 6)), jnp.float32)},
        "deep": {"linear": {"weight": jnp.asarray(0.1 * rng.normal(size=(10, 4)), jnp.float32)}},
        "out_gain": jnp.asarray(0.37),
    }


def test_forced_normalisation_gives_unit_rms_per_output_and_leaves_gains():
    params = normalize_weights(tree())
    np.testing.assert_allclose(rms(params["conv"]["weight"], (0, 1, 2)), 1, atol=1e-4)
    np.testing.assert_allclose(rms(params["deep"]["linear"]["weight"], 0), 1, atol=2e-3)
    assert params["out_gain"] == tree()["out_gain"]


def test_forced_normalisation_keeps_directions_and_is_idempotent():
    once = normalize_weights(tree())
    weight, original = np.asarray(once["conv"]["weight"]), np.asarray(tree()["conv"]["weight"])
    cosine = np.sum(weight * original, (0, 1, 2)) / (
        np.linalg.norm(weight.reshape(-1, 6), axis=0)
        * np.linalg.norm(original.reshape(-1, 6), axis=0)
    )
    np.testing.assert_allclose(cosine, 1, atol=1e-6)
    twice = normalize_weights(once)
    # Up to the epsilon that guards against a division by zero.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2.5e-3), once, twice)


def test_forced_normalisation_does_not_change_what_a_layer_computes():
    layer, x = mp.MPConv(6, 3), unit_normal(2, 5, 5, 8)
    params = {"weight": tree()["conv"]["weight"]}
    before = layer.apply({"params": params}, x)
    after = layer.apply({"params": normalize_weights(params)}, x)
    np.testing.assert_allclose(before, after, atol=1e-3)


@pytest.mark.parametrize("name", ["linear", "conv_3"])
def test_gradient_is_orthogonal_to_each_outputs_weight(name):
    layer, _ = layers()[name]
    x = unit_normal(*((3, 12) if name == "linear" else (2, 6, 6, 12)))

    @jax.jit
    def run(key):
        params = normalize_weights(layer.init(key, x))["params"]
        return params, jax.grad(lambda p: jnp.sum(jnp.sin(2.0 * layer.apply({"params": p}, x))))(
            params
        )

    params, gradient = run(jax.random.key(0))
    weight, gradient = (np.asarray(t["weight"], np.float64) for t in (params, gradient))
    axes = tuple(range(weight.ndim - 1))
    inner = np.sum(weight * gradient, axes)
    lengths = np.sqrt(np.sum(weight**2, axes) * np.sum(gradient**2, axes))
    assert np.abs(gradient).max() > 1e-3
    assert np.abs(inner / lengths).max() < 1e-3


def test_dropout_belongs_to_the_example():
    x, keys = unit_normal(6, 5, 3), jax.random.split(jax.random.key(0), 6)
    whole = np.asarray(mp.dropout(x, 0.4, keys))
    parts = np.concatenate([mp.dropout(x[:2], 0.4, keys[:2]), mp.dropout(x[2:], 0.4, keys[2:])])
    assert np.array_equal(whole, parts)
    masks = whole != 0
    assert not np.array_equal(masks[0], masks[1])
    np.testing.assert_allclose(whole[masks], np.asarray(x)[masks] / 0.6, rtol=1e-6)


def test_dropout_rate_and_its_absence():
    x, keys = jnp.ones((8, 4000)), jax.random.split(jax.random.key(1), 8)
    y = np.asarray(mp.dropout(x, 0.25, keys))
    np.testing.assert_allclose((y == 0).mean(axis=1), 0.25, atol=0.03)
    assert y.mean() == pytest.approx(1, abs=0.02)
    assert mp.dropout(x, 0.25, None) is x
    assert mp.dropout(x, 0.0, keys) is x
