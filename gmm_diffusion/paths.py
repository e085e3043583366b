"""Paths that a person types, in a flag or a config: what they mean, and whether they can be used.

`~` and `~user` are the home directories of the system. A relative path is relative to the current
directory; only `evaluation.judge_dir` is relative to the run. What is stored with a run is absolute
(`config.with_paths`), so that it means the same from any directory.

A run may live in a bucket, `gs://BUCKET/FOLDER`. Its paths are a `buckets.BucketPath`, whose
interface is that of `pathlib.Path` as far as is used, and whose errors are those of a disk. What
the two cannot do alike is here: making files whole, trying whether one can be written, finding.
"""

import contextlib
import errno
import os
import pathlib
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, cast

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


def in_bucket(path: str | os.PathLike) -> bool:
    """Whether it is in a bucket, and not on a disk."""
    return os.fspath(path).startswith("gs://")


def of(path: str | os.PathLike) -> pathlib.Path:
    """The path that text or another path means, on a disk or in a bucket.

    Raises:
      InputError: nothing in a bucket can have this name, or gcsfs is not installed.
    """
    if not in_bucket(path):
        return pathlib.Path(path)
    from gmm_diffusion import buckets  # Who has no bucket waits for no gcsfs.

    known = isinstance(path, buckets.BucketPath)
    return cast(pathlib.Path, path if known else buckets.parse(os.fspath(path), "The path"))


def within(directory: pathlib.Path, path: str) -> pathlib.Path:
    """A path relative to a directory; one that is absolute or in a bucket as it is."""
    return of(path) if in_bucket(path) or os.path.isabs(path) else directory / path


def expand(text: str | os.PathLike, name: str, bucket: bool = False) -> pathlib.Path:
    """`~/x` -> `/home/me/x`; other paths stay as they are. Looks at no file.

    Args:
      text: the path.
      name: the flag or the setting that it comes from, for the message.
      bucket: whether it may be in a bucket.

    Raises:
      InputError: there is no such home, no file can have this name, or it may not be in a bucket.
    """
    text = os.fspath(text)
    address = re.match(r"([a-z0-9]+):/(/?)", text)
    if address and (address[2] or address[1] == "gs"):
        return _expand_address(text, name, bucket)
    if not text:
        raise InputError(f"{name} is empty; it must be a path, such as . for this directory.")
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


def _expand_address(text, name, bucket):
    if text.startswith("gs:/") and not in_bucket(text):
        raise InputError(
            f"{name} is {_short(text)}; write gs://BUCKET/FOLDER as text: a pathlib.Path loses one "
            "of the slashes."
        )
    if not in_bucket(text):
        raise InputError(
            f"{name} is {_short(text)}; it must be on a disk, or in a bucket of Google Cloud "
            "Storage, gs://BUCKET/FOLDER."
        )
    if not bucket:
        raise InputError(
            f"{name} is {_short(text)}, in a bucket; it must be on a disk of this machine: only "
            "runs, sweeps and reports may be in a bucket."
        )
    from gmm_diffusion import buckets

    return cast(pathlib.Path, buckets.parse(text, name))


def absolute(text: str | os.PathLike, name: str) -> str:
    """`expand`, and a relative path from the current directory; raises as `expand`."""
    path = expand(text, name, bucket=True)
    try:
        # Not `resolve`: a link to the newest run, say, stays one.
        return str(path if path.is_absolute() else pathlib.Path.cwd() / path)
    except OSError as error:
        raise InputError(
            f"{name} is {_short(text)}, relative to a directory that is gone; write the whole path."
        ) from error


def user_cache() -> pathlib.Path | None:
    """Our folder in the user's cache, which need not be there; None without a home."""
    name = "XDG_CACHE_HOME"
    try:
        return expand(os.environ.get(name) or "~/.cache", name) / "gmm_diffusion"
    except InputError:
        return None


def folder(
    text: str | os.PathLike, name: str, exists: str = "", bucket: bool = False
) -> pathlib.Path:
    """`expand` of a directory.

    Args:
      text: the path.
      name: the flag or the setting that it comes from.
      exists: what must be there already, in words; empty if nothing must.
      bucket: whether it may be in a bucket.

    Raises:
      InputError: as `expand`; a file, a link to nothing, a place without permission, or a bucket
        that is not there.
    """
    path = expand(text, name, bucket)
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
        write_trial(path.parent)


def write_trial(directory: pathlib.Path) -> None:
    """Writes a file there, which is gone again afterwards.

    Raises:
      OSError: that is not possible.
    """
    content = bytes(8192)  # Enough for a block of its own, which a full disk does not have.
    if in_bucket(directory):
        trial = directory / f".trial{secrets.token_hex(8)}"
        trial.write_bytes(content)
        trial.unlink()
        return
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".trial") as file:
        file.write(content)
        file.flush()


@contextlib.contextmanager
def whole(path: pathlib.Path, ending: str = ".tmp") -> Iterator[pathlib.Path]:
    """Yields the name of a file on a disk to write to; at the end `path` is that, and whole.

    Args:
      path: a file in a directory that exists; it is still the old one until then.
      ending: of the temporary file's name, which is otherwise that of `path`.
    """
    if in_bucket(path):
        with tempfile.TemporaryDirectory(prefix="gmm_diffusion_") as directory:
            temporary = pathlib.Path(directory) / path.name
            yield temporary
            path.write_bytes(temporary.read_bytes())
        return
    temporary = path.with_name(path.name + ending)
    yield temporary
    os.replace(temporary, path)


@contextlib.contextmanager
def appending(path: pathlib.Path) -> Iterator[IO[str]]:
    """A file on a disk for text behind that of `path`; in a bucket it comes there at the end."""
    if not in_bucket(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            yield file
        return
    with tempfile.TemporaryFile("w+", errors="replace") as file:
        try:
            yield file
        finally:
            file.seek(0)
            before = path.read_text(errors="replace") if path.exists() else ""
            path.write_text(before + file.read())


def files(directory: pathlib.Path) -> Iterable[pathlib.Path]:
    """All files below, in all folders.

    Raises:
      OSError: a folder cannot be read.
    """
    if in_bucket(directory):
        return directory.files()  # type: ignore[attr-defined]
    return (
        pathlib.Path(place) / name
        for place, _, names in os.walk(directory, onerror=_raise)
        for name in names
    )


def find(directory: pathlib.Path, pattern: str) -> Iterable[pathlib.Path]:
    """The files below that match a pattern such as `evaluations/*.json`, in all folders."""
    if in_bucket(directory):
        return (file for file in files(directory) if file.match(pattern))
    return directory.resolve().rglob(pattern)


def remove_folder(directory: pathlib.Path, ignore_errors: bool = False) -> None:
    """With all that is in it."""
    if not in_bucket(directory):
        shutil.rmtree(directory, ignore_errors)
        return
    with contextlib.suppress(*[OSError] if ignore_errors else []):
        directory.rmtree()  # type: ignore[attr-defined]


def move_into(directory: pathlib.Path, target: pathlib.Path) -> None:
    """Moves the files of a folder on a disk to places of the same names below `target`."""
    for file in files(directory):
        place = target / file.relative_to(directory)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())
    shutil.rmtree(directory)


def _raise(error):
    raise error


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the name to write to; at the end `path` is the whole new file, or still the old one.

    Raises:
      RunError: it could not be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as temporary:
            yield temporary


def _mode(path, text, name):
    """The type of what is there, or None; through links."""
    if in_bucket(path):
        from gmm_diffusion import buckets

        buckets.check(path, name)
        if path.is_dir():
            return stat.S_IFDIR
        return stat.S_IFREG if path.exists() else None
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
