"""Layers that keep the magnitude of activations: unit RMS in, unit RMS out.

From the text and equations of Karras et al. 2023, "Analyzing and Improving the Training Dynamics
of Diffusion Models" (arXiv 2312.02696), section 2 and appendix B. Every learned kernel is a leaf
named `weight` whose last axis counts outputs; `normalize_weights` rescales each output's kernel to
unit RMS and belongs after every update of the optimiser (eq. 67 and section 2.3, forced weight
normalisation).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri

from gmm_diffusion.networks.convolution import conv2d
from gmm_diffusion.types import Array, PyTree

EPSILON = 1e-4


def normalize(x: Array, axis: int | tuple[int, ...]) -> Array:
    """`x` rescaled to unit RMS over `axis`, in float32 (arXiv 2312.02696, eq. 66)."""
    x32 = x.astype(jnp.float32)
    rms = jnp.sqrt(jnp.mean(jnp.square(x32), axis=axis, keepdims=True))
    return (x32 / (EPSILON + rms)).astype(x.dtype)


def normalize_weights(params: PyTree) -> PyTree:
    """Forced weight normalisation of every leaf named `weight`; other leaves pass through."""

    def one(path, leaf):
        if path[-1].key != "weight":
            return leaf
        return normalize(leaf, axis=tuple(range(leaf.ndim - 1)))

    return jax.tree_util.tree_map_with_path(one, params)


def mp_silu(x: Array) -> Array:
    """SiLU divided by its RMS under a unit normal input (arXiv 2312.02696, eq. 81)."""
    return nn.silu(x) / 0.596


def mp_sum(a: Array, b: Array, t: float) -> Array:
    """`(1 - t) a + t b`, scaled so that independent unit inputs give unit RMS (eq. 88)."""
    # Python floats: a NumPy scalar would turn bfloat16 into float32.
    scale = float(1.0 / np.sqrt((1.0 - t) ** 2 + t**2))
    return a * (scale * (1.0 - t)) + b * (scale * t)


def mp_cat(a: Array, b: Array, t: float = 0.5) -> Array:
    """Concatenation of channels in which `a` and `b` contribute as `1 - t` to `t` (eq. 103)."""
    channels_a, channels_b = a.shape[-1], b.shape[-1]
    scale = np.sqrt((channels_a + channels_b) / ((1.0 - t) ** 2 + t**2))
    scale_a = float(scale / np.sqrt(channels_a) * (1.0 - t))
    scale_b = float(scale / np.sqrt(channels_b) * t)
    return jnp.concatenate([a * scale_a, b * scale_b], axis=-1)


def fourier_features(x: Array, num_features: int) -> Array:
    """Cosine features of a scalar, `[B]` -> `[B, F]`, unit RMS (arXiv 2312.02696, eq. 75).

    The paper draws frequencies from N(0, 1) and phases uniformly. Ours are the quantiles of N(0, 1)
    with phases in a fixed order, so that they need neither a key nor a place in the checkpoint, and
    each cosine comes with its sine, so that the RMS is 1 at every `x` for an even number of them.
    """
    pairs = -(-num_features // 2)
    position = np.arange(pairs)
    frequencies = ndtri((position + 0.5) / pairs)
    phases = position * (np.sqrt(5.0) - 1.0) / 2.0 % 1.0
    angle = 2.0 * np.pi * (x.astype(jnp.float32)[:, None] * frequencies[None] + phases[None])
    features = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    return np.sqrt(2.0).item() * features[:, :num_features]


class MPLinear(nn.Module):
    """`[..., D] -> [..., features]`, no bias; `gain` scales the output (eq. 66)."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, gain: Array | float = 1.0) -> Array:
        fan_in = x.shape[-1]
        weight = self.param("weight", nn.initializers.normal(1.0), (fan_in, self.features))
        weight = normalize(weight, axis=0) * (gain / np.sqrt(fan_in))
        return x.astype(self.dtype) @ weight.astype(self.dtype)


class MPConv(nn.Module):
    """`[B, H, W, C] -> [B, H, W, features]`, stride 1, zero padding, no bias (eq. 66)."""

    features: int
    kernel_size: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, gain: Array | float = 1.0) -> Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        weight = self.param("weight", nn.initializers.normal(1.0), shape)
        weight = normalize(weight, axis=(0, 1, 2)) * (gain / np.sqrt(np.prod(shape[:3])))
        return conv2d(x.astype(self.dtype), weight.astype(self.dtype))


def dropout(x: Array, rate: float, keys: Array | None) -> Array:
    """Drops entries of `x [B, ...]` with one key an example; `keys` None keeps everything.

    The mask belongs to the example, so the result does not depend on how a batch is split.
    """
    if keys is None or rate == 0.0:
        return x
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(keys)
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros_like(x))
