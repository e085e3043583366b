"""Axis letters, array pytrees that cross module borders, and protocols.

Axis letters, everywhere in the package:

  B  examples in a batch           N  points (a dataset, or points to evaluate)
  H  W  C  image height, width, channels (images are NHWC)
  D  feature dimensions            K  mixture components
  F  embedding features            L  draws from a mixture
  S  sampling steps                A  attributes

Data may have any shape after the batch axis: images `[B, H, W, C]`, vectors `[B, D]`.
"""

from typing import Any, Protocol

import jax
from flax import struct

Array = jax.Array
PyTree = Any


@struct.dataclass
class Batch:
    """One training batch.

    Attributes:
      x: `[B, ...]` data, float32, centred (see `data.batches.Transform`).
      index: `[B]` int32, each example's position in the global batch; its random key is folded
        from this number, so that randomness belongs to the example and not to the device.
      mask: `[B]` float32, 1 for an example that counts and 0 for padding.
      weights: `[B, K]` mixture weights `w(x)` of each example, or None without conditioning.
    """

    x: Array
    index: Array
    mask: Array
    weights: Array | None = None


@struct.dataclass
class Condition:
    """What a network is conditioned on; made by `conditioning.encode`, outside the network.

    Attributes:
      features: `[B, F]` embedding, `[B, L, D]` draws, or `[B, K]` scaled weights.
      keep: `[B]` float32; 1 uses `features`, 0 selects the learned null embedding.
    """

    features: Array
    keep: Array


class DenoiseFn(Protocol):
    """The posterior mean of clean data given noisy data."""

    def __call__(self, x: Array, sigma: Array, cond: PyTree = None) -> Array:
        """`x [B, ...]`, `sigma [B]` or `[]`, `cond` with leading B or None -> `[B, ...]`."""


class Sampler(Protocol):
    """Integrates from noise to data."""

    def __call__(
        self, denoise_fn: DenoiseFn, keys: Array, x_init: Array, sigmas: Array, cond: PyTree = None
    ) -> Array:
        """`keys [B]`, `x_init [B, ...]` scaled by `sigmas[0]`, `sigmas [S+1]` -> `[B, ...]`."""


class LossFn(Protocol):
    """Losses that keep the batch axis; only the train step takes a mean."""

    def __call__(self, params: PyTree, batch: Batch, keys: Array) -> tuple[Array, dict[str, Array]]:
        """`keys [B]` -> (`[B]` losses, a dict of `[B]` diagnostics)."""
