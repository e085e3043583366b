"""The EDM2 magnitude-preserving U-Net (config G of Karras et al. 2023, arXiv 2312.02696).

Written from the paper's text, figure 21 and equations. The condition enters where the paper's
class label does.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gmm_diffusion.networks.condition_embedding import NoiseAndCondition
from gmm_diffusion.networks.magnitude_preserving import (
    MPConv,
    MPLinear,
    dropout,
    mp_cat,
    mp_silu,
    mp_sum,
    normalize,
)
from gmm_diffusion.random_keys import fold_in
from gmm_diffusion.types import Array, Condition

RESIDUAL_BALANCE = 0.3
CLIP = 256.0


def downsample(x: Array) -> Array:
    """Mean of 2x2 pixels, `[B, H, W, C] -> [B, H/2, W/2, C]`."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def upsample(x: Array) -> Array:
    """Each pixel repeated 2x2, `[B, H, W, C] -> [B, 2H, 2W, C]`."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


class SelfAttention(nn.Module):
    """Cosine attention over pixels, added to its input (arXiv 2312.02696, section 2.4)."""

    head_channels: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, height, width, channels = x.shape
        heads = max(channels // self.head_channels, 1)
        qkv = MPConv(3 * channels, 1, self.dtype, name="qkv")(x)
        qkv = qkv.reshape(batch, height * width, 3, heads, channels // heads)
        query, key, value = jnp.moveaxis(normalize(qkv, axis=-1), 2, 0)
        scores = jnp.einsum("bqhc,bkhc->bhqk", query, key) / np.sqrt(channels // heads)
        attention = jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(x.dtype)
        y = jnp.einsum("bhqk,bkhc->bqhc", attention, value).reshape(x.shape)
        y = MPConv(channels, 1, self.dtype, name="projection")(y)
        return mp_sum(x, y, t=RESIDUAL_BALANCE)


class Block(nn.Module):
    """One encoder or decoder block (arXiv 2312.02696, figure 21).

    Attributes:
      features: output channels.
      flavor: "encoder" normalises its input per pixel; "decoder" does not.
      resample: "keep", "down" or "up".
      attention: whether self-attention follows the residual branch.
      head_channels: channels of one attention head.
      dropout_rate: probability of dropping an activation of the residual branch.
    """

    features: int
    flavor: str
    resample: str = "keep"
    attention: bool = False
    head_channels: int = 64
    dropout_rate: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, embedding: Array, keys: Array | None = None) -> Array:
        x = {"keep": lambda x: x, "down": downsample, "up": upsample}[self.resample](x)
        resize = x.shape[-1] != self.features
        if self.flavor == "encoder":
            if resize:
                x = MPConv(self.features, 1, self.dtype, name="skip")(x)
            x = normalize(x, axis=-1)
        y = MPConv(self.features, 3, self.dtype, name="conv_0")(mp_silu(x))
        gain = self.param("embedding_gain", nn.initializers.zeros, ())
        scale = MPLinear(self.features, name="embedding")(embedding, gain) + 1.0
        y = mp_silu(y * scale.astype(y.dtype)[:, None, None])
        y = dropout(y, self.dropout_rate, keys)
        y = MPConv(self.features, 3, self.dtype, name="conv_1")(y)
        if self.flavor == "decoder" and resize:
            x = MPConv(self.features, 1, self.dtype, name="skip")(x)
        x = mp_sum(x, y, t=RESIDUAL_BALANCE)
        if self.attention:
            x = SelfAttention(self.head_channels, self.dtype, name="attention")(x)
        return jnp.clip(x, min=-CLIP, max=CLIP)


class UNet(nn.Module):
    """`x [B, H, W, C]`, `c_noise [B]`, `Condition` or None -> `[B, H, W, C]`, zero at the start.

    Attributes:
      model_channels: channels at full resolution, before `channel_mult`.
      channel_mult: multiplier of each resolution; each next one halves height and width, which
        must be divisible accordingly.
      num_blocks: encoder blocks a resolution (the decoder has one more).
      attention_resolutions: heights at which blocks attend.
      attention_middle: whether the decoder's first block, at the lowest resolution, attends where
        its height is not among these: config G, whose blocks `in0` and `in1` are `middle_0` and
        `middle_1` here.
      head_channels: channels of one attention head.
      dropout_rate: dropout in the residual branches while training.
      dtype: of the computation; parameters stay float32.
      rematerialize: whether a gradient computes the activations inside each block again, from the
        block's input, instead of keeping them (Chen et al. 2016, arXiv 1604.06174).
    """

    model_channels: int
    channel_mult: tuple[int, ...]
    num_blocks: int
    attention_resolutions: tuple[int, ...] = ()
    attention_middle: bool = True
    head_channels: int = 64
    dropout_rate: float = 0.0
    dtype: jnp.dtype = jnp.float32
    rematerialize: bool = False

    @nn.compact
    def __call__(
        self, x: Array, c_noise: Array, cond: Condition | None = None, keys: Array | None = None
    ) -> Array:
        channels = [self.model_channels * mult for mult in self.channel_mult]
        out_channels = x.shape[-1]
        embedding = NoiseAndCondition(max(channels), channels[0], name="embed")(c_noise, cond)

        make_block = nn.remat(Block) if self.rematerialize else Block
        number = 0

        def listed(x):
            return x.shape[1] in self.attention_resolutions

        def block(x, features, flavor, name, resample="keep", attention=False):
            nonlocal number
            number += 1
            return make_block(
                features,
                flavor,
                resample,
                attention,
                self.head_channels,
                self.dropout_rate,
                self.dtype,
                name=name,
            )(x, embedding, fold_in(keys, number))

        x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
        x = MPConv(channels[0], 3, self.dtype, name="conv_in")(x)
        skips = [x]
        for level, features in enumerate(channels):
            if level > 0:
                x = block(x, x.shape[-1], "encoder", f"encoder_{level}_down", resample="down")
                skips.append(x)
            for i in range(self.num_blocks):
                x = block(x, features, "encoder", f"encoder_{level}_{i}", attention=listed(x))
                skips.append(x)

        for level, features in reversed(list(enumerate(channels))):
            if level == len(channels) - 1:
                attention = self.attention_middle or listed(x)
                x = block(x, features, "decoder", "middle_0", attention=attention)
                x = block(x, features, "decoder", "middle_1")
            else:
                x = block(x, x.shape[-1], "decoder", f"decoder_{level}_up", resample="up")
            for i in range(self.num_blocks + 1):
                x = mp_cat(x, skips.pop())
                x = block(x, features, "decoder", f"decoder_{level}_{i}", attention=listed(x))

        gain = self.param("out_gain", nn.initializers.zeros, ())
        return MPConv(out_channels, 3, self.dtype, name="conv_out")(x, gain).astype(jnp.float32)
