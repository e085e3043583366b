"""Classifiers that take part in training and guidance.

They map an example, and where it is given its noise level, to a point in a mixture's feature space,
to logits, or to one number an attribute: what the output means is the loss's business. Their layers
keep magnitudes, as the denoisers' do (arXiv 2312.02696), or are ordinary ones with ReLU and no
normalisation of any kind, whose training can go wrong.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from gmm_diffusion.networks import plain
from gmm_diffusion.networks.magnitude_preserving import (
    MPConv,
    MPLinear,
    fourier_features,
    mp_silu,
    normalize,
)
from gmm_diffusion.types import Array

_NOISE_FEATURES = 32


@dataclasses.dataclass(frozen=True)
class _Layers:
    """One kind of layers: what a convolution and a product are, and what comes around them."""

    conv: Callable[..., nn.Module]
    linear: Callable[..., nn.Module]
    before: Callable[[Array], Array]
    after: Callable[[Array], Array]


_KEEPING = _Layers(MPConv, MPLinear, lambda x: normalize(x, axis=-1), mp_silu)
_PLAIN = _Layers(plain.Conv, plain.Linear, lambda x: x, nn.relu)


class ConvEncoder(nn.Module):
    """Images `[B, H, W, C]` of about unit RMS, `c_noise [B]` -> `(out [B, M], embedding [B, F])`.

    Two convolutions a stage, each stage at half the resolution of the one before while height and
    width are even and above 2; the embedding is the last hidden layer.

    Attributes:
      out_dim: M.
      width: channels of the first stage; later ones have twice as many.
      embedding_dim: F.
      normalize: magnitude-preserving layers, with an output of about unit RMS at the start.
    """

    out_dim: int
    width: int = 32
    embedding_dim: int = 64
    normalize: bool = True

    @nn.compact
    def __call__(self, x: Array, c_noise: Array | None = None) -> tuple[Array, Array]:
        layers = _KEEPING if self.normalize else _PLAIN
        x, stage = _with_ones(x), 0
        while True:
            features = self.width * (1 if stage == 0 else 2)
            for i in range(2):
                x = layers.conv(features, 3, name=f"conv_{stage}_{i}")(layers.before(x))
                x = NoiseScale(layers, name=f"noise_{stage}_{i}")(x, c_noise)
                x = layers.after(x)
            batch, height, width, channels = x.shape
            if min(height, width) <= 2 or height % 2 or width % 2:
                break
            x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
            stage += 1
        x = x.reshape(batch, -1)
        return Head(layers, self.embedding_dim, self.out_dim, name="head")(x)


class MLPEncoder(nn.Module):
    """Vectors `[B, D]` of about unit RMS, `c_noise [B]` -> `(out [B, M], embedding [B, F])`.

    Attributes:
      out_dim: M.
      width: features of the hidden layers before the embedding.
      embedding_dim: F.
      normalize: as in `ConvEncoder`.
      num_hidden: number of layers before the embedding.
    """

    out_dim: int
    width: int = 128
    embedding_dim: int = 64
    normalize: bool = True
    num_hidden: int = 2

    @nn.compact
    def __call__(self, x: Array, c_noise: Array | None = None) -> tuple[Array, Array]:
        layers = _KEEPING if self.normalize else _PLAIN
        x = _with_ones(x.reshape(x.shape[0], -1))
        for i in range(self.num_hidden):
            x = layers.linear(self.width, name=f"hidden_{i}")(layers.before(x))
            x = layers.after(NoiseScale(layers, name=f"noise_{i}")(x, c_noise))
        return Head(layers, self.embedding_dim, self.out_dim, name="head")(x)


class NoiseScale(nn.Module):
    """Scales each feature of `x [B, ..., C]` by `1 + g f(c_noise [B])`, the gain g 0 at the start.

    Without a noise level nothing happens, and there are no parameters.
    """

    layers: _Layers

    @nn.compact
    def __call__(self, x: Array, c_noise: Array | None) -> Array:
        if c_noise is None:
            return x
        gain = self.param("gain", nn.initializers.zeros, ())
        features = fourier_features(c_noise, _NOISE_FEATURES)
        scale = 1.0 + gain * self.layers.linear(x.shape[-1], name="noise")(features)
        return x * scale.reshape(scale.shape[:1] + (1,) * (x.ndim - 2) + scale.shape[1:])


class Head(nn.Module):
    """`[B, C] -> (out [B, M], embedding [B, F])`."""

    layers: _Layers
    embedding_dim: int
    out_dim: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        x = self.layers.linear(self.embedding_dim, name="embedding")(self.layers.before(x))
        embedding = self.layers.after(x)
        out = self.layers.linear(self.out_dim, name="out")(embedding)
        if self.layers is _KEEPING:
            # Forced normalisation fixes the layer's scale; the centres' and the logits' is free.
            out = out * (1.0 + self.param("out_gain", nn.initializers.zeros, ()))
        return out, embedding


def _with_ones(x: Array) -> Array:
    """A constant feature, the bias of layers that have none."""
    return jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)


ENCODERS = {"conv": ConvEncoder, "mlp": MLPEncoder}
