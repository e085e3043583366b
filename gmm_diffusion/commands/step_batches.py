"""The batches of each update, a function of the run's seed and the update alone."""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import jax
import numpy as np

from gmm_diffusion import assembly, devices
from gmm_diffusion.commands.parts import Parts
from gmm_diffusion.data import batches, streaming
from gmm_diffusion.types import Batch


def source(parts: Parts) -> Callable[[int, int], Batch | None]:
    """`(step, num_steps) -> Batch` with leaves `[S, B, ...]`, the updates of one call from `step`.

    None where no update is left. Of several processes each gets its part of every batch.
    """
    config, split, weights = parts.config, parts.data.train, parts.weights
    if weights is None:
        weights = assembly.split_weights(config, parts.fitted, split)
    size = config.training.batch_size
    transform = jax.device_get(parts.fitted.transform)
    own = devices.own(size)
    order = _Order(config.training.seed, size, len(split), config.data.flip, own)
    ahead = None

    def read(step, index):
        """Examples, and which of them are the step's."""
        nonlocal ahead
        if not split.streamed:
            return split.x, index
        if ahead is None:
            steps = range(step, config.training.num_steps)
            streamed = cast(streaming.Streamed, split.x)
            ahead = streaming.read_ahead(streamed, order.rows, steps)
        return next(ahead), np.arange(len(index))

    def one(step):
        index, flipped = order(step)
        x, rows = read(step, index)
        # On the host until they are spread over devices.
        leaves: dict[str, Any] = {
            "x": batches.make_batch(x, rows, flipped, transform),
            "index": np.arange(size, dtype=np.int32)[own],
            "mask": np.ones(len(index), np.float32),
            "weights": None if weights is None else weights[flipped.astype(int), index],
        }
        return Batch(**leaves)

    def of_call(step, num_steps):
        steps = range(step, min(step + config.training.steps_per_call, num_steps))
        if not steps:
            return None
        return jax.tree.map(lambda *leaves: np.stack(leaves), *[one(s) for s in steps])

    return of_call


@dataclasses.dataclass(frozen=True)
class _Order:
    """Which examples of a step are this process's; see `batches.indices`."""

    seed: int
    batch_size: int
    num_examples: int
    flip: bool
    own: slice

    def __call__(self, step):
        whole = batches.indices(self.seed, step, self.batch_size, self.num_examples, self.flip)
        return tuple(part[self.own] for part in whole)

    def rows(self, step):
        return self(step)[0]
