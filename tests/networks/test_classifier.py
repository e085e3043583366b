"""Shapes for any image size, independence within a batch, and the loss against optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gmm_diffusion.networks import classifier

SHAPES = [(8, 8, 1), (32, 32, 3), (12, 20, 2), (1, 1, 1), (2,), (30,)]


def _apply(shape, seed=0, batch=5):
    network = classifier.for_shape(shape, num_classes=7)
    x = jax.random.normal(jax.random.key(1), (batch, *shape))
    variables = network.init(jax.random.key(seed), x)
    return network, variables, x


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_and_types(shape):
    network, variables, x = _apply(shape)
    logits, embedding = network.apply(variables, x)
    assert logits.shape == (5, 7)
    assert embedding.ndim == 2
    assert embedding.shape[1] >= 32
    assert logits.dtype == embedding.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    assert bool(jnp.isfinite(logits).all())


@pytest.mark.parametrize("shape", [(8, 8, 1), (2,)])
def test_examples_do_not_see_each_other(shape):
    network, variables, x = _apply(shape)
    order = np.array([3, 1, 4, 0, 2])
    whole = network.apply(variables, x)
    permuted = network.apply(variables, x[order])
    alone = network.apply(variables, x[2:3])
    for a, b, c in zip(whole, permuted, alone, strict=True):
        np.testing.assert_allclose(a[order], b, atol=1e-5)
        np.testing.assert_allclose(a[2:3], c, atol=1e-5)


def test_the_seed_decides_the_initialisation():
    a, b, c = (_apply((2,), seed)[1] for seed in (0, 0, 1))
    same = jax.tree.map(lambda x, y: bool((x == y).all()), a, b)
    assert all(jax.tree.leaves(same))
    kernel = ("params", "hidden_0", "kernel")
    first, other = (v[kernel[0]][kernel[1]][kernel[2]] for v in (a, c))
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_that_of_optax(smoothing):
    logits = 3 * jax.random.normal(jax.random.key(0), (6, 4))
    label = jnp.array([0, 3, 2, 1, 1, 0])
    target = optax.smooth_labels(jax.nn.one_hot(label, 4), smoothing)
    np.testing.assert_allclose(
        classifier.cross_entropy(logits, label, smoothing),
        optax.softmax_cross_entropy(logits, target),
        rtol=1e-5,
    )
