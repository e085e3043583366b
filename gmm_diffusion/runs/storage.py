"""Checkpoints: written by orbax in the background, verified leaf by leaf when read.

A step holds three named items: `state` and `constants`, which are the fitted statistics, both flat
dictionaries of numpy arrays, and `meta`, JSON with the caller's own entries and a checksum of every
leaf, because orbax restores changed bytes without an error. Plain numpy and flat names make a
checkpoint independent of the number of devices and processes, and of the classes that the
optimiser's state is made of. Of several processes, which all hold the same state, one saves.

A step is damaged if all its files can be read and what they hold is wrong. It is never deleted:
training moves it to `damaged/STEP`. A step that cannot be read for another reason, such as
permissions, a disk that does not answer or too little memory, may well be good: reading ends
there, in a RunError, and nothing is touched.
"""

import concurrent.futures
import contextlib
import dataclasses
import logging
import os
import pathlib
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from gmm_diffusion import paths
from gmm_diffusion.errors import InputError, RunError
from gmm_diffusion.runs import checkpoint_record
from gmm_diffusion.runs.checkpoint_files import last_complete_step, move_aside, passable, steps
from gmm_diffusion.runs.checkpoint_reading import alone, fit, read
from gmm_diffusion.runs.faults import Damaged, cause
from gmm_diffusion.types import PyTree

__all__ = [
    "Restored",
    "Store",
    "fit",
    "last_complete_step",
    "open",
    "restore_fitted_and_meta",
    "restore_leaves",
    "restore_step",
    "steps",
]

log = logging.getLogger(__name__)

# Orbax's threads wait up to five minutes for one another after one of them has failed.
_CLOSING_SECONDS = 10.0
# Threads of tensorstore wait for ever where memory is refused to them, and nobody would start the
# run again. No save takes so long: not 100 GB on a disk that takes 60 MB a second.
_SAVING_SECONDS = 1800.0


@dataclasses.dataclass(frozen=True)
class Restored:
    """One verified checkpoint.

    Attributes:
      step: number of updates made.
      state: pytree of numpy arrays with the target's structure, or None if it was not asked for.
      fitted: statistics, a flat dict of numpy arrays, exactly as saved.
      meta: the JSON entries as saved.
    """

    step: int
    state: PyTree
    fitted: dict[str, np.ndarray]
    meta: dict[str, Any]


class Store:
    """The checkpoints of one run; see `open`."""

    def __init__(
        self,
        directory: pathlib.Path,
        manager: ocp.CheckpointManager,
        route: contextlib.ExitStack | None = None,
    ):
        self.directory = directory
        self._manager = manager
        self._route = contextlib.ExitStack() if route is None else route
        self._failed = False
        self._stuck: TimeoutError | None = None
        self._newest: int | None = None

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        # Who does not wait for the run to save does not wait here, either.
        at_once = kind is KeyboardInterrupt
        with self._route:
            try:
                if not at_once:
                    self.wait()
            except RunError as late:
                # What ended the run matters more than what then failed to be saved.
                if error is None:
                    raise
                log.error("%s", late)
            except KeyboardInterrupt:
                at_once = True
                raise
            finally:
                self._close(at_once)

    def _close(self, at_once):
        if not (self._failed or at_once):
            self._manager.close()
            return
        closing = threading.Thread(target=_close_failed, args=(self._manager,), daemon=True)
        closing.start()
        closing.join(0 if at_once else _CLOSING_SECONDS)

    def save(
        self, step: int, state: PyTree, fitted: Mapping[str, np.ndarray], meta: Mapping[str, Any]
    ) -> None:
        """Saves one step, in the background unless opened otherwise.

        Args:
          step: number of updates made, larger than that of every checkpoint in the directory.
          state: pytree of arrays without a device axis; copied to the host here, so that its
            buffers may be donated right after.
          fitted: statistics, a flat dict of numpy arrays, possibly empty.
          meta: anything JSON can hold.

        Raises:
          RunError: the checkpoint, or the one before it, could not be written.
        """
        items = {
            "state": checkpoint_record.flatten(jax.device_get(state)),
            "constants": {name: np.asarray(value) for name, value in fitted.items()},
        }
        record = checkpoint_record.make(meta, items)
        # An array or a tree without elements makes orbax raise, and then wait five minutes for
        # itself at exit; the record's shapes are enough to make them again.
        stored = {
            item: {name: value for name, value in leaves.items() if value.size}
            for item, leaves in items.items()
        }
        args = {item: ocp.args.StandardSave(leaves) for item, leaves in stored.items() if leaves}
        self.wait()
        try:
            composite = ocp.args.Composite(meta=ocp.args.JsonSave(record), **args)
            saved = self._in_time(lambda: self._manager.save(step, args=composite))
        except Exception as error:
            self._forget_failed()
            raise RunError(
                f"The checkpoint of step {step} could not be written to {self.directory}:"
                f" {cause(error)}"
            ) from error
        if not saved:
            raise RunError(
                f"The checkpoint of step {step} was not written to {self.directory}, which already"
                f" holds step {self._manager.latest_step()}."
            )
        self._newest = step

    def restore(self, target: PyTree) -> Restored | None:
        """The newest good checkpoint, or None if there is no step in the directory.

        Damaged or incomplete steps above it are moved to `damaged`, which the log says: they would
        stand in the way of those that the run is going to save.

        Args:
          target: pytree of arrays or `jax.ShapeDtypeStruct`, as for `restore_step`.

        Raises:
          InputError: no step is good, or the newest good one does not fit the target.
          RunError: a step cannot be read, or a damaged one not be moved.
        """
        self.wait()
        restored, damaged = _newest(self.directory, target)
        for step in damaged:
            move_aside(self.directory, step)
        if damaged:
            self._manager.reload()
        return restored

    def latest_step(self) -> int | None:
        """The newest step saved, or being saved."""
        return max(self._manager.all_steps(), default=None)

    def restore_fitted_and_meta(self, step: int | None = None) -> Restored | None:
        """`restore_fitted_and_meta` in this store's directory, after pending saves."""
        self.wait()
        return restore_fitted_and_meta(self.directory, step)

    def restore_step(self, step: int, target: PyTree) -> Restored:
        """`restore_step` in this store's directory, after pending saves."""
        self.wait()
        return restore_step(self.directory, step, target)

    def wait(self) -> None:
        """Returns when every save is on disk.

        Raises:
          RunError: a save failed in the background, or does not end.
        """
        try:
            self._in_time(self._manager.wait_until_finished)
        except Exception as error:
            self._forget_failed()
            which = "A checkpoint" if self._newest is None else f"The checkpoint {self._newest}"
            raise RunError(
                f"{which} could not be written to {self.directory}: {cause(error)}"
            ) from error

    def _in_time(self, work: Callable[[], Any]) -> Any:
        """`work()` in a thread of its own, which is left alone where it does not end."""
        if self._stuck is not None:
            raise self._stuck
        done: concurrent.futures.Future[Any] = concurrent.futures.Future()
        threading.Thread(target=_fulfil, args=(done, work), daemon=True).start()
        ended, _ = concurrent.futures.wait([done], _SAVING_SECONDS)
        if not ended:
            self._stuck = TimeoutError(
                f"it has not ended after {_SAVING_SECONDS:,.0f} seconds, as where memory is refused"
            )
            raise self._stuck
        return done.result()

    def _forget_failed(self):
        """Steps that failed to be saved count no more as there."""
        self._failed = True
        if self._stuck is not None:
            return
        with contextlib.suppress(Exception):
            self._manager.reload()


def _fulfil(done, work):
    try:
        done.set_result(work())
    except BaseException as error:
        done.set_exception(error)


def _close_failed(manager):
    with contextlib.suppress(Exception):
        manager.close()


def open(directory: str | os.PathLike, keep: int = 3, asynchronous: bool = True) -> Store:
    """Opens a directory of checkpoints for `with open(...) as store`, making it if need be.

    Leaving the block, also by an exception other than KeyboardInterrupt, waits for pending saves;
    once one has failed, for a few seconds at most.

    Args:
      directory: holds one directory a step and nothing else.
      keep: the newest checkpoints that stay, at least 1.
      asynchronous: write in a background thread.

    Raises:
      RunError: the directory cannot be made or read.
    """
    # Orbax takes a relative path here and fails on it later, in its thread.
    path = paths.of(directory).absolute()
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        enable_async_checkpointing=asynchronous,
        # Orbax would give up a save whose folders a process that stands still makes too late.
        async_options=ocp.AsyncOptions(
            timeout_secs=int(_SAVING_SECONDS), create_directories_asynchronously=False
        ),
        multiprocessing_options=alone(),
        create=False,
    )
    with contextlib.ExitStack() as route:
        try:
            path.mkdir(parents=True, exist_ok=True)
            manager = ocp.CheckpointManager(route.enter_context(passable(path)), options=options)
        except Exception as error:
            raise RunError(f"Checkpoints cannot be kept in {directory}: {cause(error)}") from error
        return Store(path, manager, route.pop_all())


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
    state, fitted, meta = _chosen(directory, step)
    return Restored(step, fit(directory, step, state, target, partial), fitted, meta)


def restore_fitted_and_meta(
    directory: str | os.PathLike, step: int | None = None
) -> Restored | None:
    """Fitted statistics and meta, needed to build the target for the state.

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
    _, fitted, meta = _chosen(directory, step)
    return Restored(step, None, fitted, meta)


def restore_leaves(directory: str | os.PathLike, step: int | None = None) -> Restored | None:
    """As `restore_fitted_and_meta`, with the state as it was read: a flat dict for `fit`."""
    if step is None:
        return _newest(directory, None, leaves_too=True)[0]
    return Restored(step, *_chosen(directory, step))


def _newest(
    directory: str | os.PathLike, target: PyTree | None, leaves_too: bool = False
) -> tuple[Restored | None, dict[int, str]]:
    """The newest good checkpoint and the damaged ones above it, with reasons."""
    damaged: dict[int, str] = {}
    for step in reversed(steps(directory)):
        try:
            leaves, fitted, meta = read(directory, step)
        except Damaged as reason:
            log.warning("Skipping checkpoint %d in %s: %s", step, directory, reason)
            damaged[step] = str(reason)
            continue
        state: PyTree = leaves if leaves_too else None
        if target is not None:
            state = fit(directory, step, leaves, target, partial=False)
        return Restored(step, state, fitted, meta), damaged
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
        return read(directory, step)
    except Damaged as reason:
        raise InputError(f"Checkpoint {step} in {directory} is damaged: {reason}.") from reason
