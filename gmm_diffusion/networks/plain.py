"""Ordinary layers, a kernel and a bias, beside the magnitude-preserving ones.

Their leaves are named `kernel` and `bias`, so that forced weight normalisation passes them by.
Kernels start as He et al. 2015 (arXiv 1502.01852, eq. 10) has it for ReLU, biases at zero.
"""

import flax.linen as nn

from gmm_diffusion.networks.convolution import conv2d
from gmm_diffusion.types import Array

_HE = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class Linear(nn.Module):
    """`[..., D] -> [..., features]`."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", _HE, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return x @ kernel + bias.reshape((1,) * (x.ndim - 1) + (-1,))


class Conv(nn.Module):
    """`[B, H, W, C] -> [B, H, W, features]`, stride 1, zero padding."""

    features: int
    kernel_size: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", _HE, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return conv2d(x, kernel) + bias[None, None, None]
