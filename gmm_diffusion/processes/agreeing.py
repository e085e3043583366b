"""Small values that processes tell each other; who asks waits until the others have come as far.

They go through JAX's coordination service, and not through the devices: there a process may wait
for another for as long as that takes, also before anything is known to be the same in both. Every
function here must be called by all processes, in the same order.
"""

import itertools
import json
import pathlib
import zlib
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed  # Its client has no public name; orbax uses the same.

import gmm_diffusion
from gmm_diffusion.errors import InputError
from gmm_diffusion.types import PyTree

T = TypeVar("T")

# A process that is lost is noticed otherwise; see `ending`.
_FOREVER_MS = 10 * 24 * 3600 * 1000
_MOST_DIFFERENCES = 5

_turns = itertools.count()


def client() -> Any:
    """JAX's client of the coordination service; None in a process by itself."""
    return distributed.global_state.client


def is_first() -> bool:
    """Whether this is the process that writes files and speaks."""
    return distributed.global_state.process_id == 0


def gather(value: str) -> list[str]:
    """The values of all processes, in their order."""
    if client() is None:
        return [value]
    turn, count = next(_turns), distributed.global_state.num_processes
    client().key_value_set(_key(turn, distributed.global_state.process_id), value)
    return [client().blocking_key_value_get(_key(turn, i), _FOREVER_MS) for i in range(count)]


def of_first(make: Callable[[], T]) -> T:
    """What `make()` returns in the first process, and in no other: anything that JSON can hold."""
    if client() is None:
        return make()
    key = _key(next(_turns), 0)
    if is_first():
        value = make()
        client().key_value_set(key, json.dumps(value))
        return value
    return json.loads(client().blocking_key_value_get(key, _FOREVER_MS))


def meet() -> None:
    """Waits until all have come here, for as long as that takes; devices do not wait for ever."""
    gather("")


def in_turn(make: Callable[[], T]) -> T:
    """`make()` of each process, of the first one before the others: they find what it fetched."""
    if is_first():
        made = make()
        meet()
        return made
    meet()
    return make()


def same(what: str, values: Callable[[], Mapping[str, Any]]) -> None:
    """Refuses processes that differ in named values, each anything that JSON can hold.

    Args:
      what: they are, for the message.
      values: makes them, by name; a process by itself does not.

    Raises:
      InputError: in all processes.
    """
    if client() is None:
        return
    first, *others = map(json.loads, gather(json.dumps(values())))
    for i, other in enumerate(others, start=1):
        different = [
            f"{name} is {first.get(name)!r} in process 0 and {other.get(name)!r} in process {i}"
            for name in {**first, **other}
            if first.get(name) != other.get(name)
        ]
        if different:
            more = len(different) - _MOST_DIFFERENCES
            listing = "; ".join(different[:_MOST_DIFFERENCES])
            raise InputError(
                f"{what} must be the same in all processes: {listing}"
                f"{f'; and {more} more' if more > 0 else ''}."
            )


def same_step(newest: Callable[[], T], chosen: Callable[[int], T]) -> T:
    """What the first process finds newest, read by all: another may appear meanwhile.

    Args:
      newest: returns None, or something with a `step`.
      chosen: the same of a given step.
    """
    if is_first():
        found: Any = newest()
        of_first(lambda: None if found is None else found.step)
        return found
    step: Any = of_first(lambda: None)
    read: Any = None if step is None else chosen(step)
    return read


def versions() -> dict[str, Any]:
    """What must be the same in all processes of a run for them to compute the same."""
    source = pathlib.Path(gmm_diffusion.__file__).parent
    text = b"".join(file.read_bytes() for file in sorted(source.rglob("*.py")))
    packages = ("jax", "jaxlib", "numpy", "flax", "optax")
    return {
        "the version of gmm_diffusion": gmm_diffusion.__version__,
        "the checksum of its source": zlib.crc32(text),
        **{f"the version of {name}": metadata.version(name) for name in packages},
        "the kind of devices": jax.local_devices()[0].device_kind,
        "the number of devices": jax.local_device_count(),
        "JAX_ENABLE_X64": jax.dtypes.canonicalize_dtype(float).itemsize == 8,
    }


def checksum(tree: PyTree) -> int:
    """Of every bit of a pytree of arrays."""
    found = 0
    for leaf in jax.tree.leaves(tree):
        found = zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data, found)
    return found


def _key(turn, process):
    return f"gmm_diffusion/told/{turn}/{process}"
