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


def found() -> list[jax.Device]:
    """All devices of all processes, those of a process together; ask for them before any work.

    Raises:
      InputError: there are several processes that do not know of each other; each would train, or
        sample, a model of its own.
      RunError: there are no devices of the platform that was asked for.
    """
    try:
        processes = jax.process_count()
    except RuntimeError as error:  # JAX_PLATFORMS names what is not there.
        raise RunError(f"JAX finds no devices: {str(error).splitlines()[0]}") from error
    if processes > 1 and not jax.distributed.is_initialized():
        raise InputError(
            f"JAX runs in {processes} processes that do not know of each other; start each with "
            "--coordinator, --processes and --process, or call jax.distributed.initialize() first."
        )
    # JAX's own order may go back and forth between processes.
    return sorted(jax.devices(), key=lambda device: device.process_index)


def memory() -> dict[str, int]:
    """Bytes in use now and at most since the start, the highest of this process's devices.

    JAX's names and values; empty where the platform does not count them, as a CPU.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    names = ("bytes_in_use", "peak_bytes_in_use")
    return {name: max(s[name] for s in stats) for name in names if all(name in s for s in stats)}


def own(size: int) -> slice:
    """This process's part of `size` things that are divided among all devices in their order."""
    everywhere, here = found(), jax.process_index()
    owners = [device.process_index for device in everywhere]
    first, num, each = owners.index(here), owners.count(here), size // len(everywhere)
    return slice(first * each, (first + num) * each)


def highest(value: int) -> int:
    """The highest value of all processes, each of which must ask at the same point."""
    if jax.process_count() == 1:
        return value
    values = np.full(jax.local_device_count(), value, np.int32)
    return int(_highest()(values).addressable_data(0)[0])


@functools.cache
def _highest():
    return jax.pmap(lambda x: lax.pmax(x, AXIS), axis_name=AXIS, devices=found())


def of_first(tree: PyTree) -> PyTree:
    """The first process's arrays for all, bit for bit; the others pass some of the same shapes."""
    if jax.process_count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    content = b"".join(leaf.tobytes() for leaf in leaves)
    words = np.frombuffer(content + bytes(-len(content) % 4), np.uint32)
    if jax.process_index() > 0:
        words = np.zeros_like(words)
    num_here = jax.local_device_count()
    share = np.zeros((num_here, words.size), np.uint32)
    share[0] = words
    total = jax.pmap(lambda x: lax.psum(x, AXIS), axis_name=AXIS, devices=found())(share)
    content = np.asarray(total.addressable_data(0))[0].tobytes()
    ends = np.cumsum([leaf.nbytes for leaf in leaves])
    parts = [
        np.frombuffer(content[end - leaf.nbytes : end], leaf.dtype).reshape(leaf.shape)
        for leaf, end in zip(leaves, ends, strict=True)
    ]
    return jax.tree.unflatten(structure, parts)


def replicate(tree: PyTree, num_devices: int | None = None) -> PyTree:
    """One copy of `tree`, the same in all processes, on each device, as `pmap` lays it out.

    (Another layout, such as that of `flax.jax_utils.replicate`, would compile every step twice.)
    """
    devices = found()[:num_devices]
    return _copier(tuple(devices))(np.zeros(len(_here(devices))), tree)


# A function that is new to JAX is compiled at each call, and what was compiled is kept for ever.
@functools.cache
def _copier(devices):
    return jax.pmap(lambda _, x: x, axis_name=AXIS, in_axes=(0, None), devices=devices)


def _here(devices):
    return [device for device in devices if device.process_index == jax.process_index()]


def unreplicate(tree: PyTree) -> PyTree:
    """The first device's copy of a replicated pytree, as NumPy arrays."""
    return jax.tree.map(lambda x: np.asarray(x.addressable_data(0))[0], tree)


def is_finite(tree: PyTree) -> bool:
    """Whether all of the first device's copy of a replicated pytree is finite; it stays there."""
    return bool(_all_finite([x.addressable_data(0) for x in jax.tree.leaves(tree)]))


@jax.jit
def _all_finite(leaves):
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]))


def make_train_steps(
    train_step: TrainStep, num_devices: int | None = None
) -> Callable[[PyTree, Batch, Array], tuple[PyTree, dict[str, Array]]]:
    """Several train steps in one call, spread over devices.

    Args:
      train_step: `(state, batch, key, axis_name=...) -> (state, metrics)`.
      num_devices: how many devices to use; None uses all.

    Returns:
      `(replicated state, batches, key) -> (replicated state, metrics)`, where each leaf of
      `batches` is `[S, B, ...]`, S the steps and B this process's part of the batch, see `own`.
      Each metric is `[S]` on the host once fetched. The state passed in is donated.
    """
    devices = found()[:num_devices]
    num_here = len(_here(devices))
    mapped = mapped_train_steps(train_step, devices)
    # In one program: a network of many blocks has many metrics.
    first = jax.jit(lambda tree: jax.tree.map(lambda x: x[0], tree))

    def run(state, batches, key):
        state, metrics = mapped(state, split_batches(batches, num_here), key)
        return state, first(jax.tree.map(lambda x: x.addressable_data(0), metrics))

    return run


def mapped_train_steps(train_step: TrainStep, devices: list[jax.Device]) -> jax.stages.Wrapped:
    """What `make_train_steps` compiles: its arguments and results lead with an axis of devices."""

    def steps(state, batches, key):
        def body(state, batch):
            return train_step(state, batch, key, axis_name=AXIS)

        return lax.scan(body, state, batches)

    return jax.pmap(steps, axis_name=AXIS, in_axes=(0, 0, None), donate_argnums=0, devices=devices)


def side_by_side(
    fn: Callable[..., PyTree],
    count: int,
    in_axes: tuple[int | None, ...],
    donate_argnums: tuple[int, ...] = (),
) -> Callable[..., PyTree]:
    """`fn` on each of this process's first `count` devices at once, each for itself.

    Args:
      fn: takes positional pytrees of arrays.
      count: at least 1, at most the devices of this process.
      in_axes: for each argument 0, where it leads with an axis of devices, or None, where all get
        the same.
      donate_argnums: arguments whose buffers the results may take.
    """
    devices = jax.local_devices()[:count]
    return jax.pmap(fn, in_axes=in_axes, donate_argnums=donate_argnums, devices=devices)


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
    """`fn(shared, *examples)` over any number of examples, on all devices of all processes.

    Args:
      fn: treats each example by itself and returns a pytree with leading B; `shared` is a pytree
        that every device gets whole.
      batch_size: most examples in one call over all devices; rounded up to a multiple of them.
      together: every device gets all examples of a call, `batch_size` of them as it is; `fn`
        divides what there is to do over the axis `AXIS`, and returns the same on each.

    Returns:
      `(shared, *examples, poll=None) -> [N, ...]` NumPy arrays, where each argument in `examples`
      is a pytree with leading N. Calls are of one size, see `call_size`, and so one compiled
      program; the last is padded by repeating examples. `poll()` runs before each call. All
      processes must pass the same, and get all results.
    """
    devices = found()
    several = _several(devices)
    parts = 1 if together else len(devices)
    mapped = mapped_examples(fn, devices, together)

    def gather(x):
        if together:
            return np.asarray(x.addressable_data(0))[0]
        by_device = np.asarray(x.addressable_data(0))[0] if several else np.asarray(x)
        return np.concatenate(list(by_device))

    def run(shared, *examples, poll=None):
        num = jax.tree.leaves(examples)[0].shape[0]
        size = call_size(num, batch_size, parts)
        shared = replicate(shared)
        outputs = []
        for start in range(0, num, size):
            if poll is not None:
                poll()
            take = (np.arange(start, start + size) % num).reshape(parts, -1)
            if not together:
                take = take[own(parts)]

            def pick(x, take=take):
                return x[take]

            output = mapped(shared, jax.tree.map(pick, examples))
            outputs.append(jax.tree.map(gather, output))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:num], *outputs)

    return run


def call_size(num: int, batch_size: int, parts: int = 1) -> int:
    """How many examples each call takes, so that little is computed that nobody asked for.

    They are spread evenly over as few calls as there can be, and the size is rounded up to eighths
    of a batch: each size is a program of its own, whose compilation takes longer than a few
    examples more.

    Args:
      num: of examples in all, 1 or more.
      batch_size: most in a call.
      parts: into which a call is divided, a whole number of examples each.
    """
    most = -(-batch_size // parts) * parts
    even = -(-num // -(-num // most))
    step = -(-most // (8 * parts)) * parts
    return min(-(-even // step) * step, most)


def mapped_examples(
    fn: Callable[..., PyTree], devices: list[jax.Device], together: bool = False
) -> jax.stages.Wrapped:
    """What `map_examples` compiles: its arguments and results lead with an axis of devices."""

    @functools.partial(
        jax.pmap, axis_name=AXIS, in_axes=(0, None if together else 0), devices=devices
    )
    def mapped(shared, examples):
        if together:
            return fn(shared, *jax.tree.map(lambda x: x[0], examples))
        results = fn(shared, *examples)
        return lax.all_gather(results, AXIS) if _several(devices) else results

    return mapped


def _several(devices):
    """Whether they are of several processes."""
    return len({device.process_index for device in devices}) > 1


def outnumber(batch_size: int) -> bool:
    """Whether there are more devices than examples, so that some would have none."""
    return len(found()) > batch_size


def example_keys(seed: int, num: int, first: int = 0) -> Array:
    """Typed keys `[N]` of samples `first .. first + num - 1`: `fold_in(key(seed), i)`."""
    return _fold_in_each(jax.random.key(seed), first, num)


@functools.partial(jax.jit, static_argnums=2)
def _fold_in_each(key, first, num):
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(num))
