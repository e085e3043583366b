"""Paths in a bucket of Google Cloud Storage, `gs://BUCKET/FOLDER`, where a run may live.

They have the interface of `pathlib` as far as a run's files need it, through etils.epath, as orbax
has, and gcsfs. An object in a bucket appears whole or not at all. It cannot be appended to, and
there are no folders, only names with slashes in them.
"""

import contextlib
import errno
import functools
import importlib.util
import io
import os
import re
from collections.abc import Iterator
from typing import IO, Any

# Read by epath when it first looks for TensorFlow, which it would prefer to gcsfs: that takes
# seconds and memory to load, has other rights and other errors.
os.environ["EPATH_USE_TF"] = "false"

from etils.epath import backend, gpath

from gmm_diffusion import extras
from gmm_diffusion.errors import InputError

PREFIX = "gs://"
_BUCKET = r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"
_LONGEST = 800  # of 1024 bytes, since files have longer names than the folder of a run
# gcsfs takes the first five for patterns or versions.
_NOT_IN_NAMES = r"[\[\]*?#\\\x00-\x1f\x7f-\x9f]"
# Of gcsfs and fsspec, whose errors say no more than a path or an address.
_ERRNO = {
    FileNotFoundError: errno.ENOENT,
    FileExistsError: errno.EEXIST,
    IsADirectoryError: errno.EISDIR,
    NotADirectoryError: errno.ENOTDIR,
}


def parse(text: str, name: str) -> "BucketPath":
    """The path that `gs://BUCKET/FOLDER` names; asks nobody whether it is there.

    Args:
      text: the path.
      name: the flag or the setting that it comes from, for the message.

    Raises:
      InputError: gcsfs is not installed, or nothing in a bucket can have this name.
    """
    bucket, _, key = text.removeprefix(PREFIX).partition("/")
    parts = [part for part in key.split("/") if part]
    odd = re.search(_NOT_IN_NAMES, key) or {".", ".."} & set(parts)
    if not (re.fullmatch(_BUCKET, bucket) and parts) or odd or len(os.fsencode(key)) > _LONGEST:
        raise InputError(
            f"{name} is {text!r}; it must be gs://BUCKET/FOLDER, of at most {_LONGEST} bytes and "
            "without ., .., control characters and any of []*?#\\."
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise InputError(
            f"{name} is {text}, in a bucket, which needs gcsfs, and that is not installed; "
            f"{extras.advice('gcs')}."
        )
    return BucketPath(f"{PREFIX}{bucket}/{'/'.join(parts)}")


def check(path: "BucketPath", name: str) -> None:
    """Asks whether the bucket is there and may be looked into.

    Raises:
      InputError: it is not, may not, or does not answer.
    """
    try:
        path.look()
    except FileNotFoundError:
        raise InputError(
            f"{name} is {path}, and there is no bucket {path.bucket}; make it with `gcloud storage "
            f"buckets create {PREFIX}{path.bucket}`, or name another."
        ) from None
    except PermissionError as error:
        raise InputError(
            f"{name} is {path}, and the bucket may not be read: {error.strerror}; give the account "
            "the roles storage.objectAdmin and storage.legacyBucketReader on it, and this machine "
            "the account (`gcloud auth application-default login`)."
        ) from error
    except OSError as error:
        raise InputError(f"{name} is {path}, which does not answer: {error.strerror}.") from error


class BucketPath(gpath.PosixGPath):
    """A path in a bucket. Its errors are `OSError`s as a disk's, with `errno` and `strerror`."""

    @property
    def bucket(self) -> str:
        """The name of the bucket."""
        return self.parts[2]

    @property
    def _backend(self) -> Any:
        return _Backend()

    @property
    def _fs(self) -> Any:
        return backend.fsspec_backend.fs(self)

    def resolve(self, strict: bool = False) -> "BucketPath":
        """Itself: it is absolute."""
        return self

    absolute = resolve

    def open(self, mode: str = "r", **kwargs: Any) -> IO[Any]:
        """The whole content, if it is to be read: a request for each part would take longer."""
        if mode == "rb":
            return io.BytesIO(self.read_bytes())
        if mode == "r":
            return io.StringIO(self.read_text(**kwargs))
        return super().open(mode, **kwargs)

    def read_bytes(self) -> bytes:
        """The whole content."""
        with _as_os_error(self):
            return self._fs.cat_file(str(self))

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """The whole content, by default as UTF-8."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def write_bytes(self, data: bytes) -> int:
        """The new content appears whole or not at all; returns its length."""
        with _as_os_error(self):
            self._fs.pipe_file(str(self), bytes(data))
        return len(data)

    def write_text(self, data: str, encoding: str | None = None, errors: str | None = None) -> int:
        """As `write_bytes`, by default as UTF-8."""
        return self.write_bytes(data.encode(encoding or "utf-8", errors or "strict"))

    def mkdir(self, mode: int | None = None, parents: bool = False, exist_ok: bool = False) -> None:
        """Makes nothing: there are no folders.

        Raises:
          FileExistsError: something is there, and may not.
        """
        if not exist_ok and self.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self))

    def rename(self, target: str | os.PathLike) -> "BucketPath":
        """Moves a file, or one after the other all that begin with this name and a slash."""
        with _as_os_error(self):
            self._fs.mv(str(self), os.fspath(target), recursive=True)
        return type(self)(target)

    def files(self) -> Iterator["BucketPath"]:
        """All below, in all folders."""
        with _as_os_error(self):
            found = self._fs.find(str(self))
        for key in found:
            yield type(self)(PREFIX + key)

    def look(self) -> None:
        """Asks for the name of one object of the bucket.

        Raises:
          OSError: there is no such bucket, or it may not be read.
        """
        with _as_os_error(self):
            self._fs.call("GET", "b/{}/o", self.bucket, maxResults=1)

    def create(self, data: bytes) -> str:
        """Writes what is not there yet; returns its generation, which no other content will have.

        Raises:
          FileExistsError: something is there.
        """
        with _as_os_error(self):
            return self._fs.pipe_file(str(self), data, mode="create")["generation"]

    def version(self) -> tuple[str, str]:
        """The generation, and a number that changes with each `mark`."""
        with _as_os_error(self):
            found = self._fs.call("GET", *self._object(), json_out=True)
        return found["generation"], found["metageneration"]

    def mark(self, generation: str, text: str) -> None:
        """Leaves `text` beside the content.

        Raises:
          FileExistsError: the content is of another generation.
        """
        with _as_os_error(self):
            metadata = {"metadata": {"mark": text}}
            self._fs.call("PATCH", *self._object(), ifGenerationMatch=generation, json=metadata)

    def unlink_generation(self, generation: str) -> None:
        """Removes it.

        Raises:
          FileExistsError: the content is of another generation.
        """
        with _as_os_error(self):
            self._fs.call("DELETE", *self._object(), ifGenerationMatch=generation)

    def _object(self):
        return "b/{}/o/{}", self.bucket, "/".join(self.parts[3:])


class _Backend:
    """epath's backend by gcsfs, whose errors become those of a disk."""

    def __getattr__(self, name):
        function = getattr(backend.fsspec_backend, name)

        @functools.wraps(function)
        def told(path, *args, **kwargs):
            with _as_os_error(path):
                return function(path, *args, **kwargs)

        return told


@contextlib.contextmanager
def _as_os_error(path):
    try:
        yield
    except (TypeError, AttributeError, NotImplementedError):
        raise  # Nobody's but ours.
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise
        code, reason = _reason(error)
        raise OSError(code, reason, os.fspath(path)) from error


def _reason(error):
    """`errno` and what is to be said."""
    for kind, code in _ERRNO.items():
        if isinstance(error, kind):
            return code, os.strerror(code)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    denied = str(error).startswith("Forbidden") or getattr(error, "code", 0) in (401, 403)
    if denied or isinstance(error, PermissionError):
        why = (lines or ["without a reason"])[-1].rstrip(".")
        return errno.EACCES, f"permission denied ({why})"
    return errno.EIO, (lines or [type(error).__name__])[0][:300].rstrip(".")


def _prepare():
    """Lists of names are not kept: other machines write there, too."""
    import fsspec

    for protocol in ("gs", "gcs"):
        fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)
    with contextlib.suppress(AttributeError):
        gpath._is_tf_installed.cache_clear()


_prepare()
