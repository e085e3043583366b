"""One training step, a pure function; `devices.py` puts it on devices."""

import functools

import chex
import jax
import jax.numpy as jnp
import optax
from jax import lax

from gmm_diffusion.networks import normalize_weights
from gmm_diffusion.training import ema
from gmm_diffusion.training.accumulation import accumulated
from gmm_diffusion.training.state import TrainState
from gmm_diffusion.types import Array, Batch, LossFn


def train_step(
    state: TrainState,
    batch: Batch,
    key: Array,
    *,
    loss_fn: LossFn,
    optimizer: dict[str, optax.GradientTransformation],
    ema_widths: tuple[float, ...] = (0.05, 0.10),
    microbatch: int = 0,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, Array]]:
    """One update of every part, with forced weight normalisation and EMAs.

    Random keys belong to the examples: `fold_in(fold_in(key, step), index)`. Means are
    `psum(sum * mask) / psum(mask)`, gradients included, so the result does not depend on how a
    batch is spread over devices. A non-finite loss or gradient leaves parameters, optimisers and
    averages as they were, and is counted.

    Args:
      state: the state before.
      batch: this device's share of the global batch.
      key: of the run, the same on every device and at every step.
      loss_fn: `(params, batch, keys [B]) -> ([B] losses, dict of [B] diagnostics)`.
      optimizer: one for each part of `state.params`.
      ema_widths: relative widths of the averages (arXiv 2312.02696, section 3.1).
      microbatch: examples of `batch` whose gradient is taken at once; 0 takes that of all.
      axis_name: of the device axis, or None for a single device.

    Returns:
      The state after, and scalar metrics: "loss", "gradient_norm", "parameter_norm" after the
      update, "nonfinite", "nonfinite_in_a_row", the mean of each diagnostic, and for each top-level
      module of each part "gradient_norm/PART/MODULE"; with a classifier beside other parts also its
      own "classifier_gradient_norm".

    Raises:
      InputError: `microbatch` does not divide the size of `batch`.
      AssertionError: losses or diagnostics have lost the batch axis.
    """

    def total(x):
        return x if axis_name is None else lax.psum(x, axis_name)

    step_key = jax.random.fold_in(key, state.step)
    keys = jax.vmap(lambda index: jax.random.fold_in(step_key, index))(batch.index)

    def objective(params, batch, keys):
        def masked_sum(x):
            return jnp.sum(jnp.where(batch.mask > 0, x, 0.0))

        losses, aux = loss_fn(params, batch, keys)
        chex.assert_equal_shape_prefix([batch.mask, losses, *aux.values()], 1)
        return masked_sum(losses), jax.tree.map(masked_sum, aux)

    value_and_gradient = functools.partial(
        jax.value_and_grad(objective, has_aux=True), state.params
    )
    (loss_sum, aux_sums), gradients = accumulated(value_and_gradient, microbatch, batch, keys)
    num_examples = total(jnp.sum(batch.mask))
    loss, aux, gradients = jax.tree.map(
        lambda x: total(x) / num_examples, (loss_sum, aux_sums, gradients)
    )

    gradient_norm = optax.tree.norm(gradients)
    finite = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)
    params, opt_state = {}, {}
    for part, gradient in gradients.items():
        updates, opt_state[part] = optimizer[part].update(
            gradient, state.opt_state[part], state.params[part]
        )
        params[part] = optax.apply_updates(state.params[part], updates)
    params = normalize_weights(params)
    averages = ema.update(state.ema, params, state.step + 1, ema_widths)
    params, opt_state, averages = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        (params, opt_state, averages),
        (state.params, state.opt_state, state.ema),
    )
    bad = 1 - finite.astype(jnp.int32)
    state = TrainState(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        ema=averages,
        nonfinite=state.nonfinite + bad,
        nonfinite_in_a_row=(state.nonfinite_in_a_row + 1) * bad,
    )
    metrics = {
        "loss": loss,
        "gradient_norm": gradient_norm,
        "parameter_norm": optax.tree.norm(params),
        "nonfinite": state.nonfinite,
        "nonfinite_in_a_row": state.nonfinite_in_a_row,
        **aux,
    }
    if "classifier" in gradients and len(gradients) > 1:
        metrics["classifier_gradient_norm"] = optax.tree.norm(gradients["classifier"])
    for part, modules in gradients.items():
        for name, gradient in modules.items():
            metrics[f"gradient_norm/{part}/{name}"] = optax.tree.norm(gradient)
    return state, metrics
