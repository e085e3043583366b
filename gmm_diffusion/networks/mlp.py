"""A magnitude-preserving MLP for vectors, in the spirit of the EDM2 U-Net (arXiv 2312.02696)."""

import flax.linen as nn
import jax.numpy as jnp

from gmm_diffusion.networks.condition_embedding import NoiseAndCondition
from gmm_diffusion.networks.magnitude_preserving import (
    MPLinear,
    dropout,
    mp_silu,
    mp_sum,
    normalize,
)
from gmm_diffusion.random_keys import fold_in
from gmm_diffusion.types import Array, Condition


class ResidualBlock(nn.Module):
    """The U-Net's encoder block with layers in place of convolutions: `[B, F] -> [B, F]`."""

    dropout_rate: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, embedding: Array, keys: Array | None = None) -> Array:
        width = x.shape[-1]
        x = normalize(x, axis=-1)
        y = MPLinear(width, self.dtype, name="linear_0")(mp_silu(x))
        gain = self.param("embedding_gain", nn.initializers.zeros, ())
        scale = MPLinear(width, name="embedding")(embedding, gain) + 1.0
        y = dropout(mp_silu(y * scale.astype(y.dtype)), self.dropout_rate, keys)
        y = MPLinear(width, self.dtype, name="linear_1")(y)
        return mp_sum(x, y, t=0.3)


class MLP(nn.Module):
    """`x [B, D]`, `c_noise [B]`, `Condition` or None -> `[B, D]`, zero at the start.

    Attributes:
      width: hidden features.
      num_blocks: residual blocks of two layers each.
      dropout_rate: dropout in the residual branches while training.
      dtype: of the computation; parameters stay float32.
      rematerialize: as in `unet.UNet`.
    """

    width: int
    num_blocks: int
    dropout_rate: float = 0.0
    dtype: jnp.dtype = jnp.float32
    rematerialize: bool = False

    @nn.compact
    def __call__(
        self, x: Array, c_noise: Array, cond: Condition | None = None, keys: Array | None = None
    ) -> Array:
        dim = x.shape[-1]
        embedding = NoiseAndCondition(self.width, self.width, name="embed")(c_noise, cond)
        x = jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=-1)
        x = MPLinear(self.width, self.dtype, name="linear_in")(x)
        make_block = nn.remat(ResidualBlock) if self.rematerialize else ResidualBlock
        for i in range(self.num_blocks):
            block = make_block(self.dropout_rate, self.dtype, name=f"block_{i}")
            x = block(x, embedding, fold_in(keys, i))
        gain = self.param("out_gain", nn.initializers.zeros, ())
        return MPLinear(dim, self.dtype, name="linear_out")(x, gain).astype(jnp.float32)
