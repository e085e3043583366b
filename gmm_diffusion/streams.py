"""Standard output and error that never stop the work: a reader may leave, a terminal may close."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

from gmm_diffusion.errors import RunError


class _Stream:
    """A text stream whose writes raise nothing; `failure` is why the first one was lost."""

    def __init__(self, stream):
        self._stream = stream
        self.failure: OSError | None = None

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes, or loses the text."""
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flushes, or loses what was to be flushed."""
        self._attempt(self._stream.flush)

    def _attempt(self, act):
        if self.failure is None:
            try:
                act()
            except OSError as error:
                self.failure = error
                self._silence()

    def _silence(self):
        """What waits in the stream is lost quietly at exit, too."""
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


@contextlib.contextmanager
def forgiving() -> Iterator[None]:
    """Inside, printing and logging raise nothing, and the work is done to its end.

    A stream that was closed before the start (`>&-`) takes everything and keeps nothing. Characters
    that its encoding lacks appear as `\\xe9`. A reader that leaves (`| head`) is no failure.

    Raises:
      RunError: at the end, if standard output was lost in another way, on a full disk, say.
    """
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as closed:
        for stream in ("stdout", "stderr"):
            if getattr(sys, stream) is None:
                setattr(sys, stream, closed.enter_context(open(os.devnull, "w")))
            with contextlib.suppress(AttributeError):  # Not every stream has an encoding.
                getattr(sys, stream).reconfigure(errors="backslashreplace")
        sys.stdout, sys.stderr = _Stream(sys.stdout), _Stream(sys.stderr)
        out, err = sys.stdout, sys.stderr
        try:
            yield
            out.flush()
            if out.failure is not None and out.failure.errno not in (errno.EPIPE, errno.EBADF):
                raise RunError(f"Standard output was lost: {out.failure.strerror}.")
        finally:
            out.flush()
            err.flush()
            sys.stdout, sys.stderr = before
