"""The folders of checkpoints: which steps there are, and where damaged ones go."""

import contextlib
import logging
import os
import pathlib
import tempfile
from collections.abc import Iterator

from gmm_diffusion import paths
from gmm_diffusion.errors import RunError
from gmm_diffusion.runs.faults import cause

log = logging.getLogger(__name__)

# Orbax writes this file last but one, before the step's directory gets its final name.
_COMPLETE = "_CHECKPOINT_METADATA"
# In a bucket, where nothing gets another name, it is the last one.
_COMPLETE_IN_BUCKET = "commit_success.txt"

# Beside the steps; not a number, so that it is not taken for one.
_DAMAGED_FOLDER = "damaged"

# Orbax merges files by a pattern with the path in it, and takes a backslash for a slash.
_TAKEN_FOR_PATTERNS = frozenset("[]*?\\")


def steps(directory: str | os.PathLike) -> list[int]:
    """The steps that have a directory, ascending; not every one needs to be good.

    Raises:
      RunError: the directory cannot be read.
    """
    path = paths.of(directory)
    try:
        if not path.is_dir():
            return []
        return sorted(int(p.name) for p in path.iterdir() if p.name.isdecimal() and p.is_dir())
    except OSError as error:
        raise RunError(
            f"The checkpoints in {directory} cannot be read, and nothing was touched: "
            f"{cause(error)}"
        ) from error


def last_complete_step(directory: str | os.PathLike) -> int | None:
    """The newest step that is on disk as a whole, as far as can be told without reading it.

    Raises:
      RunError: the directory cannot be read.
    """
    path = paths.of(directory)
    return max((step for step in steps(path) if is_complete(path / str(step))), default=None)


def last_file(path: pathlib.Path) -> str:
    """The file of a step without which it is not whole."""
    return _COMPLETE_IN_BUCKET if paths.in_bucket(path) else _COMPLETE


def is_complete(path: pathlib.Path) -> bool:
    """Whether the directory of a step is whole, as far as can be told without reading it."""
    try:
        return (path / last_file(path)).stat() is not None
    except (FileNotFoundError, NotADirectoryError):
        return False


def move_aside(directory: pathlib.Path, step: int) -> None:
    """Moves a damaged step out of the way, to a name that is free.

    Raises:
      RunError: it could not be moved.
    """
    folder = directory / _DAMAGED_FOLDER
    names = [str(step), *(f"{step}-{number}" for number in range(2, 1000))]
    try:
        folder.mkdir(exist_ok=True)
        new = next(folder / name for name in names if not _is_there(folder / name))
        (directory / str(step)).rename(new)
    except OSError as error:
        raise RunError(
            f"The damaged checkpoint {step} could not be moved from {directory} to {folder}, and "
            f"nothing was lost: {cause(error)}"
        ) from error
    log.warning("The damaged checkpoint %d is now %s.", step, new)


def _is_there(path):
    return path.exists() if paths.in_bucket(path) else os.path.lexists(path)


@contextlib.contextmanager
def passable(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path to the same directory that orbax takes as it is, through a link if need be."""
    if paths.in_bucket(path):
        yield path  # `expand` has let no such name through.
        return
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
