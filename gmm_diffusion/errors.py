"""The two ways in which a run ends other than well, and when it is not a file's fault."""

import os
import pathlib
import re
from typing import Any

# Of a message. What is left out of a longer one is its middle: a value that it quotes.
_MOST = 2000
_MOST_OF_CAUSE = 200
_REFUSED = re.compile(
    "^RESOURCE_EXHAUSTED|Cannot allocate memory|failed to map segment|can't start new thread"
)


class InputError(ValueError):
    """Bad input: one sentence that names the field, its value and what is valid. Exit status 2.

    What is no text is escaped, and long values are cut.
    """

    def __init__(self, message: str):
        super().__init__(_cut(printable(str(message))))


class RunError(RuntimeError):
    """The run itself failed, for example on a non-finite loss. Exit status 1."""


def printable(text: str) -> str:
    """`text` on one line that any stream can encode: `\\n` for a line break, `\\udcf1` for a byte
    that is no text, as some files' names have."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _cut(text):
    if len(text) <= _MOST:
        return text
    return f"{text[: _MOST // 2]} [{len(text) - _MOST} characters] {text[-_MOST // 2 :]}"


def out_of_memory(error: BaseException) -> RunError | None:
    """What a person reads where memory was refused; None for every other error.

    Python and NumPy raise MemoryError, JAX and TensorFlow an error of their own with a word in
    front, and a library that finds no room for itself is an ImportError.
    """
    if isinstance(error, (InputError, RunError)):
        return None  # Its sentence is there, and may quote such words.
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or _REFUSED.search(text):
        detail = f" ({text[:_MOST_OF_CAUSE].rstrip('.')})" if text else ""
        return RunError(f"There is not enough memory{detail}; smaller batches need less.")
    return None


def read_fault(path: str | os.PathLike) -> OSError | None:
    """Why a file cannot be read; None if all its bytes can, or if there is none.

    What cannot be read may be good, and is neither damaged nor to be written over.
    """
    # One that is a path already opens itself: it need not be on a disk.
    place: Any = path if isinstance(path, pathlib.PurePath) else pathlib.Path(path)
    try:
        with place.open("rb") as file:
            while file.read(1 << 24):
                pass
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    except OSError as error:
        return error
    return None
