"""The last hidden layer of a trained classifier, as a space of features."""

import jax
import numpy as np
from flax import struct

from gmm_diffusion.data import batches
from gmm_diffusion.model.classifier import make_classify
from gmm_diffusion.networks.encoder import ENCODERS
from gmm_diffusion.types import Array

_ROWS = 256


@struct.dataclass
class Embedder:
    """A classifier with all that its features depend on; it needs its run no more.

    Attributes:
      params: nested dict of parameters.
      transform: centring of the data that it was trained on.
      sigma_data: `[]` their RMS.
      name: key of `encoder.ENCODERS`.
      out_dim: entries of its output, which is not used.
      width: as `classifier.width`.
      embedding_dim: F.
      normalize: as `classifier.normalize`.
      noisy: whether it sees a noise level, too.
    """

    params: dict
    transform: batches.Transform
    sigma_data: Array
    name: str = struct.field(pytree_node=False, default="conv")
    out_dim: int = struct.field(pytree_node=False, default=1)
    width: int = struct.field(pytree_node=False, default=32)
    embedding_dim: int = struct.field(pytree_node=False, default=64)
    normalize: bool = struct.field(pytree_node=False, default=True)
    noisy: bool = struct.field(pytree_node=False, default=False)


def embed(embedder: Embedder, x: np.ndarray, flip: bool = False) -> np.ndarray:
    """Features of clean data.

    Args:
      embedder: the classifier.
      x: `[N, ...]` uint8 images, or floats in the units of the data that it was trained on.
      flip: whether the mirror images' features stand behind.

    Returns:
      `[N, F]` float32, or `[2N, F]`.
    """
    encoder = ENCODERS[embedder.name](
        embedder.out_dim, embedder.width, embedder.embedding_dim, embedder.normalize
    )
    classify = make_classify(encoder, float(embedder.sigma_data), embedder.noisy)
    views = batches.Views(x, jax.device_get(embedder.transform), flip)
    one_block = jax.jit(lambda params, x: classify(params, x)[1])
    # Always a full block, so that one compiled program serves all of them.
    made = [
        np.asarray(one_block(embedder.params, views[np.arange(start, start + _ROWS) % len(views)]))
        for start in range(0, len(views), _ROWS)
    ]
    return np.concatenate(made)[: len(views)]
