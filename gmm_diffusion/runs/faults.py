"""Why a checkpoint could not be written or read: its own damage, or the machine's fault."""

import errno
import os
import pathlib

from gmm_diffusion import paths
from gmm_diffusion.errors import read_fault

# What orbax raises for files that are there and hold something else than they should. tensorstore
# puts all its errors into ValueErrors, with a word for the kind in front.
WRONG_CONTENT = (
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


class Damaged(Exception):
    """Why a step on disk cannot be used."""


def unreadable(path: pathlib.Path, error: Exception) -> Exception | None:
    """Why a step could not be read; None if it could, and what it holds is wrong."""
    if not isinstance(error, (*WRONG_CONTENT, Damaged)):
        return error
    if isinstance(error, ValueError) and str(error).startswith(_NOT_CONTENT):
        return error
    # Orbax says of some files that it cannot open that they are not there, or empty.
    return next(filter(None, map(read_fault, paths.files(path))), None)


def cause(error: Exception) -> str:
    """The words for an error that a person can act on, as the end of a sentence."""
    if isinstance(error, MemoryError):
        return "there is not enough memory."
    text = first_line(error)
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{where}."
    # tensorstore says what the system said in the middle of a long line.
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.EIO):
        if os.strerror(code) in str(error):
            return f"{os.strerror(code)}."
    return text if text.endswith(".") else f"{text}."


def first_line(error: Exception) -> str:
    """What an error says, without what follows; the name of its kind if it says nothing."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
