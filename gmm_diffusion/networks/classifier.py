"""Small plain classifiers of clean data. The judge of the metrics is one of them.

Unlike the denoisers they keep no magnitudes: they are trained in seconds and read once. Those that
take part in training and guidance are of another architecture: `encoder`.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gmm_diffusion.networks.convolution import conv2d
from gmm_diffusion.types import Array


def _conv2d(x: Array, kernel: Array, *_: Any, **__: Any) -> Array:
    # What linen says of stride, padding and layout is what `conv2d` does.
    return conv2d(x, kernel)


class ConvClassifier(nn.Module):
    """Images `[B, H, W, C]`, standardised, to `(logits [B, num_classes], embedding [B, F])`.

    Two convolutions a stage, each stage at half the resolution of the one before, until the shorter
    side is 2 or less; the embedding is the last hidden layer.

    Attributes:
      num_classes: number of logits.
      width: channels of the first stage; later ones have twice as many.
      embedding_dim: F, at least 32 where the embedding is to carry metrics.
    """

    num_classes: int
    width: int = 32
    embedding_dim: int = 64

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        stage = 0
        while stage == 0 or min(x.shape[1:3]) > 2:
            width = self.width * (1 if stage == 0 else 2)
            for i in range(2):
                conv = nn.Conv(
                    width, (3, 3), conv_general_dilated=_conv2d, name=f"conv_{stage}_{i}"
                )
                x = conv(x)
                x = nn.GroupNorm(num_groups=None, group_size=8, name=f"norm_{stage}_{i}")(x)
                x = nn.relu(x)
            if min(x.shape[1:3]) > 1:
                x = nn.max_pool(x, (2, 2), (2, 2))
            stage += 1
        x = x.reshape(x.shape[0], -1)
        embedding = nn.silu(nn.Dense(self.embedding_dim, name="embedding")(x))
        return nn.Dense(self.num_classes, name="logits")(embedding), embedding


class MLPClassifier(nn.Module):
    """Vectors `[B, D]`, standardised, to `(logits [B, num_classes], embedding [B, F])`.

    Attributes:
      num_classes: number of logits.
      width: features of the two hidden layers before the embedding.
      embedding_dim: F, at least 32 where the embedding is to carry metrics.
    """

    num_classes: int
    width: int = 128
    embedding_dim: int = 64

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        for i in range(2):
            x = nn.silu(nn.Dense(self.width, name=f"hidden_{i}")(x))
        embedding = nn.silu(nn.Dense(self.embedding_dim, name="embedding")(x))
        return nn.Dense(self.num_classes, name="logits")(embedding), embedding


def for_shape(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """The classifier for examples of that shape: `(H, W, C)` or `(D,)`."""
    kind = ConvClassifier if len(shape) == 3 else MLPClassifier
    return kind(num_classes=num_classes)


def cross_entropy(logits: Array, label: Array, smoothing: float = 0.0) -> Array:
    """Softmax cross-entropy against smoothed labels: `[B, num_classes]`, `[B]` int -> `[B]`."""
    log_prob = nn.log_softmax(logits)
    hit = jnp.take_along_axis(log_prob, label[:, None], axis=-1)[:, 0]
    return -(1 - smoothing) * hit - smoothing * log_prob.mean(axis=-1)


def binary_cross_entropy(logits: Array, attributes: Array, smoothing: float = 0.0) -> Array:
    """Sum over attributes of the cost of smoothed targets: `[B, A]`, `[B, A]` of 0, 1 -> `[B]`."""
    target = (1 - smoothing) * attributes + 0.5 * smoothing
    return (nn.softplus(logits) - target * logits).sum(axis=-1)
