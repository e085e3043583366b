"""From a condition to the vector that drives each block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion.networks import normalize_weights
from gmm_diffusion.networks.condition_embedding import ConditionVector, NoiseAndCondition
from gmm_diffusion.types import Condition

WIDTH = 192


def rms(x, axis=None):
    return np.sqrt(np.mean(np.square(np.asarray(x, np.float64)), axis=axis))


def unit_normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


FEATURES = {
    "vector": unit_normal(8, 64),
    "draws": unit_normal(8, 16, 6),
    "weights": jnp.sqrt(8.0) * jnp.eye(8),
}


@pytest.mark.parametrize("form", FEATURES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_unit_features_give_a_vector_of_unit_magnitude(form, seed):
    model = ConditionVector(WIDTH)
    run = jax.jit(lambda key, cond: model.init_with_output(key, cond)[0])
    for keep in (1.0, 0.0):
        vector = run(jax.random.key(seed), Condition(FEATURES[form], jnp.full(8, keep)))
        assert vector.shape == (8, WIDTH)
        assert rms(vector) == pytest.approx(1, abs=0.10)


@pytest.mark.parametrize("form", FEATURES)
def test_keep_chooses_between_features_and_one_null_vector(form):
    model = ConditionVector(WIDTH)
    features = FEATURES[form]
    variables = jax.jit(model.init)(jax.random.key(0), Condition(features, jnp.ones(8)))
    apply = jax.jit(model.apply)
    kept, null = (
        np.asarray(apply(variables, Condition(features, jnp.full(8, k)))) for k in (1.0, 0.0)
    )
    np.testing.assert_array_equal(null, np.broadcast_to(null[:1], null.shape))
    mixed_keep = jnp.asarray([1, 0, 1, 1, 0, 0, 1, 0], jnp.float32)
    mixed = np.asarray(apply(variables, Condition(features, mixed_keep)))
    np.testing.assert_allclose(mixed, np.where(mixed_keep[:, None] > 0, kept, null), atol=1e-5)
    assert rms(kept - null) > 0.5
    # The null vector is the learned parameter itself.
    weight = np.asarray(variables["params"]["null"]["weight"])[:, 0]
    np.testing.assert_allclose(null[0], weight / rms(weight), rtol=1e-3)


def test_scaled_weights_read_a_table():
    """`sqrt(K) w` through the layer is the blend of K learned rows of unit magnitude."""
    model = ConditionVector(WIDTH)
    w = np.random.default_rng(3).dirichlet(np.ones(8), 5)
    cond = Condition(jnp.asarray(np.sqrt(8) * w, jnp.float32), jnp.ones(5))
    vector, variables = jax.jit(model.init_with_output)(jax.random.key(0), cond)
    weight = np.asarray(variables["params"]["features"]["weight"], np.float64)
    table = np.sqrt(8) * weight / np.linalg.norm(weight, axis=0)
    np.testing.assert_allclose(vector, w @ table, atol=2e-3)


def test_order_of_draws_does_not_matter():
    model, draws = ConditionVector(WIDTH), FEATURES["draws"]
    variables = jax.jit(model.init)(jax.random.key(0), Condition(draws, jnp.ones(8)))
    apply = jax.jit(model.apply)
    one = apply(variables, Condition(draws, jnp.ones(8)))
    two = apply(variables, Condition(draws[:, ::-1], jnp.ones(8)))
    np.testing.assert_allclose(one, two, atol=1e-4)
    other = apply(variables, Condition(draws + 0.5, jnp.ones(8)))
    assert rms(np.asarray(one) - np.asarray(other)) > 0.1


def test_null_vector_takes_part_in_forced_normalisation():
    params = jax.jit(ConditionVector(6).init)(
        jax.random.key(0), Condition(jnp.ones((1, 3)), jnp.ones(1))
    )["params"]
    null = normalize_weights(jax.tree.map(lambda leaf: 5 * leaf, params))["null"]["weight"]
    assert null.shape == (6, 1)
    assert rms(null) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("form", [None, *FEATURES])
def test_embedding_depends_on_noise_and_condition_in_equal_parts(form):
    model = NoiseAndCondition(WIDTH, 64)
    c_noise = jnp.linspace(-1.5, 1.0, 8)
    cond = None if form is None else Condition(FEATURES[form], jnp.ones(8))
    variables = jax.jit(model.init)(jax.random.key(0), c_noise, cond)
    apply = jax.jit(model.apply)
    y = np.asarray(apply(variables, c_noise, cond))
    # SiLU's mean is not zero: unit RMS of the input is unit RMS of the output, by its constant.
    assert rms(y) == pytest.approx(1, abs=0.10)
    other_noise = rms(np.asarray(apply(variables, c_noise[::-1], cond)) - y)
    assert other_noise > 0.3
    if form is not None:
        other = cond.replace(features=cond.features[::-1])
        assert rms(np.asarray(apply(variables, c_noise, other)) - y) > 0.3
