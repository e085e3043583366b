"""The MLP: magnitudes at initialisation, independence of examples, what a condition does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion.networks import MLP
from gmm_diffusion.networks.initialisation import initialise
from gmm_diffusion.networks.mlp import ResidualBlock
from gmm_diffusion.types import Condition

SMALL = MLP(16, 2)
BATCH = 6
ORDER = np.array([3, 0, 5, 1, 4, 2])


def rms(x):
    return float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64)))))


def unit_normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def with_gains(params, value):
    """Every zero-initialised gain set to `value`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if path[-1].key == "weight" else jnp.full_like(leaf, value), params
    )


def condition(batch, form, seed=0):
    """Features of each shape that `conditioning.encode` makes, `keep` mixed."""
    features = {
        "vector": unit_normal(batch, 12, seed=seed),
        "draws": unit_normal(batch, 5, 3, seed=seed),
        "weights": jnp.asarray(
            2.0 * np.random.default_rng(seed).dirichlet(np.ones(4), batch), jnp.float32
        ),
    }[form]
    return Condition(features, jnp.asarray(np.arange(batch) % 3 != 2, jnp.float32))


FORMS = ("vector", "draws", "weights")


@functools.cache
def small(form):
    """Parameters and a jitted apply for one form of condition (None for no condition)."""
    cond = None if form is None else condition(1, form)
    params = initialise(lambda key: SMALL.init(key, jnp.zeros((1, 3)), jnp.zeros(1), cond), 0)
    return params, jax.jit(lambda params, *args: SMALL.apply({"params": params}, *args))


def inputs():
    return unit_normal(BATCH, 3, seed=1), jnp.linspace(-1.5, 1.0, BATCH)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_activations_have_unit_magnitude(seed):
    model = MLP(256, 3)
    x, c_noise = unit_normal(256, 31), jnp.linspace(-1.5, 1.0, 256)
    cond = Condition(unit_normal(256, 64, seed=1), jnp.ones(256))

    @jax.jit
    def run():
        params = initialise(lambda key: model.init(key, x, c_noise, cond), seed)
        return model.apply(
            {"params": params},
            x,
            c_noise,
            cond,
            capture_intermediates=lambda module, _: isinstance(module, ResidualBlock),
        )[1]["intermediates"]

    captured = {name: rms(value["__call__"][0]) for name, value in run().items()}
    assert sorted(captured) == ["block_0", "block_1", "block_2"]
    for name, value in captured.items():
        assert value == pytest.approx(1, abs=0.10), name


@pytest.mark.parametrize("form", [None, *FORMS])
def test_output_is_zero_at_the_start(form):
    params, apply = small(form)
    x, c_noise = inputs()
    y = np.asarray(apply(params, x, c_noise, None if form is None else condition(BATCH, form)))
    assert y.shape == x.shape
    assert np.all(y == 0)


@pytest.mark.parametrize("form", FORMS)
def test_examples_do_not_mix(form):
    """A permuted batch gives a permuted output, and an example does not see the others."""
    params, apply = small(form)
    x, c_noise = inputs()
    for gain in (0.0, 1.0):
        gained, cond = with_gains(params, gain), condition(BATCH, form)
        whole = np.asarray(apply(gained, x, c_noise, cond))
        assert (rms(whole) > 0.3) == (gain == 1.0)
        permuted = jax.tree.map(lambda leaf: leaf[ORDER], (x, c_noise, cond))
        np.testing.assert_allclose(apply(gained, *permuted), whole[ORDER], atol=1e-4)
        # All but example 2 replaced.
        others = (unit_normal(*x.shape, seed=9), c_noise[::-1], condition(BATCH, form, seed=9))
        replaced = jax.tree.map(lambda a, b: a.at[2].set(b[2]), others, (x, c_noise, cond))
        changed = np.asarray(apply(gained, *replaced))
        np.testing.assert_allclose(changed[2], whole[2], atol=1e-4)
        assert gain == 0.0 or np.abs(changed - whole)[[0, 1, 3, 4, 5]].max() > 0.1


@pytest.mark.parametrize("form", FORMS)
def test_condition_acts_only_through_the_gains(form):
    params, apply = small(form)
    # The same example everywhere, so that only the condition can differ.
    x, c_noise = jnp.tile(inputs()[0][:1], (BATCH, 1)), jnp.zeros(BATCH)
    cond = Condition(condition(BATCH, form).features, jnp.ones(BATCH))
    swapped = jax.tree.map(lambda leaf: leaf[::-1], cond)
    same = np.asarray(apply({**params, "out_gain": jnp.ones(())}, x, c_noise, cond))
    assert rms(same) > 0.3
    np.testing.assert_allclose(same, np.broadcast_to(same[:1], same.shape), atol=1e-5)
    gained = with_gains(params, 1.0)
    one, two = (np.asarray(apply(gained, x, c_noise, c)) for c in (cond, swapped))
    np.testing.assert_allclose(one, two[::-1], atol=1e-4)
    assert rms(one[0] - one[-1]) > 0.01


@pytest.mark.parametrize("form", FORMS)
def test_null_condition_ignores_the_features(form):
    params, apply = small(form)
    gained, (x, c_noise) = with_gains(params, 1.0), inputs()
    nulls = [Condition(condition(BATCH, form, seed=s).features, jnp.zeros(BATCH)) for s in (0, 1)]
    one, two = (np.asarray(apply(gained, x, c_noise, cond)) for cond in nulls)
    assert np.array_equal(one, two)
    kept = np.asarray(apply(gained, x, c_noise, nulls[0].replace(keep=jnp.ones(BATCH))))
    assert rms(kept - one) > 0.05


def test_dropout_does_not_depend_on_how_the_batch_is_split():
    model, params = SMALL.clone(dropout_rate=0.3), with_gains(small(None)[0], 1.0)
    apply = jax.jit(lambda *args: model.apply({"params": params}, *args))
    x, c_noise = inputs()
    keys = jax.random.split(jax.random.key(0), BATCH)
    whole = np.asarray(apply(x, c_noise, None, keys))
    parts = [apply(x[s], c_noise[s], None, keys[s]) for s in (slice(3), slice(3, BATCH))]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-4)
    off = np.asarray(apply(x, c_noise, None, None))
    np.testing.assert_allclose(off, small(None)[1](params, x, c_noise, None), atol=1e-4)
    assert rms(whole - off) > 0.05
    # The same example under another key is another result.
    other = np.asarray(apply(x, c_noise, None, keys[::-1]))
    assert min(rms(whole[b] - other[b]) for b in range(BATCH)) > 0.01


def test_bfloat16_compute_keeps_float32_parameters_and_output():
    model = SMALL.clone(dtype=jnp.bfloat16)
    x, c_noise = inputs()
    cond = condition(BATCH, "vector")
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, c_noise, cond)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    params = with_gains(small("vector")[0], 1.0)

    @jax.jit
    def run(x, c_noise, cond):
        captured = lambda module, _: isinstance(module, ResidualBlock)  # noqa: E731
        return model.apply({"params": params}, x, c_noise, cond, capture_intermediates=captured)

    y, state = run(x, c_noise, cond)
    assert y.dtype == jnp.float32
    blocks = [state["intermediates"][f"block_{i}"]["__call__"][0] for i in range(2)]
    assert [block.dtype for block in blocks] == [jnp.bfloat16] * 2
    exact = np.asarray(small("vector")[1](params, x, c_noise, cond))
    assert 0 < rms(np.asarray(y) - exact) < 0.05 * rms(exact)


def test_every_parameter_receives_a_gradient():
    params, _ = small("vector")
    x, c_noise = inputs()
    cond = condition(BATCH, "vector")

    @jax.jit
    def gradient(params):
        return jax.grad(
            lambda p: jnp.sum(jnp.square(SMALL.apply({"params": p}, x, c_noise, cond) - x))
        )(params)

    assert abs(float(gradient(params)["out_gain"])) > 0.1
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(with_gains(params, 0.5))):
        assert np.isfinite(np.asarray(leaf)).all()
        assert np.abs(np.asarray(leaf)).max() > 1e-4, jax.tree_util.keystr(path)
