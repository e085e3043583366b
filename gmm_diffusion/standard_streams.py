"""Standard output and error that cannot end a run: a reader may leave, a disk be full."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import TextIO

# A pipe without a reader, a terminal that was closed, a descriptor that was.
_NOBODY_READS = (errno.EPIPE, errno.EIO, errno.EBADF)


class Unfailing:
    """A text stream that drops what it cannot write.

    Everything else is that of the stream behind it.

    Attributes:
      failed: whether something was dropped.
      lost: why, where the system said so and it is not that nobody reads on.
    """

    def __init__(self, stream: TextIO | None):
        self._stream = stream
        self.failed = stream is None
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Writes, or drops `text`; returns its length in both cases."""
        if self._stream is not None:
            try:
                self._stream.write(text)
                self._stream.flush()
            except UnicodeEncodeError:
                self._write_escaped(self._stream, text)
            except (OSError, ValueError) as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Does nothing: each text is flushed when it is written."""

    def isatty(self) -> bool:
        """As the stream's, and False where there is none."""
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:
            return False

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def _write_escaped(self, stream, text):
        encoding = getattr(stream, "encoding", None) or "ascii"
        try:
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()
        except (OSError, ValueError) as error:
            self._give_up(error)

    def _give_up(self, error):
        """What still lies in a buffer would fail again, at the latest when Python ends."""
        self.failed = True
        if isinstance(error, OSError) and error.errno not in _NOBODY_READS:
            self.lost = error
        stream, self._stream = self._stream, None
        if stream is not None and any(stream is own for own in (sys.__stdout__, sys.__stderr__)):
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)


@contextlib.contextmanager
def unfailing() -> Iterator[tuple[Unfailing, Unfailing]]:
    """Makes `sys.stdout` and `sys.stderr` streams that drop what they cannot write.

    Inside another such block they are those of that one.
    """
    former = sys.stdout, sys.stderr
    out, err = (s if isinstance(s, Unfailing) else Unfailing(s) for s in former)
    sys.stdout, sys.stderr = out, err
    try:
        yield out, err
    finally:
        sys.stdout, sys.stderr = former


def occupy_closed() -> None:
    """Opens the null device for each standard descriptor that is closed.

    The next file to be opened would get its number, and what a library prints would go into it.
    """
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(null)
