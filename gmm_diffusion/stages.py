"""How far a long piece of work is: a bar on a terminal, a line each ten seconds elsewhere."""

import contextlib
import datetime
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

import tqdm

from gmm_diffusion.types import Poll


@contextlib.contextmanager
def watched(
    name: str,
    total: int,
    poll: Poll | None = None,
    shown: bool = True,
    stream: TextIO | None = None,
    every_seconds: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Poll]:
    """Yields what is called before each of `total` parts of the work; it calls `poll` first.

    Work that is done sooner than the first line is due prints none. How long is left is told from
    what the parts after the first one took.

    Args:
      name: of the work, with which its lines begin.
      total: number of parts.
      poll: what it raises ends the work.
      shown: False for one of several processes that says nothing.
      stream: None for standard error.
      every_seconds: least time between two lines.
      clock: seconds, for tests.
    """
    stream = sys.stderr if stream is None else stream
    told, done, first_ended = clock(), 0, 0.0
    bar = None
    if shown and stream.isatty():
        bar = tqdm.tqdm(total=total, desc=name, file=stream, dynamic_ncols=True, leave=False)

    def left(now: float) -> str:
        # The first part compiles what the others use.
        if done == 1:
            return ""
        seconds = (total - done) * (now - first_ended) / (done - 1)
        return f"  {datetime.timedelta(seconds=round(seconds))} left"

    def tick() -> None:
        nonlocal done, told, first_ended
        if poll is not None:
            poll()
        now = clock()
        if bar is not None:
            bar.update(done - bar.n)
        elif shown and done and now - told >= every_seconds:
            print(f"{name}: {done} of {total}{left(now)}", file=stream, flush=True)
            told = now
        if done == 1:
            first_ended = now
        done += 1

    try:
        yield tick
    finally:
        if bar is not None:
            bar.close()
