"""The time that training takes, which rates are of."""

import contextlib
import time
from collections.abc import Callable, Iterator


class TrainingClock:
    """Seconds; called, it says how many, without those inside `paused`.

    Args:
      clock: seconds, for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock, self._away = clock, 0.0

    def __call__(self) -> float:
        return self._clock() - self._away

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside does not count as training."""
        start = self._clock()
        try:
            yield
        finally:
            self._away += self._clock() - start
