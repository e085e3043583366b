"""Paths that a person types, in a flag or a config: what they mean, and whether they can be used.

`~` and `~user` are the home directories of the system. A relative path is relative to the current
directory; only `evaluation.judge_dir` is relative to the run. What is stored with a run is absolute
(`config.with_paths`), so that it means the same from any directory.
"""

import contextlib
import errno
import os
import pathlib
import stat
import tempfile
from collections.abc import Iterator

from gmm_diffusion.errors import InputError, RunError

# Of one name, on every common file system.
_LONGEST_NAME = 255

_REASONS = {
    errno.ENAMETOOLONG: "which is too long for the file system",
    errno.ENOTDIR: "of which a part is a file and no directory",
    errno.EACCES: "which may not be read (permission denied)",
    errno.EPERM: "which may not be read (permission denied)",
    errno.ELOOP: "where links go round in a circle",
}


def expand(text: str | os.PathLike, name: str) -> pathlib.Path:
    """`~/x` -> `/home/me/x`; other paths stay as they are. Looks at no file.

    Args:
      text: the path.
      name: the flag or the setting that it comes from, for the message.

    Raises:
      InputError: there is no such home, or no file can have this name.
    """
    text = os.fspath(text)
    expanded = os.path.expanduser(text)
    if text.startswith("~") and expanded == text:
        user = text.split("/")[0]
        whose = f"user {user[1:]}" if user != "~" else "this user, and HOME is not set"
        raise InputError(
            f"{name} is {_short(text)}, and the system knows no home directory of {whose}; write "
            f"the whole path, or ./{user} for a folder of that name."
        )
    if "\0" in text:
        raise InputError(f"{name} is {_short(text)}; a path must not hold a zero byte.")
    for part in pathlib.Path(expanded).parts:
        if len(os.fsencode(part)) > _LONGEST_NAME:
            raise InputError(
                f"{name} is {_short(text)}, with a name of {len(os.fsencode(part))} bytes; it must "
                f"have at most {_LONGEST_NAME}."
            )
    return pathlib.Path(expanded)


def absolute(text: str | os.PathLike, name: str) -> str:
    """`expand`, and a relative path from the current directory; raises as `expand`."""
    path = expand(text, name)
    try:
        # Not `resolve`: a link to the newest run, say, stays one.
        return str(path if path.is_absolute() else pathlib.Path.cwd() / path)
    except OSError as error:
        raise InputError(
            f"{name} is {_short(text)}, relative to a directory that is gone; write the whole path."
        ) from error


def folder(text: str | os.PathLike, name: str, exists: str = "") -> pathlib.Path:
    """`expand` of a directory.

    Args:
      text: the path.
      name: the flag or the setting that it comes from.
      exists: what must be there already, in words; empty if nothing must.

    Raises:
      InputError: as `expand`; a file, a link to nothing, or a place without permission.
    """
    path = expand(text, name)
    mode = _mode(path, text, name)
    if mode is None and exists:
        raise InputError(f"{name} is {_short(text)}, which is no folder; it must be {exists}.")
    if mode is not None and not stat.S_ISDIR(mode):
        raise InputError(f"{name} is {_short(text)}, which is a file; it must be a directory.")
    return path


def file(text: str | os.PathLike, name: str, exists: str = "") -> pathlib.Path:
    """`expand` of a file in a directory that exists; arguments as of `folder`.

    Raises:
      InputError: as `expand`; a directory, a link to nothing, or a place without permission.
    """
    path = expand(text, name)
    mode = _mode(path, text, name)
    if mode is None and exists:
        raise InputError(f"{name} is {_short(text)}, which is not a file; it must be {exists}.")
    if mode is not None and stat.S_ISDIR(mode):
        raise InputError(f"{name} is {_short(text)}, which is not a file but a directory.")
    if mode is None and not path.absolute().parent.is_dir():
        raise InputError(f"{name} is {_short(text)}; it must be a file in a directory that exists.")
    return path


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """For what writes below or to `path`: an OSError inside becomes one sentence.

    Raises:
      RunError: it could not be written.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}.") from error


def check_writable(path: pathlib.Path) -> None:
    """Writes a file beside `path`, which is gone again afterwards; makes the directory if need be.

    Only writing tells: root needs no permission, and a disk may be full or read-only.

    Args:
      path: the file that is to be written or replaced later.

    Raises:
      RunError: it is a directory, or cannot be written.
    """
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".trial") as trial:
            # Enough for a block of its own, which a full disk does not have.
            trial.write(bytes(8192))
            trial.flush()


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the name to write to; at the end `path` is the whole new file, or still the old one.

    Raises:
      RunError: it could not be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)


def _mode(path, text, name):
    """The type of what is there, or None; through links."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise InputError(
                f"{name} is {_short(text)}, a link to {os.readlink(path)}, where there is nothing; "
                "mend or remove the link."
            ) from None
        return None
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, f"which cannot be read: {error.strerror}")
        raise InputError(f"{name} is {_short(text)}, {reason}; use another path.") from error


def _short(text):
    text = os.fspath(text)
    return repr(text if len(text) <= 300 else f"{text[:150]}...{text[-100:]}")
