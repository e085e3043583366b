"""The state at step 0."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gmm_diffusion.training import state


def test_the_state_at_step_0():
    params = {
        "network": {"weight": jnp.full((4, 3), 7.0), "gain": jnp.full((), 0.5)},
        "log_variance": {"weight": jnp.full((2, 1), -3.0)},
    }
    optimizer = {"network": optax.adam(0.1), "log_variance": optax.sgd(0.2)}
    made = state.create(params, optimizer, num_emas=3)
    np.testing.assert_allclose(made.params["network"]["weight"], 1.0, atol=1e-3)
    np.testing.assert_allclose(made.params["log_variance"]["weight"], -1.0, atol=1e-3)
    assert made.params["network"]["gain"] == 0.5
    assert len(made.ema) == 3
    for average in made.ema:
        assert jax.tree.structure(average) == jax.tree.structure(made.params)
        jax.tree.map(np.testing.assert_array_equal, average, made.params)
    for counter in (made.step, made.nonfinite, made.nonfinite_in_a_row):
        assert (counter.shape, counter.dtype, int(counter)) == ((), jnp.int32, 0)
    # Each part has its own optimiser, started on its own parameters.
    assert jax.tree.structure(made.opt_state["network"][0].mu) == jax.tree.structure(
        made.params["network"]
    )
    assert jax.tree.leaves(made.opt_state["log_variance"]) == []
