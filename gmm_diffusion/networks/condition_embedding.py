"""From a `Condition` to the vector that enters the network where EDM2's class label does."""

import flax.linen as nn
import jax.numpy as jnp

from gmm_diffusion.networks.magnitude_preserving import (
    MPLinear,
    fourier_features,
    mp_silu,
    mp_sum,
    normalize,
)
from gmm_diffusion.types import Array, Condition


class ConditionVector(nn.Module):
    """`Condition` -> `[B, width]` of about unit RMS.

    A vector of features goes through one magnitude-preserving layer (for scaled weights
    `sqrt(K) w` that layer is the learned table of embeddings). Draws `[B, L, D]` go through a
    small MLP each and are averaged. `keep` 0 gives a learned null vector instead.
    """

    width: int

    @nn.compact
    def __call__(self, cond: Condition) -> Array:
        features = cond.features
        if features.ndim == 3:
            ones = jnp.ones((*features.shape[:2], 1), features.dtype)
            hidden = jnp.concatenate([features, ones], axis=-1)
            hidden = mp_silu(MPLinear(self.width, name="draw_0")(hidden))
            hidden = mp_silu(MPLinear(self.width, name="draw_1")(hidden))
            features = normalize(jnp.mean(hidden, axis=1), axis=-1)
        vector = MPLinear(self.width, name="features")(features)
        null = self.param("null", NullVector.init, self.width)["weight"]
        null = normalize(null, axis=0)[:, 0]
        return jnp.where(cond.keep[:, None] > 0.5, vector, null[None])


class NullVector:
    """The null embedding: one output with fan-in `width`, so that forced normalisation fits it."""

    @staticmethod
    def init(key: Array, width: int) -> dict[str, Array]:
        return {"weight": nn.initializers.normal(1.0)(key, (width, 1))}


class NoiseAndCondition(nn.Module):
    """`c_noise [B]` and a `Condition` or None -> the embedding `[B, width]` that drives each block.

    Fourier features of the noise level through a layer, the condition's vector added in equal
    parts, then SiLU (arXiv 2312.02696, figure 21, config G).
    """

    width: int
    noise_features: int

    @nn.compact
    def __call__(self, c_noise: Array, cond: Condition | None) -> Array:
        embedding = MPLinear(self.width, name="noise")(
            fourier_features(c_noise, self.noise_features)
        )
        if cond is not None:
            vector = ConditionVector(self.width, name="condition")(cond)
            embedding = mp_sum(embedding, vector, t=0.5)
        return mp_silu(embedding)
