"""What a person watches while a run goes on: a bar on a terminal, lines of text elsewhere."""

import datetime
import sys
import time
from collections.abc import Callable
from typing import TextIO

import tqdm

# A rate over less than this jumps too much to be read.
_BAR_SECONDS = 1.0


class Progress:
    """Loss, images per second and time left.

    The clock starts at the first update, so that compilation does not count.

    Args:
      total_steps: length of the run.
      initial_step: where it begins, above 0 for a resumed run.
      stream: None for standard error; a terminal gets a bar, anything else lines.
      every_seconds: least time between two lines.
      clock: seconds; a `TrainingClock` leaves out what is not training.
    """

    def __init__(
        self,
        total_steps: int,
        initial_step: int,
        stream: TextIO | None = None,
        every_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._stream = sys.stderr if stream is None else stream
        self._total, self._clock = total_steps, clock
        self._interval = every_seconds
        self._bar = None
        if self._stream.isatty():
            self._interval = _BAR_SECONDS
            self._bar = tqdm.tqdm(
                total=total_steps,
                initial=initial_step,
                file=self._stream,
                unit="step",
                dynamic_ncols=True,
            )
        self._since: float | None = None
        self._since_step = initial_step
        self._examples = 0
        self._rate = ""

    def update(self, step: int, loss: float, examples: int) -> None:
        """Reports `step` updates done in all, and `examples` images since the last call."""
        now = self._clock()
        first = self._since is None
        seconds = 0.0 if self._since is None else now - self._since
        self._examples += 0 if first else examples
        due = seconds >= self._interval
        left = ""
        if seconds > 0 and (due or step == self._total):
            self._rate = f"  {self._examples / seconds:.0f} images/s"
            remaining = (self._total - step) * seconds / max(step - self._since_step, 1)
            left = f"  {datetime.timedelta(seconds=round(remaining))} left"
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.4g}{self._rate}", refresh=False)
            self._bar.update(step - self._bar.n)
        elif first or due or step == self._total:
            self._line(f"step {step}/{self._total}  loss {loss:.4g}{self._rate}{left}")
        if first or due:
            self._since, self._since_step, self._examples = now, step, 0

    def note(self, text: str) -> None:
        """Prints one line without breaking the bar."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            self._line(text)

    def close(self) -> None:
        """Ends the bar; needed on every way out."""
        if self._bar is not None:
            self._bar.close()

    def _line(self, text: str) -> None:
        print(text, file=self._stream, flush=True)
