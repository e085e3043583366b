"""The metrics between two lines of a run's log."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion import assembly, devices


class LogWindow:
    """Means of the metrics since the last line of the log, and the time they took.

    A checkpoint takes it along: the next line of a resumed run is that of a run never stopped.

    Args:
      first_step: where the run, or what goes on of it, begins.
      stored: the window that a checkpoint took along.
      clock: seconds; a `TrainingClock` leaves out what is not training.

    Attributes:
      first_step: as given.
    """

    def __init__(
        self,
        first_step: int,
        stored: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.first_step, self._clock = first_step, clock
        self._rows: list[Mapping[str, np.ndarray]] = []
        self._last, self._time = first_step, clock()
        if stored is not None:
            self._last = stored["last"]
            self._time -= stored["seconds"]
            rows = stored["rows"]
            row = {name: np.asarray(rows[name], stored["dtypes"][name]) for name in rows}
            self._rows = [row] if row else []

    def stored(self) -> dict[str, Any]:
        """What a window is made from again, as JSON."""
        names = self._rows[0] if self._rows else ()
        joined = {name: np.concatenate([row[name] for row in self._rows]) for name in names}
        return {
            "last": self._last,
            "seconds": self._clock() - self._time,
            "rows": {name: values.tolist() for name, values in joined.items()},
            "dtypes": {name: str(values.dtype) for name, values in joined.items()},
        }

    def add(self, metrics: Mapping[str, np.ndarray]) -> None:
        """The metrics of a call, `[S]` each, a number an update."""
        self._rows.append(metrics)

    def flush(self, step: int, config: ConfigDict) -> dict[str, float]:
        """The line of the log at `step`, after which a new window begins."""
        rate = (step - self._last) / (self._clock() - self._time)
        means = {
            name: float(np.concatenate([row[name] for row in self._rows]).mean())
            for name in self._rows[0]
            if not name.startswith("nonfinite")
        }
        means["nonfinite"] = skipped = int(self._rows[-1]["nonfinite"][-1])
        means["images_per_second"] = rate * config.training.batch_size
        means["steps_per_second"] = rate
        # Of the last update that was made.
        count = max(step - skipped - 1, 0)
        for part, schedule in assembly.learning_rates(config).items():
            means[f"learning_rate/{part}"] = float(schedule(count))
        means |= {f"device_memory/{name}": value for name, value in devices.memory().items()}
        self._rows, self._last, self._time = [], step, self._clock()
        return means
