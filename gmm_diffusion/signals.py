"""Ctrl-C and SIGTERM as a request to save and stop, honoured at a point where that is possible."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """The run was asked to stop by a signal, and has stopped in good order.

    Attributes:
      signum: the signal's number.
    """

    def __init__(self, signum: int):
        super().__init__(f"Stopped by {signal.Signals(signum).name}.")
        self.signum = signum

    @property
    def exit_status(self) -> int:
        """What a shell reports for this signal: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.signum


class Interrupt:
    """Whether a signal has arrived.

    Attributes:
      received: number of the latest signal, or None.
      repeated: whether a Ctrl-C came after it.
    """

    def __init__(self, agree: Callable[[int], int] = lambda received: received):
        self.received: int | None = None
        self.repeated = False
        self._agree = agree
        self._at_once = False

    def check(self) -> None:
        """Raises `Interrupted` if a signal has arrived; call it wherever a run can be stopped."""
        signum = self._agree(self.received or 0)
        if signum:
            raise Interrupted(signum)

    @contextlib.contextmanager
    def at_once(self, really: bool = True) -> Iterator[None]:
        """Inside a signal raises `Interrupted` wherever it finds the program.

        For work whose files are replaced whole, and which has nothing to save. `really` is False
        where other processes would be left waiting: there only `check` raises, as outside.
        """
        self._at_once = really
        try:
            yield
        finally:
            self._at_once = False

    def record(self, signum: int) -> None:
        """Called when a signal arrives.

        Raises:
          KeyboardInterrupt: at a Ctrl-C that is not the first signal.
          Interrupted: within `at_once`.
        """
        if signum == signal.SIGINT and self.received is not None:
            self.repeated = True
            raise KeyboardInterrupt
        self.received = signum
        if self._at_once:
            raise Interrupted(signum)


@contextlib.contextmanager
def graceful(agree: Callable[[int], int] = lambda received: received) -> Iterator[Interrupt]:
    """Records SIGINT and SIGTERM instead of dying by them; the former handlers return on exit.

    A Ctrl-C after another signal raises KeyboardInterrupt at once, for a run that does not get
    to its next check. Outside the main thread, where Python allows no handlers, nothing is
    recorded.

    Args:
      agree: of several processes, which check at the same points: from the number of the signal
        that this one has received, or 0, to that for all.
    """
    interrupt = Interrupt(agree)
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def record(signum, frame):
        interrupt.record(signum)

    previous = {signum: signal.signal(signum, record) for signum in _SIGNALS}
    try:
        yield interrupt
    finally:
        for signum, handler in previous.items():
            # None stands for a handler that Python did not install and cannot put back.
            signal.signal(signum, handler or signal.SIG_DFL)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Within it a Ctrl-C ends the process silently, as the system does: 130 to a shell.

    For imports of large libraries. As an exception it would be lost in their callbacks, so that the
    run goes on, or end in a crash of their C++. A handler of one's own stays.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
