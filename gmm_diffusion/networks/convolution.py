"""A 2-D convolution whose gradient stays fast inside `lax.scan` on CPU.

XLA's CPU backend runs a convolution's weight gradient, itself a convolution in another layout,
tens of times slower inside a loop than outside (jax-ml/jax#12868). There the weight gradient is
computed as one matrix product a kernel position instead, and the input gradient as an ordinary
convolution with the flipped kernel. Other platforms keep XLA's own gradients.
"""

import jax
import jax.numpy as jnp
from jax import lax

from gmm_diffusion.types import Array

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def _forward(x: Array, kernel: Array) -> Array:
    if kernel.shape[:2] == (1, 1):
        return x @ kernel[0, 0]
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_DIMENSIONS)


@jax.custom_vjp
def conv2d(x: Array, kernel: Array) -> Array:
    """`x [B, H, W, C]`, odd `kernel [k, k, C, C']` -> `[B, H, W, C']`; stride 1, zero padding."""
    return _forward(x, kernel)


def _conv2d_fwd(x, kernel):
    return _forward(x, kernel), (x, kernel)


def _gradient_by_products(x, kernel, out_gradient):
    size = kernel.shape[0]
    pad = size // 2
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    x_gradient = _forward(out_gradient, flipped)
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    flat_gradient = out_gradient.reshape(-1, kernel.shape[3])
    height, width = x.shape[1:3]
    products = [
        padded[:, i : i + height, j : j + width].reshape(-1, kernel.shape[2]).T @ flat_gradient
        for i in range(size)
        for j in range(size)
    ]
    return x_gradient, jnp.stack(products).reshape(kernel.shape)


def _gradient_by_xla(x, kernel, out_gradient):
    return jax.vjp(_forward, x, kernel)[1](out_gradient)


def _conv2d_bwd(residuals, out_gradient):
    x, kernel = residuals
    return lax.platform_dependent(
        x, kernel, out_gradient, cpu=_gradient_by_products, default=_gradient_by_xla
    )


conv2d.defvjp(_conv2d_fwd, _conv2d_bwd)
