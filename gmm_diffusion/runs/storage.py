"""Checkpoints: written by orbax in the background, verified leaf by leaf when read.

A step holds three named items: `state` and `constants`, flat dictionaries of numpy arrays, and
`meta`, JSON with the caller's own entries and a checksum of every leaf, because orbax restores
changed bytes without an error. Plain numpy and flat names make a checkpoint independent of the
number of devices and of the classes that the optimiser's state is made of.

A step is damaged if all its files can be read and what they hold is wrong. It is never deleted:
training moves it to `damaged/STEP`. A step that cannot be read for another reason, such as
permissions, a disk that does not answer or too little memory, may well be good: reading ends
there, in a RunError, and nothing is touched.
"""

import contextlib
import dataclasses
import errno
import json
import logging
import os
import pathlib
import shutil
import tempfile
import threading
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from gmm_diffusion.errors import InputError, RunError, read_fault
from gmm_diffusion.runs.workdir import PROBE_PREFIX
from gmm_diffusion.types import PyTree

log = logging.getLogger(__name__)

# Orbax writes this file last but one, before the step's directory gets its final name.
_COMPLETE = "_CHECKPOINT_METADATA"

# Beside the steps; not a number, so that it is not taken for one.
_DAMAGED_FOLDER = "damaged"

# Orbax merges files by a pattern with the path in it, and takes a backslash for a slash.
_TAKEN_FOR_PATTERNS = frozenset("[]*?\\")

# Orbax's threads wait up to five minutes for one another after one of them has failed.
_CLOSING_SECONDS = 10.0

# What orbax raises for files that are there and hold something else than they should. tensorstore
# puts all its errors into ValueErrors, with a word for the kind in front.
_WRONG_CONTENT = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    NotImplementedError,
    RecursionError,
)
_NOT_CONTENT = (
    "ABORTED",
    "CANCELLED",
    "DEADLINE_EXCEEDED",
    "INTERNAL",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "UNAUTHENTICATED",
    "UNAVAILABLE",
    "UNKNOWN",
)


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
        self, step: int, state: PyTree, constants: Mapping[str, np.ndarray], meta: Mapping[str, Any]
    ) -> None:
        """Saves one step, in the background unless opened otherwise.

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
        self.wait()
        try:
            saved = self._manager.save(
                step, args=ocp.args.Composite(meta=ocp.args.JsonSave(record), **args)
            )
        except Exception as error:
            self._forget_failed()
            raise RunError(
                f"The checkpoint of step {step} could not be written to {self.directory}:"
                f" {_cause(error)}"
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
            _move_aside(self.directory, step)
        if damaged:
            self._manager.reload()
        return restored

    def latest_step(self) -> int | None:
        """The newest step saved, or being saved."""
        return max(self._manager.all_steps(), default=None)

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
            self._forget_failed()
            which = "A checkpoint" if self._newest is None else f"The checkpoint {self._newest}"
            raise RunError(
                f"{which} could not be written to {self.directory}: {_cause(error)}"
            ) from error

    def _forget_failed(self):
        """Steps that failed to be saved count no more as there."""
        self._failed = True
        with contextlib.suppress(Exception):
            self._manager.reload()


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
    path = pathlib.Path(directory).absolute()
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, enable_async_checkpointing=asynchronous
    )
    with contextlib.ExitStack() as route:
        try:
            path.mkdir(parents=True, exist_ok=True)
            manager = ocp.CheckpointManager(route.enter_context(_passable(path)), options=options)
        except Exception as error:
            raise RunError(f"Checkpoints cannot be kept in {directory}: {_cause(error)}") from error
        return Store(path, manager, route.pop_all())


def check_saving(directory: str | os.PathLike) -> None:
    """Saves a small checkpoint below `directory`, reads it back and removes it.

    It takes the route of the real ones, so that a run that could not save is refused before it
    trains. Steps, and whoever reads them meanwhile, are not disturbed.

    Raises:
      RunError: it could not be saved, or not be read.
    """
    path = pathlib.Path(directory).absolute()
    probe = {"probe": np.arange(3, dtype=np.float32)}
    made, folder = not path.exists(), None
    try:
        path.mkdir(parents=True, exist_ok=True)
        for left in path.glob(f"{PROBE_PREFIX}*"):
            shutil.rmtree(left)  # By a run that was killed here.
        folder = pathlib.Path(tempfile.mkdtemp(prefix=PROBE_PREFIX, dir=path))
        with open(folder) as store:
            store.save(1, probe, {}, {})
        state, _, _ = _read(folder, 1)
        if not np.array_equal(state["probe"], probe["probe"]):
            raise _Damaged("it holds other values")
    except (OSError, RunError, _Damaged) as error:
        raise RunError(
            f"A small checkpoint could not be saved to {directory} and read back, so the run was "
            f"not started: {_cause(error)}"
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):
                path.rmdir()


def steps(directory: str | os.PathLike) -> list[int]:
    """The steps that have a directory, ascending; not every one needs to be good.

    Raises:
      RunError: the directory cannot be read.
    """
    path = pathlib.Path(directory)
    try:
        if not path.is_dir():
            return []
        return sorted(int(p.name) for p in path.iterdir() if p.is_dir() and p.name.isdecimal())
    except OSError as error:
        raise RunError(
            f"The checkpoints in {directory} cannot be read, and nothing was touched: "
            f"{_cause(error)}"
        ) from error


def last_complete_step(directory: str | os.PathLike) -> int | None:
    """The newest step that is on disk as a whole, as far as can be told without reading it.

    Raises:
      RunError: the directory cannot be read.
    """
    path = pathlib.Path(directory)
    return max((step for step in steps(path) if _is_complete(path / str(step))), default=None)


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
    """Flat state, constants and meta of one step, verified against its record.

    Raises:
      _Damaged: what could be read is wrong.
      RunError: it could not be read.
    """
    path = pathlib.Path(directory).absolute() / str(step)
    try:
        try:
            return _read_once(path)
        except (*_WRONG_CONTENT, _Damaged):
            # A fault that passes is no damage: only what is wrong twice is.
            return _read_once(path)
    except Exception as error:
        try:
            fault = _unreadable(path, error)
        except OSError as listing:
            fault = listing
        if fault is None:
            if isinstance(error, _Damaged):
                raise
            raise _Damaged(f"{type(error).__name__}: {_first_line(error)}") from error
        raise RunError(
            f"Checkpoint {step} in {directory} cannot be read, which need not be its fault; "
            f"nothing was touched: {_cause(fault)}"
        ) from error


def _read_once(path):
    if not _is_complete(path):
        raise _Damaged(f"it is incomplete, without {_COMPLETE}")
    with (
        _passable(path) as passable,
        ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader,
    ):
        record = reader.restore(passable, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
        names = [
            item
            for item in ("state", "constants")
            if any(0 not in leaf["shape"] for leaf in record["leaves"][item].values())
        ]
        stored = {}
        if names:
            args = {item: ocp.args.StandardRestore() for item in names}
            stored = dict(reader.restore(passable, args=ocp.args.Composite(**args)).items())
    if _text_checksum(record["meta"]) != record["meta_crc32"]:
        raise _Damaged("the checksum of meta differs")
    items = [
        _verify(item, record["leaves"][item], stored.get(item, {}))
        for item in ("state", "constants")
    ]
    return items[0], items[1], record["meta"]


def _is_complete(path):
    try:
        return (path / _COMPLETE).stat() is not None
    except (FileNotFoundError, NotADirectoryError):
        return False


def _unreadable(path: pathlib.Path, error: Exception) -> Exception | None:
    """Why a step could not be read; None if it could, and what it holds is wrong."""
    if not isinstance(error, (*_WRONG_CONTENT, _Damaged)):
        return error
    if isinstance(error, ValueError) and str(error).startswith(_NOT_CONTENT):
        return error
    # Orbax says of some files that it cannot open that they are not there, or empty.
    for folder, _, names in os.walk(path, onerror=_raise):
        for name in names:
            if fault := read_fault(os.path.join(folder, name)):
                return fault
    return None


def _raise(error):
    raise error


@contextlib.contextmanager
def _passable(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path to the same directory that orbax takes as it is, through a link if need be."""
    try:
        odd = bool(_TAKEN_FOR_PATTERNS & set(str(path).encode().decode()))
    except UnicodeEncodeError:
        odd = True
    if not odd:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="gmm_diffusion_") as folder:
        link = pathlib.Path(folder) / "link"
        link.symlink_to(path, target_is_directory=True)
        yield link


def _move_aside(directory: pathlib.Path, step: int) -> None:
    """Moves a damaged step out of the way, to a name that is free."""
    folder = directory / _DAMAGED_FOLDER
    names = [str(step), *(f"{step}-{number}" for number in range(2, 1000))]
    try:
        folder.mkdir(exist_ok=True)
        new = next(folder / name for name in names if not os.path.lexists(folder / name))
        (directory / str(step)).rename(new)
    except OSError as error:
        raise RunError(
            f"The damaged checkpoint {step} could not be moved from {directory} to {folder}, and "
            f"nothing was lost: {_cause(error)}"
        ) from error
    log.warning("The damaged checkpoint %d is now %s.", step, new)


def _close_failed(manager):
    with contextlib.suppress(Exception):
        manager.close()


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


def _cause(error: Exception) -> str:
    """The words for an error that a person can act on, as the end of a sentence."""
    text = _first_line(error)
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{where}."
    # tensorstore says what the system said in the middle of a long line.
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.EIO):
        if os.strerror(code) in str(error):
            return f"{os.strerror(code)}."
    return text if text.endswith(".") else f"{text}."
