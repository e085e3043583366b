"""Checkpoints: written by orbax in the background, verified leaf by leaf when read.

A step holds three named items: `state` and `constants`, flat dictionaries of numpy arrays, and
`meta`, JSON with the caller's own entries and a checksum of every leaf, because orbax restores
changed bytes without an error. Plain numpy and flat names make a checkpoint independent of the
number of devices and of the classes that the optimiser's state is made of.
"""

import dataclasses
import json
import logging
import os
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from gmm_diffusion.errors import InputError, RunError
from gmm_diffusion.types import PyTree

log = logging.getLogger(__name__)

# Orbax writes this file last but one, before the step's directory gets its final name.
_COMPLETE = "_CHECKPOINT_METADATA"


@dataclasses.dataclass(frozen=True)
class Restored:
    """One verified checkpoint.

    Attributes:
      step: number of updates made.
      state: pytree of numpy arrays with the target's structure, or None if it was not asked for.
      constants: flat dict of numpy arrays, exactly as saved.
      meta: the JSON entries as saved.
    """

    step: int
    state: PyTree
    constants: dict[str, np.ndarray]
    meta: dict[str, Any]


class Store:
    """The checkpoints of one run; see `open`."""

    def __init__(self, directory: pathlib.Path, manager: ocp.CheckpointManager):
        self.directory = directory
        self._manager = manager
        self._damaged: set[int] = set()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            self.wait()
        except RunError as late:
            # What ended the run matters more than what then failed to be saved.
            if error is None:
                raise
            log.error("%s", late)
        finally:
            self._manager.close()

    def save(
        self, step: int, state: PyTree, constants: Mapping[str, np.ndarray], meta: Mapping[str, Any]
    ) -> None:
        """Saves one step, in the background unless opened otherwise.

        Damaged steps that `restore` walked past are deleted first: they would block this save.

        Args:
          step: number of updates made, larger than that of every checkpoint in the directory.
          state: pytree of arrays without a device axis; copied to the host here, so that its
            buffers may be donated right after.
          constants: flat dict of numpy arrays, possibly empty.
          meta: anything JSON can hold.

        Raises:
          RunError: the checkpoint, or the one before it, could not be written.
        """
        items = {
            "state": _flatten(jax.device_get(state)),
            "constants": {name: np.asarray(value) for name, value in constants.items()},
        }
        entries = json.loads(json.dumps(dict(meta)))
        record = {
            "meta": entries,
            "meta_crc32": _text_checksum(entries),
            "leaves": {
                item: {name: _fingerprint(value) for name, value in leaves.items()}
                for item, leaves in items.items()
            },
        }
        # An array or a tree without elements makes orbax raise, and then wait five minutes for
        # itself at exit; the record's shapes are enough to make them again.
        stored = {
            item: {name: value for name, value in leaves.items() if value.size}
            for item, leaves in items.items()
        }
        args = {item: ocp.args.StandardSave(leaves) for item, leaves in stored.items() if leaves}
        try:
            for damaged in sorted(self._damaged):
                log.warning("Deleting the damaged checkpoint %d.", damaged)
                self._manager.delete(damaged)
            self._damaged.clear()
            saved = self._manager.save(
                step, args=ocp.args.Composite(meta=ocp.args.JsonSave(record), **args)
            )
        except Exception as error:
            raise RunError(
                f"The checkpoint of step {step} could not be written to {self.directory}:"
                f" {_first_line(error)}"
            ) from error
        if not saved:
            raise RunError(
                f"The checkpoint of step {step} was not written to {self.directory}, which already"
                f" holds step {self._manager.latest_step()}."
            )

    def restore(self, target: PyTree) -> Restored | None:
        """The newest good checkpoint, or None if there is no step in the directory.

        Damaged or incomplete steps are skipped with a warning, and deleted by the next `save`.

        Args:
          target: pytree of arrays or `jax.ShapeDtypeStruct`, as for `restore_step`.

        Raises:
          InputError: no step is good, or the newest good one does not fit the target.
        """
        self.wait()
        restored, damaged = _newest(self.directory, target)
        self._damaged = set(damaged)
        return restored

    def latest_step(self) -> int | None:
        """The newest step saved, or being saved, that `restore` has not found damaged."""
        return max(set(self._manager.all_steps()) - self._damaged, default=None)

    def restore_constants_and_meta(self, step: int | None = None) -> Restored | None:
        """`restore_constants_and_meta` in this store's directory, after pending saves."""
        self.wait()
        return restore_constants_and_meta(self.directory, step)

    def restore_step(self, step: int, target: PyTree) -> Restored:
        """`restore_step` in this store's directory, after pending saves."""
        self.wait()
        return restore_step(self.directory, step, target)

    def wait(self) -> None:
        """Returns when every save is on disk.

        Raises:
          RunError: a save failed in the background.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise RunError(
                f"A checkpoint could not be written to {self.directory}: {_first_line(error)}"
            ) from error


def open(directory: str | os.PathLike, keep: int = 3, asynchronous: bool = True) -> Store:
    """Opens a directory of checkpoints for `with open(...) as store`, making it if need be.

    Leaving the block, also by an exception, waits for pending saves.

    Args:
      directory: holds one directory a step and nothing else.
      keep: the newest checkpoints that stay, at least 1.
      asynchronous: write in a background thread.
    """
    # Orbax takes a relative path here and fails on it later, in its thread.
    path = pathlib.Path(directory).absolute()
    path.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, enable_async_checkpointing=asynchronous
    )
    return Store(path, ocp.CheckpointManager(path, options=options))


def steps(directory: str | os.PathLike) -> list[int]:
    """The steps that have a directory, ascending; not every one needs to be good."""
    path = pathlib.Path(directory)
    if not path.is_dir():
        return []
    return sorted(int(p.name) for p in path.iterdir() if p.is_dir() and p.name.isdecimal())


def restore_step(
    directory: str | os.PathLike, step: int, target: PyTree, partial: bool = False
) -> Restored:
    """One chosen checkpoint.

    Args:
      directory: as given to `open`.
      step: one of `steps(directory)`.
      target: pytree of arrays or `jax.ShapeDtypeStruct` with the shapes and dtypes expected.
        Nodes are matched by name: a dict `{"params": ...}` fits a state with that attribute.
      partial: take what the target names and leave the rest, for example the optimiser's state.

    Returns:
      The checkpoint, its state numpy arrays in the target's structure.

    Raises:
      InputError: the step is missing or damaged, or does not fit the target.
    """
    state, constants, meta = _chosen(directory, step)
    return Restored(step, _fit(directory, step, state, target, partial), constants, meta)


def restore_constants_and_meta(
    directory: str | os.PathLike, step: int | None = None
) -> Restored | None:
    """Constants and meta, needed to build the target for the state.

    Args:
      directory: as given to `open`.
      step: one of `steps(directory)`; None takes the newest good one.

    Returns:
      A checkpoint whose state is None; None if no step was chosen and the directory has none.

    Raises:
      InputError: the chosen step is missing or damaged, or no step is good.
    """
    if step is None:
        return _newest(directory, None)[0]
    _, constants, meta = _chosen(directory, step)
    return Restored(step, None, constants, meta)


class _Damaged(Exception):
    """Why a step on disk cannot be used."""


def _newest(
    directory: str | os.PathLike, target: PyTree | None
) -> tuple[Restored | None, dict[int, str]]:
    """The newest good checkpoint and the damaged ones above it, with reasons."""
    damaged: dict[int, str] = {}
    for step in reversed(steps(directory)):
        try:
            state, constants, meta = _read(directory, step)
        except _Damaged as reason:
            log.warning("Skipping checkpoint %d in %s: %s", step, directory, reason)
            damaged[step] = str(reason)
            continue
        if target is not None:
            state = _fit(directory, step, state, target, partial=False)
        else:
            state = None
        return Restored(step, state, constants, meta), damaged
    if damaged:
        reasons = "; ".join(f"step {step}: {reason}" for step, reason in damaged.items())
        raise InputError(
            f"No checkpoint in {directory} can be restored ({reasons}); nothing was deleted."
        )
    return None, damaged


def _chosen(directory: str | os.PathLike, step: int) -> tuple[dict, dict, dict]:
    available = steps(directory)
    if step not in available:
        listing = ", ".join(map(str, available)) or "none"
        raise InputError(
            f"There is no checkpoint of step {step} in {directory}; available: {listing}."
        )
    try:
        return _read(directory, step)
    except _Damaged as reason:
        raise InputError(f"Checkpoint {step} in {directory} is damaged: {reason}.") from reason


def _read(directory: str | os.PathLike, step: int) -> tuple[dict, dict, dict]:
    """Flat state, constants and meta of one step, verified against its record."""
    path = pathlib.Path(directory).absolute() / str(step)
    if not (path / _COMPLETE).is_file():
        raise _Damaged(f"it is incomplete, without {_COMPLETE}")
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            record = reader.restore(path, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
            names = [
                item
                for item in ("state", "constants")
                if any(0 not in leaf["shape"] for leaf in record["leaves"][item].values())
            ]
            stored = {}
            if names:
                args = {item: ocp.args.StandardRestore() for item in names}
                stored = dict(reader.restore(path, args=ocp.args.Composite(**args)).items())
        if _text_checksum(record["meta"]) != record["meta_crc32"]:
            raise _Damaged("the checksum of meta differs")
        items = [
            _verify(item, record["leaves"][item], stored.get(item, {}))
            for item in ("state", "constants")
        ]
    except _Damaged:
        raise
    except Exception as error:
        raise _Damaged(f"{type(error).__name__}: {_first_line(error)}") from error
    return items[0], items[1], record["meta"]


def _verify(item: str, record: dict[str, dict], stored: dict[str, Any]) -> dict[str, np.ndarray]:
    leaves = {}
    for name, expected in record.items():
        if 0 in expected["shape"]:
            leaves[name] = np.zeros(expected["shape"], jax.numpy.dtype(expected["dtype"]))
            continue
        leaves[name] = np.asarray(stored[name])
        found = _fingerprint(leaves[name])
        for field in ("shape", "dtype", "crc32"):
            if found[field] != expected[field]:
                raise _Damaged(
                    f"the {field} of {item} leaf {name} is {found[field]}, recorded was"
                    f" {expected[field]} (sums {found['sum']} and {expected['sum']})"
                )
    return leaves


def _fit(
    directory: str | os.PathLike, step: int, state: dict, target: PyTree, partial: bool
) -> PyTree:
    """The flat state in the target's structure."""

    def refuse(reason):
        raise InputError(f"Checkpoint {step} in {directory} does not fit this model: {reason}.")

    paths, structure = jax.tree_util.tree_flatten_with_path(target)
    wanted = {_name(path): leaf for path, leaf in paths}
    for name, leaf in wanted.items():
        leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        if name not in state:
            refuse(f"it has no leaf {name}")
        found = state[name]
        if found.shape != tuple(leaf.shape) or found.dtype != leaf.dtype:
            refuse(
                f"leaf {name} is {found.dtype} {list(found.shape)} in the checkpoint and"
                f" {leaf.dtype} {list(leaf.shape)} here{_precision(found.dtype, leaf.dtype)}"
            )
    extra = sorted(state.keys() - wanted.keys())
    if extra and not partial:
        refuse(f"its leaf {extra[0]} has no place here")
    return structure.unflatten([state[name] for name in wanted])


def _precision(stored, here) -> str:
    """What to do where two types differ in their precision alone."""
    if stored.kind != here.kind or {stored.itemsize, here.itemsize} != {4, 8}:
        return ""
    value = 1 if stored.itemsize == 8 else 0
    return f" (it was made with JAX_ENABLE_X64={value} in the environment, and needs the same)"


def _flatten(tree: PyTree) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {_name(path): np.asarray(leaf) for path, leaf in leaves}


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _fingerprint(array: np.ndarray) -> dict[str, Any]:
    """Shape, dtype, crc32 of the bytes, and the sum, which tells a person how far off they are."""
    array = np.asarray(array)
    octets = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    with np.errstate(all="ignore"):  # A damaged leaf may hold anything.
        total = float(array.astype(np.float64).sum())
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "crc32": zlib.crc32(octets),
        "sum": total if np.isfinite(total) else str(total),
    }


def _text_checksum(entries: dict) -> int:
    return zlib.crc32(json.dumps(entries, sort_keys=True).encode())


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
