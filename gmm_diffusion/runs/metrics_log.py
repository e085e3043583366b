"""Metrics of a run: lines of JSON always, and what is looked at in a browser, if asked for."""

import contextlib
import functools
import importlib.util
import json
import logging
import math
import os
import pathlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion import lazy_tensorflow, paths
from gmm_diffusion.errors import RunError
from gmm_diffusion.runs import wandb_writer
from gmm_diffusion.runs.workdir import METRICS

log = logging.getLogger(__name__)

# A longer log takes longer to write again, and an object may change once a second.
_REWRITE_SECONDS = 10.0
# A server that does not answer holds a run up for no longer.
_CLOSING_SECONDS = 120.0


class MetricsLog:
    """Writes metrics into a run's directory; use it in a `with` block.

    `metrics.jsonl` has one JSON object a line: `step` and the metrics. Numbers that JSON lacks
    are the strings "NaN", "Infinity" and "-Infinity", which Python's `float` reads. Each line is on
    disk when `write` returns; in a bucket, where nothing can be appended to, see `flush`.

    TensorBoard events go to the same directory, and to wandb what belongs there. A thread for each
    imports what is needed, which takes seconds, at the first write, and does all writing; where
    that fails, the log says so once and the run goes on.

    Args:
      workdir: made if need be.
      tensorboard: whether to write events, if tensorflow and tensorboard are installed.
      wandb: the config of a run that wandb is to have, or None.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        tensorboard: bool = True,
        wandb: ConfigDict | None = None,
    ):
        self._workdir = paths.of(workdir)
        self._workdir.mkdir(parents=True, exist_ok=True)
        self._path = self._workdir / METRICS
        self._lines = (_Rewritten if paths.in_bucket(self._path) else _Appended)(self._path)
        self._shown = []
        if tensorboard and _installed():
            self._shown.append(_InThread("TensorBoard events", self._workdir, _tensorboard))
        if wandb is not None:
            make = functools.partial(wandb_writer.WandbWriter, config=wandb)
            self._shown.append(_InThread("curves for wandb", self._workdir, make))

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            self.close()
        except RunError as late:
            # What ended the run matters more than what then failed to be written.
            if error is None:
                raise
            log.error("%s", late)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends one line of numbers, which may be 0-d arrays.

        Raises:
          RunError: the line could not be written.
        """
        values = {name: np.asarray(value).item() for name, value in scalars.items()}
        line = json.dumps({"step": int(step)} | {k: _valid(v) for k, v in values.items()})
        with self._writing():
            self._lines.append(line + "\n")
        for shown in self._shown:
            shown.put("write_scalars", step, values)

    def flush(self) -> None:
        """Returns when all lines are in the file, as they must be before a checkpoint is saved.

        In a bucket the whole file is written again, here, at the end and every ten seconds. A kill
        takes the lines since, which are all of steps that the resumed run makes again.

        Raises:
          RunError: they could not be written.
        """
        with self._writing():
            self._lines.flush()

    @contextlib.contextmanager
    def _writing(self):
        try:
            yield
        except OSError as error:
            raise RunError(f"Metrics could not be written to {self._path}: {error}") from error

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Shows uint8 images `[H, W, C]` in a browser, if anything is shown there."""
        for shown in self._shown:
            shown.put("write_images", step, dict(images))

    def truncate(self, step: int) -> None:
        """`truncate` in this log's directory."""
        self.flush()
        truncate(self._workdir, step)
        self._lines.forget()

    def has(self, step: int, name: str) -> bool:
        """`has` in this log's directory."""
        self.flush()
        return has(self._workdir, step, name)

    def close(self) -> None:
        """Returns when everything is on disk.

        Raises:
          RunError: as `flush`.
        """
        try:
            self.flush()
        finally:
            for shown in self._shown:
                shown.close()


class NoLog:
    """In place of a `MetricsLog` in a process of several that does not write."""

    def __enter__(self) -> "NoLog":
        return self

    def __exit__(self, *_) -> None:
        pass

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Does nothing, as do the next."""

    def flush(self) -> None:
        """Does nothing."""

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Does nothing."""

    def truncate(self, step: int) -> None:
        """Does nothing."""

    def has(self, step: int, name: str) -> bool:
        """It has no lines."""
        return False


def truncate(workdir: str | os.PathLike, step: int) -> None:
    """Drops the lines of later steps, which a run resumed at `step` writes again.

    Lines that are cut short by a crash or otherwise not of ours go too, with one warning. The file
    changes as a whole or not at all.
    """
    path = paths.of(workdir) / METRICS
    lines = _lines(path)
    rows = [_row(line) for line in lines]
    kept = [line for line, row in zip(lines, rows, strict=True) if row and row["step"] <= step]
    if kept == lines:
        return
    broken = rows.count(None)
    if broken:
        log.warning("Dropping %d lines of %s that are not of ours or not whole.", broken, path)
    with paths.whole(path) as temporary:
        temporary.write_bytes(b"".join(kept))


def has(workdir: str | os.PathLike, step: int, name: str) -> bool:
    """Whether a line of this step has the metric `name`."""
    rows = map(_row, _lines(paths.of(workdir) / METRICS))
    return any(row and row["step"] == step and name in row for row in rows)


def training_seconds(workdir: str | os.PathLike, batch_size: int) -> float | None:
    """How long the logged steps took, by their rates; None where there are none.

    The rates stand in the log itself, so that a resumed run counts no step twice.
    """
    path = paths.of(workdir) / METRICS
    try:
        lines = _lines(path)
    except OSError as error:
        log.warning("Training's seconds are not known: %s cannot be read (%s).", path, error)
        return None
    seconds, last, broken = 0.0, 0, 0
    for row in map(_row, lines):
        broken += row is None
        if row is None or "images_per_second" not in row:
            continue
        rate = _number(row["images_per_second"])
        if not (math.isfinite(rate) and rate > 0):
            broken += 1
            continue
        seconds += max(0, row["step"] - last) * batch_size / rate
        last = row["step"]
    if broken:
        log.warning("Passing over %d lines of %s that cannot be read.", broken, path)
    return seconds or None


class _Appended:
    """The lines of a file on a disk."""

    def __init__(self, path: pathlib.Path):
        self._path = path

    def append(self, line: str) -> None:
        with self._path.open("a") as file:
            file.write(line)

    def flush(self) -> None:
        pass

    def forget(self) -> None:
        pass


class _Rewritten:
    """The lines of a file in a bucket, which are kept here to be written as a whole."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._content: bytearray | None = None
        self._whole, self._written = True, -math.inf

    def append(self, line: str) -> None:
        if self._content is None:
            self._content = bytearray(b"".join(_lines(self._path)))
        self._content += line.encode()
        self._whole = False
        if time.monotonic() - self._written > _REWRITE_SECONDS:
            self.flush()

    def flush(self) -> None:
        if not self._whole:
            self._path.write_bytes(bytes(self._content or b""))
            self._whole, self._written = True, time.monotonic()

    def forget(self) -> None:
        """What is in the file may be other than what was written."""
        self._content = None


class _InThread:
    """A writer of what is shown in a browser, all in one thread, which starts at the first write.

    Args:
      name: of what it writes, for the log.
      directory: of the run.
      make: of the directory, the writer; it imports what it needs.
    """

    def __init__(self, name: str, directory: pathlib.Path, make: Callable[[pathlib.Path], Any]):
        self._name, self._directory, self._make = name, directory, make
        self._queue: queue.Queue = queue.Queue()
        self._thread: threading.Thread | None = None

    def put(self, method: str, step: int, values: dict[str, Any]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        # After a failure nobody takes from the queue, and images would pile up.
        if self._thread.is_alive():
            self._queue.put((method, int(step), values))

    def close(self) -> None:
        if self._thread is None:
            return
        self._queue.put(None)
        self._thread.join(_CLOSING_SECONDS)
        if self._thread.is_alive():
            log.warning("The last %s in %s are not written yet.", self._name, self._directory)
        self._thread = None

    def _work(self) -> None:
        try:
            writer = self._make(self._directory)
            while (item := self._queue.get()) is not None:
                method, step, values = item
                getattr(writer, method)(step, values)
                if self._queue.empty():
                    writer.flush()
            writer.close()
        except Exception as error:
            log.warning("No further %s in %s: %s", self._name, self._directory, error)


def _tensorboard(directory: pathlib.Path) -> Any:
    return lazy_tensorflow.import_metric_writers().SummaryWriter(str(directory))


def _installed() -> bool:
    return all(importlib.util.find_spec(part) for part in ("tensorflow", "tensorboard"))


def _valid(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _lines(path: pathlib.Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True) if path.is_file() else []


def _row(line: bytes) -> dict | None:
    """What a line says; None for one that `MetricsLog` did not write as a whole."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    step = row.get("step")
    return row if isinstance(step, int) and not isinstance(step, bool) and step >= 0 else None


def _number(value: Any) -> float:
    """A number, or a string that stands for one; NaN for anything else."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
