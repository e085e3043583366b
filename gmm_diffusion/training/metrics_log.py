"""Metrics of a run: lines of JSON always, TensorBoard events where TensorFlow is installed."""

import importlib.util
import json
import logging
import math
import os
import pathlib
import queue
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from gmm_diffusion import lazy_tensorflow
from gmm_diffusion.errors import RunError

log = logging.getLogger(__name__)

_FILE = "metrics.jsonl"


class MetricsLog:
    """Writes metrics into a run's directory; use it in a `with` block.

    `metrics.jsonl` has one JSON object a line: `step` and the metrics. Numbers that JSON lacks
    are the strings "NaN", "Infinity" and "-Infinity", which Python's `float` reads.

    TensorBoard events go to the same directory. A thread imports TensorFlow, which takes seconds,
    at the first write, and does all writing of events; where that fails, the log says so once and
    the run goes on.

    Args:
      workdir: made if need be.
      tensorboard: whether to write events, if tensorflow and tensorboard are installed.
    """

    def __init__(self, workdir: str | os.PathLike, tensorboard: bool = True):
        self._workdir = pathlib.Path(workdir)
        self._workdir.mkdir(parents=True, exist_ok=True)
        self._events = _Events(self._workdir) if tensorboard and _installed() else None

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends one line of numbers, which may be 0-d arrays.

        Raises:
          RunError: the line could not be written.
        """
        values = {name: np.asarray(value).item() for name, value in scalars.items()}
        line = json.dumps({"step": int(step)} | {k: _valid(v) for k, v in values.items()})
        path = self._workdir / _FILE
        try:
            with path.open("a") as file:
                file.write(line + "\n")
        except OSError as error:
            raise RunError(f"Metrics could not be written to {path}: {error}") from error
        if self._events is not None:
            self._events.put("write_scalars", step, values)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Shows uint8 images `[H, W, C]` in TensorBoard, if it is written at all."""
        if self._events is not None:
            self._events.put("write_images", step, dict(images))

    def truncate(self, step: int) -> None:
        """`truncate` in this log's directory."""
        truncate(self._workdir, step)

    def close(self) -> None:
        """Returns when everything is on disk."""
        if self._events is not None:
            self._events.close()


def truncate(workdir: str | os.PathLike, step: int) -> None:
    """Drops the lines of later steps, which a run resumed at `step` writes again.

    A line cut short by a crash goes too. The file changes as a whole or not at all.
    """
    path = pathlib.Path(workdir) / _FILE
    if not path.is_file():
        return
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if _step_of(line) <= step]
    if kept == lines:
        return
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(kept))
    os.replace(temporary, path)


def training_seconds(workdir: str | os.PathLike, batch_size: int) -> float | None:
    """How long the logged steps took, by their rates; None where there are none.

    The rates stand in the log itself, so that a resumed run counts no step twice.
    """
    path = pathlib.Path(workdir) / _FILE
    seconds, last = 0.0, 0
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:  # Cut short by a crash.
            continue
        if "images_per_second" in row:
            seconds += (row["step"] - last) * batch_size / float(row["images_per_second"])
            last = row["step"]
    return seconds or None


class _Events:
    """TensorBoard events through clu, all in one thread, which starts at the first write."""

    def __init__(self, directory: pathlib.Path):
        self._directory = directory
        self._queue: queue.Queue = queue.Queue()
        self._thread: threading.Thread | None = None

    def put(self, method: str, step: int, values: dict[str, Any]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="tensorboard", daemon=True)
            self._thread.start()
        # After a failure nobody takes from the queue, and images would pile up.
        if self._thread.is_alive():
            self._queue.put((method, int(step), values))

    def close(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        try:
            writers = lazy_tensorflow.import_metric_writers()
            writer = writers.SummaryWriter(str(self._directory))
            while (item := self._queue.get()) is not None:
                method, step, values = item
                getattr(writer, method)(step, values)
                if self._queue.empty():
                    writer.flush()
            writer.close()
        except Exception as error:
            log.warning("No further TensorBoard events in %s: %s", self._directory, error)


def _installed() -> bool:
    return all(importlib.util.find_spec(part) for part in ("tensorflow", "tensorboard"))


def _valid(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _step_of(line: str) -> float:
    """The step of a line, infinite for one that is not whole."""
    try:
        return json.loads(line)["step"] if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
