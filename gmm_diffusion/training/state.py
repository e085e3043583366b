"""What a training run carries from step to step."""

import jax
import jax.numpy as jnp
import optax
from flax import struct

from gmm_diffusion.networks import normalize_weights
from gmm_diffusion.types import Array, PyTree


@struct.dataclass
class TrainState:
    """One pytree; everything that a resumed run needs.

    Attributes:
      step: `[]` int32, batches seen.
      params: a dict of parts ("network", "log_variance"), float32.
      opt_state: a dict of the optimisers' states, one for each part.
      ema: tuple of averages of `params`, one for each width.
      nonfinite: `[]` int32, updates skipped so far for a non-finite loss or gradient.
      nonfinite_in_a_row: `[]` int32, of these, the ones just before `step`.
    """

    step: Array
    params: dict[str, PyTree]
    opt_state: dict[str, PyTree]
    ema: tuple[PyTree, ...]
    nonfinite: Array
    nonfinite_in_a_row: Array


def create(
    params: dict[str, PyTree], optimizer: dict[str, optax.GradientTransformation], num_emas: int
) -> TrainState:
    """The state at step 0: weights normalised, each average a copy of the parameters.

    Args:
      params: a dict of parts as their networks were initialised.
      optimizer: one for each part.
      num_emas: number of averages.
    """

    @jax.jit
    def make(params):
        params = normalize_weights(params)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state={part: optimizer[part].init(params[part]) for part in params},
            ema=tuple(params for _ in range(num_emas)),
            nonfinite=jnp.zeros((), jnp.int32),
            nonfinite_in_a_row=jnp.zeros((), jnp.int32),
        )

    return make(params)
