"""Examples that stay in files: which data do, and how they are read, some at a time or ahead.

The order of examples is that of data in memory; only where they wait is another place.
"""

import concurrent.futures
import contextlib
import dataclasses
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from typing import Protocol, cast

import numpy as np

from gmm_diffusion import extras, stages
from gmm_diffusion.errors import InputError
from gmm_diffusion.memory import free_memory

log = logging.getLogger(__name__)

CHOICES = ("auto", "always", "never")
# Taking splits apart copies them once.
_SHARE = 0.5
# Fewer bytes are not worth threads.
_FEW_BYTES = 1 << 16
_MANY, _BLOCK = 2000, 256
# Batches that are read ahead take at most so many bytes, or one batch.
_AHEAD_BYTES = 1 << 28


class Source(Protocol):
    """Images in files, each read and decoded by its number; can be pickled."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`(H, W, C)`, of every image."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, i: int, /) -> np.ndarray:
        """`[H, W, C]` uint8; InputError that names the file of an image that cannot be read."""


class Streamed:
    """Images of a `Source`, some of them in some order: `[N, H, W, C]` uint8, read when indexed."""

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(self, source: Source, index: np.ndarray | None = None):
        self._source = source
        self._index = np.arange(len(source)) if index is None else index
        self.shape = (len(self._index), *source.shape)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes that they would take in memory."""
        return int(np.prod(self.shape))

    def take(self, rows: np.ndarray | slice) -> "Streamed":
        """Those rows, without reading them."""
        return Streamed(self._source, self._index[rows])

    def __getitem__(self, rows: np.ndarray | slice | int) -> np.ndarray:
        """Reads rows `[M]` by as many threads as there are cores, or one row `[H, W, C]`."""
        if isinstance(rows, int | np.integer):
            return self._source[int(self._index[rows])]
        index = self._index[rows]
        if len(index) * int(np.prod(self.shape[1:])) < _FEW_BYTES:
            return self.read(rows)
        out = np.empty((len(index), *self.shape[1:]), np.uint8)
        pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
        try:
            # Some at a time, since what threads have ready waits in memory, too.
            for start in range(0, len(index), _BLOCK):
                images = pool.map(self._source.__getitem__, index[start : start + _BLOCK].tolist())
                for place, image in zip(out[start : start + _BLOCK], images, strict=True):
                    place[:] = image
        finally:
            # After an error the other images need not be read.
            pool.shutdown(cancel_futures=True)
        return out

    def read(self, rows: np.ndarray | slice) -> np.ndarray:
        """Reads rows `[M]` by this thread alone."""
        index = self._index[rows]
        out = np.empty((len(index), *self.shape[1:]), np.uint8)
        for place, i in zip(out, index.tolist(), strict=True):
            place[:] = self._source[i]
        return out

    def held(self, name: str) -> np.ndarray:
        """All of them in memory, with a bar of that name on a terminal, and else with lines."""
        out = np.empty(self.shape, np.uint8)
        starts = range(0, len(self), _BLOCK)
        with stages.watched(name, len(starts), shown=len(self) >= _MANY) as tick:
            for start in starts:
                tick()
                out[start : start + _BLOCK] = self[start : start + _BLOCK]
        return out

    def __array__(self, dtype=None, copy=None):
        raise TypeError("streamed examples are read some rows at a time, not all at once")


def check(in_memory: str) -> None:
    """Raises InputError for another choice than `CHOICES`, or "never" without grain."""
    if in_memory not in CHOICES:
        raise InputError(f"data.in_memory is {in_memory!r}; valid are {', '.join(CHOICES)}.")
    if in_memory == "never" and not _installed():
        raise InputError(f"data.in_memory is 'never', and {_no_grain()}.")


def _installed():
    return importlib.util.find_spec("grain") is not None


def _no_grain():
    return f"grain is not installed; install it with {extras.advice('stream')}"


def choose(in_memory: str, nbytes: int, what: str, why_not: str = "") -> bool:
    """Whether images are to be streamed, said in a line where there is a choice.

    Args:
      in_memory: of `CHOICES`; auto streams what takes more than half of the free memory.
      nbytes: of all images, decoded.
      what: the name of the data.
      why_not: what keeps them from being streamed, and what to type, as a sentence without its
        full stop; empty for nothing.

    Raises:
      InputError: "never" and they cannot be streamed.
    """
    if in_memory == "always":
        return False
    if in_memory == "never":
        if why_not:
            raise InputError(f"data.in_memory is 'never', and {what} is not streamed: {why_not}.")
        return True
    why_not = why_not or ("" if _installed() else _no_grain())
    free = free_memory()
    streamed = nbytes > _SHARE * free
    sizes = f"{what}: {nbytes / 2**30:.2f} GiB decoded, and {free / 2**30:.2f} GiB of memory free"
    if why_not:
        if streamed:
            log.warning("%s. It should be streamed, and is not: %s.", sizes, why_not)
        return False
    log.info("%s: %s.", sizes, "streamed from files" if streamed else "held in memory")
    return streamed


@dataclasses.dataclass(frozen=True)
class _Batches:
    """What grain reads: element i is the batch of step `start + i`."""

    x: Streamed
    rows: Callable[[int], np.ndarray]
    steps: range

    def __len__(self):
        return len(self.steps)

    def __getitem__(self, i):
        return self.x.read(self.rows(self.steps[i]))


def read_ahead(
    x: Streamed,
    rows: Callable[[int], np.ndarray],
    steps: range,
    threads: int | None = None,
) -> Iterator[np.ndarray]:
    """Batches `[B, H, W, C]` uint8 of some steps in order, read before they are asked for.

    By grain's threads, a batch each: decoders let go of Python's lock.

    Args:
      x: the examples.
      rows: numbers `[B]` of a step's examples.
      steps: which steps.
      threads: None takes as many as there are cores.

    Raises:
      InputError: when its batch is asked for, of an image that cannot be read.
    """
    import grain

    threads = threads or os.cpu_count() or 1
    batch = max(1, len(rows(steps[0])) * int(np.prod(x.shape[1:])))
    ahead = max(1, min(2 * threads, _AHEAD_BYTES // batch))
    options = grain.ReadOptions(num_threads=min(threads, ahead), prefetch_buffer_size=ahead)
    source = cast(grain.sources.RandomAccessDataSource, _Batches(x, rows, steps))
    batches = iter(grain.MapDataset.source(source).to_iter_dataset(options))
    with contextlib.closing(batches):
        yield from batches
