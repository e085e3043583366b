"""Parameters drawn on the host: the same tree as linen's own, and the same laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gmm_diffusion.networks import MLP, LogVariance, UNet
from gmm_diffusion.networks.initialisation import initialise
from gmm_diffusion.types import Condition

COND = Condition(jnp.zeros((1, 16)), jnp.ones(1))
DRAWS = Condition(jnp.zeros((1, 4, 3)), jnp.ones(1))
INITS = {
    "unet": lambda key: UNet(16, (1, 2), 1, (4,)).init(
        key, jnp.zeros((1, 8, 8, 1)), jnp.zeros(1), COND
    ),
    "mlp": lambda key: MLP(32, 2).init(key, jnp.zeros((1, 2)), jnp.zeros(1), DRAWS),
    "log_variance": lambda key: LogVariance(16).init(key, jnp.zeros(1)),
}


def named(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path): (path, np.asarray(leaf)) for path, leaf in leaves}


@pytest.mark.parametrize("name", INITS)
def test_same_tree_shapes_and_types_as_linen(name):
    own = initialise(INITS[name], 0)
    linen = jax.eval_shape(INITS[name], jax.random.key(0))["params"]
    assert jax.tree.structure(own) == jax.tree.structure(linen)
    assert jax.tree.all(
        jax.tree.map(lambda a, b: a.shape == b.shape and a.dtype == b.dtype, own, linen)
    )


def test_gains_are_those_that_linen_starts_at_zero():
    own, linen = (
        named(p)
        for p in (initialise(INITS["mlp"], 0), jax.jit(INITS["mlp"])(jax.random.key(0))["params"])
    )
    for name, (path, leaf) in own.items():
        assert np.all(leaf == 0) == np.all(linen[name][1] == 0) == (path[-1].key != "weight"), name


@pytest.mark.parametrize("name", ["unet", "mlp"])
def test_weights_are_standard_normal(name):
    leaves = [
        leaf
        for path, leaf in named(initialise(INITS[name], 1)).values()
        if path[-1].key == "weight"
    ]
    values = np.concatenate([leaf.ravel() for leaf in leaves])
    assert stats.kstest(values, "norm").pvalue > 1e-3
    # Each leaf from a stream of its own, also where shapes are the same.
    starts = [leaf.ravel()[0] for leaf in leaves]
    assert len(set(starts)) == len(starts)


def test_pure_function_of_the_seed():
    one, again, other = (initialise(INITS["mlp"], seed) for seed in (0, 0, 1))
    assert jax.tree.all(jax.tree.map(np.array_equal, one, again))
    different = jax.tree_util.tree_map_with_path(
        lambda path, a, b: path[-1].key != "weight" or not np.any(a == b), one, other
    )
    assert jax.tree.all(different)


def test_a_leaf_does_not_depend_on_the_rest_of_the_network():
    """So that adding a block leaves the others' parameters as they were."""
    small, large = (
        named(initialise(lambda key, n=n: MLP(32, n).init(key, jnp.zeros((1, 2)), jnp.zeros(1)), 5))
        for n in (1, 3)
    )
    assert set(small) < set(large)
    assert all(np.array_equal(leaf, large[name][1]) for name, (_, leaf) in small.items())
