"""Which examples make up a step's batch, and how they are centred.

The order is a function of (seed, step) and nothing else, so that a resumed run sees the data that
an uninterrupted one would have seen.
"""

import functools

import numpy as np
from flax import struct

from gmm_diffusion.data.dataset import to_float
from gmm_diffusion.errors import InputError
from gmm_diffusion.types import AnyArray, Array

_FLIPS = 1  # Names the stream of flips; 0 would repeat the stream of orders.
_CHUNK_VALUES = 1 << 20


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(num_examples)


@functools.lru_cache(maxsize=2)
def _flips(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch, _FLIPS]).random(num_examples) < 0.5


def indices(
    seed: int, step: int, batch_size: int, num_examples: int, flip: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The batch of one step: a window on an endless chain of permutations, one an epoch.

    No example is dropped at an epoch's end: a batch may hold the end of one epoch and the start of
    the next.

    Args:
      seed: non-negative; another seed is another order.
      step: from 0.
      batch_size: B, over all devices and hosts.
      num_examples: N.
      flip: whether examples are mirrored with probability 1/2.

    Returns:
      `(index [B] int64 into the data, flipped [B] bool)`.

    Raises:
      InputError: a negative seed or step, or a size below 1.
    """
    for name, value, least in (
        ("seed", seed, 0),
        ("step", step, 0),
        ("batch_size", batch_size, 1),
        ("num_examples", num_examples, 1),
    ):
        if value < least:
            raise InputError(f"{name} is {value}; valid is {least} or more.")
    position = int(step) * int(batch_size)
    end = position + int(batch_size)
    index, flipped = [], []
    while position < end:
        epoch, start = divmod(position, num_examples)
        stop = min(num_examples, start + end - position)
        index.append(_order(seed, epoch, num_examples)[start:stop])
        flipped.append(
            _flips(seed, epoch, num_examples)[start:stop] if flip else np.zeros(stop - start, bool)
        )
        position += stop - start
    return np.concatenate(index), np.concatenate(flipped)


@struct.dataclass
class Transform:
    """Centres data along the last axis; stored with a checkpoint, never refitted on resume.

    Attributes:
      mean: `[C]` for images, `[D]` for vectors; float32, in the units of `to_float`.
    """

    mean: Array


def _mean_like(transform: Transform, x: AnyArray) -> Array:
    return transform.mean.reshape((1,) * (x.ndim - 1) + (-1,))


def apply(transform: Transform, x: AnyArray) -> AnyArray:
    """Data `[..., C]` in the units of `to_float` -> centred data of that shape."""
    return x - _mean_like(transform, x)


def invert(transform: Transform, x: Array) -> Array:
    """The inverse of `apply`."""
    return x + _mean_like(transform, x)


def fit_transform_stats(x: np.ndarray) -> tuple[Transform, float]:
    """Centre and scale of the training split, summed in float64 a chunk at a time.

    Args:
      x: `[N, ..., C]` uint8 images, or floats in the units of `to_float`.

    Returns:
      The transform and `sigma_data`, the root mean square of the centred data over all its
      entries (Karras et al. 2022, arXiv 2206.00364, table 1 writes it sigma_data).

    Raises:
      InputError: a value that is not finite, or data without any variation.
    """
    rows = max(1, _CHUNK_VALUES // max(1, x[0].size))
    chunks = range(0, len(x), rows)
    values_per_channel = x.size // x.shape[-1]

    def chunk(i):
        return to_float(x[i : i + rows]).astype(np.float64).reshape(-1, x.shape[-1])

    mean = sum(chunk(i).sum(axis=0) for i in chunks) / values_per_channel
    if not np.isfinite(mean).all():
        raise InputError("data.train holds a value that is not finite; valid are finite numbers.")
    # The second pass subtracts the stored mean: one-pass sums lose the small variances.
    mean = mean.astype(np.float32)
    sigma_data = float(np.sqrt(sum(((chunk(i) - mean) ** 2).sum() for i in chunks) / x.size))
    if sigma_data < 1e-6:
        raise InputError(
            f"data.train has a standard deviation of {sigma_data:g}; valid are examples that "
            "differ from each other."
        )
    return Transform(mean=mean), sigma_data


def make_batch(
    x: np.ndarray, index: np.ndarray, flipped: np.ndarray, transform: Transform
) -> np.ndarray:
    """Gathers, mirrors and centres one batch on the host.

    Args:
      x: `[N, H, W, C]` uint8 or `[N, D]` float32: a split's data.
      index: `[B]` int; `flipped`: `[B]` bool, both from `indices`.
      transform: from `fit_transform_stats`.

    Returns:
      `[B, ...]` float32.

    Raises:
      InputError: vectors that should be mirrored.
    """
    batch = x[index]
    if flipped.any():
        if batch.ndim != 4:
            raise InputError(
                f"data.flip is True for data of shape {batch.shape[1:]}; valid for images only."
            )
        batch[flipped] = batch[flipped, :, ::-1]
    return np.asarray(apply(transform, to_float(batch)), np.float32)


class Views:
    """Centred examples with every augmentation of each, made where they are read.

    `views[rows]` is `[M, ...]` float32 for rows `[M]` below `len(views)`: the N examples, and where
    training mirrors behind them the N mirror images.
    """

    def __init__(self, x: np.ndarray, transform: Transform, flip: bool):
        self._x, self._transform = x, transform
        self.shape = (len(x) * (2 if flip else 1), *x.shape[1:])

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        num = len(self._x)
        return make_batch(self._x, rows % num, rows >= num, self._transform)
