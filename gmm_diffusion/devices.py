"""Everything that knows how many devices there are; the only use of `pmap`."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gmm_diffusion.errors import InputError, RunError
from gmm_diffusion.types import Array, Batch, PyTree, TrainStep

AXIS = "devices"


def local() -> list[jax.Device]:
    """All devices. To be called before any work, since it refuses to be one of several processes.

    Raises:
      InputError: there are several processes; each would train, or sample, a model of its own.
      RunError: there are no devices of the platform that was asked for.
    """
    try:
        processes = jax.process_count()
    except RuntimeError as error:  # JAX_PLATFORMS names what is not there.
        raise RunError(f"JAX finds no devices: {str(error).splitlines()[0]}") from error
    if processes > 1:
        raise InputError(
            f"JAX runs in {processes} processes, which are not supported; start one "
            "process, with all devices of one machine."
        )
    return jax.local_devices()


def replicate(tree: PyTree, num_devices: int | None = None) -> PyTree:
    """One copy of `tree` on each device, laid out as `pmap` returns it.

    (Another layout, such as that of `flax.jax_utils.replicate`, would compile every step twice.)
    """
    devices = local()[:num_devices]
    copy = jax.pmap(lambda _, x: x, axis_name=AXIS, in_axes=(0, None), devices=devices)
    return copy(np.zeros(len(devices)), tree)


def unreplicate(tree: PyTree) -> PyTree:
    """The first device's copy of a replicated pytree, as NumPy arrays."""
    return jax.tree.map(lambda x: np.asarray(x.addressable_data(0))[0], tree)


def make_train_steps(
    train_step: TrainStep, num_devices: int | None = None
) -> Callable[[PyTree, Batch, Array], tuple[PyTree, dict[str, Array]]]:
    """Several train steps in one call, spread over devices.

    Args:
      train_step: `(state, batch, key, axis_name=...) -> (state, metrics)`.
      num_devices: how many devices to use; None uses all.

    Returns:
      `(replicated state, batches, key) -> (replicated state, metrics)`, where each leaf of
      `batches` is `[S, B, ...]`, S the steps, and each metric is `[S]` on the host once fetched.
      The state passed in is donated.
    """
    devices = local()[:num_devices]

    def steps(state, batches, key):
        def body(state, batch):
            return train_step(state, batch, key, axis_name=AXIS)

        return lax.scan(body, state, batches)

    mapped = jax.pmap(
        steps, axis_name=AXIS, in_axes=(0, 0, None), donate_argnums=0, devices=devices
    )

    def run(state, batches, key):
        state, metrics = mapped(state, split_batches(batches, len(devices)), key)
        return state, jax.tree.map(lambda x: x.addressable_data(0)[0], metrics)

    return run


def split_batches(batches: PyTree, num_devices: int) -> PyTree:
    """Leaves `[S, B, ...] -> [devices, S, B / devices, ...]`.

    Raises:
      ValueError: if B is not divisible by the number of devices.
    """

    def split(x):
        steps, size = x.shape[:2]
        if size % num_devices:
            raise ValueError(
                f"training.batch_size is {size}; it must be a multiple of the "
                f"{num_devices} devices."
            )
        x = np.asarray(x).reshape(steps, num_devices, size // num_devices, *x.shape[2:])
        return x.swapaxes(0, 1)

    return jax.tree.map(split, batches)


def map_examples(
    fn: Callable[..., PyTree], batch_size: int, together: bool = False
) -> Callable[..., PyTree]:
    """`fn(shared, *examples)` over any number of examples, on all devices.

    Args:
      fn: treats each example by itself and returns a pytree with leading B; `shared` is a pytree
        that every device gets whole.
      batch_size: examples in one call over all devices; rounded up to a multiple of them.
      together: every device gets all examples of a call, `batch_size` of them as it is; `fn`
        divides what there is to do over the axis `AXIS`, and returns the same on each.

    Returns:
      `(shared, *examples, poll=None) -> [N, ...]` NumPy arrays, where each argument in `examples`
      is a pytree with leading N. The last call is padded by repeating examples, so that there is
      one compiled program. `poll()` runs before each call.
    """
    devices = local()
    parts = 1 if together else len(devices)
    per_part = -(-batch_size // parts)
    size = per_part * parts

    @functools.partial(
        jax.pmap, axis_name=AXIS, in_axes=(0, None if together else 0), devices=devices
    )
    def mapped(shared, examples):
        return fn(shared, *(jax.tree.map(lambda x: x[0], examples) if together else examples))

    def gather(x):
        if together:
            return np.asarray(x.addressable_data(0))[0]
        return np.concatenate(list(np.asarray(x)))

    def run(shared, *examples, poll=None):
        num = jax.tree.leaves(examples)[0].shape[0]
        shared = replicate(shared)
        outputs = []
        for start in range(0, num, size):
            if poll is not None:
                poll()
            take = np.arange(start, start + size) % num

            def pick(x, take=take):
                return x[take].reshape(parts, per_part, *x.shape[1:])

            output = mapped(shared, jax.tree.map(pick, examples))
            outputs.append(jax.tree.map(gather, output))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:num], *outputs)

    return run


def outnumber(batch_size: int) -> bool:
    """Whether there are more devices than examples, so that some would have none."""
    return len(local()) > batch_size


def example_keys(seed: int, num: int, first: int = 0) -> Array:
    """Typed keys `[N]` of samples `first .. first + num - 1`: `fold_in(key(seed), i)`."""
    key = jax.random.key(seed)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(first, first + num))
