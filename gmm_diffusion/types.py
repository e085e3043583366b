"""Axis letters, array pytrees that cross module borders, and protocols.

Axis letters, everywhere in the package:

  B  examples in a batch           N  points (a dataset, or points to evaluate)
  H  W  C  image height, width, channels (images are NHWC)
  D  feature dimensions            K  mixture components
  F  embedding features            L  draws from a mixture
  S  sampling steps                A  attributes

Data may have any shape after the batch axis: images `[B, H, W, C]`, vectors `[B, D]`.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
from flax import struct

Array = jax.Array
# Of what runs on the host, too.
AnyArray = jax.Array | np.ndarray
# A number, or several that broadcast.
Numbers = AnyArray | float
PyTree = Any
# Called before each batch of a long piece of work; what it raises ends the work.
Poll = Callable[[], None]


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


class Rows(Protocol):
    """Examples on the host, read some rows at a time: an array, or what makes them then."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`[N, ...]`."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """`[M]` numbers of rows -> `[M, ...]`."""


class DenoiseFn(Protocol):
    """The posterior mean of clean data given noisy data."""

    def __call__(self, x: Array, sigma: Array, cond: PyTree = None) -> Array:
        """`x [B, ...]`, `sigma [B]` or `[]`, `cond` with leading B or None -> `[B, ...]`."""


class Sampler(Protocol):
    """Integrates from noise to data."""

    def __call__(
        self, denoise_fn: DenoiseFn, keys: Array, x_init: Array, sigmas: Array, cond: PyTree = None
    ) -> tuple[Array, PyTree]:
        """`keys [B]`, `x_init [B, ...]` scaled by `sigmas[0]`, `sigmas [S+1]` -> `[B, ...]`.

        Beside the samples what each of them took, such as `sampling.parallel.PicardInfo`; None
        where that is the same for all.
        """


class Denoise(Protocol):
    """A denoiser whose parameters are an argument: a dict of parts."""

    def __call__(
        self,
        params: PyTree,
        x: Array,
        sigma: Array,
        cond: PyTree = None,
        keys: Array | None = None,
        /,
    ) -> Array:
        """As `DenoiseFn`; `keys [B]` are for dropout, None for none."""


class LogVariance(Protocol):
    """The learned uncertainty of the denoising loss."""

    def __call__(self, params: PyTree, sigma: Array, /) -> Array:
        """`sigma [B] -> u [B]`."""


class Classify(Protocol):
    """A classifier of noisy or clean data whose parameters are an argument."""

    def __call__(
        self, params: PyTree, x: Array, sigma: Array | None = None, /
    ) -> tuple[Array, Array]:
        """`x [B, ...]`, `sigma [B]`, `[]` or None for none -> output `[B, M]`, embedding."""


class Cost(Protocol):
    """What a classifier's output costs."""

    def __call__(self, out: Array, weights: Array, /) -> Array:
        """Output `[B, M]`, target weights `[B, K] -> [B]`."""


class DenoisedTerm(Protocol):
    """A term of the training loss that reads the denoised data."""

    def __call__(
        self, params: PyTree, batch: Batch, sigma: Array, denoised: Array, /
    ) -> tuple[Array, dict[str, Array]]:
        """`sigma [B]`, `denoised [B, ...]` -> (`[B]` to add, a dict of `[B]` diagnostics)."""


class ContrastTerm(Protocol):
    """A term of the training loss that asks the denoiser itself."""

    def __call__(
        self, params: PyTree, batch: Batch, cond: PyTree, keys: Array, /
    ) -> tuple[Array, dict[str, Array]]:
        """`cond` with leading B, `keys [B]` -> (`[B]` to add, a dict of `[B]` diagnostics)."""


class Target(Protocol):
    """What a denoiser regresses on in place of the data."""

    def __call__(
        self, noisy: Array, sigma: Array, weights: Array | None, keep: Array | None
    ) -> Array:
        """`noisy [B, ...]`, `sigma [B]`, `weights [B, K]`, `keep [B]` -> `[B, ...]`."""


class TrainStep(Protocol):
    """One update of a state of training, such as `training.state.TrainState`."""

    def __call__(
        self, state: PyTree, batch: Batch, key: Array, *, axis_name: str | None = None
    ) -> tuple[PyTree, dict[str, Array]]:
        """`key` of the run, `axis_name` of devices -> the next state, scalar metrics."""


class LossFn(Protocol):
    """Losses that keep the batch axis; only the train step takes a mean.

    No loss depends on the other examples, so that a batch can be spread over devices and time.
    """

    def __call__(self, params: PyTree, batch: Batch, keys: Array) -> tuple[Array, dict[str, Array]]:
        """`keys [B]` -> (`[B]` losses, a dict of `[B]` diagnostics)."""
