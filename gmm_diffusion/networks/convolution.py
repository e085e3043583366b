"""A 2-D convolution whose gradient stays fast inside `lax.scan` on CPU.

XLA's CPU backend runs a convolution's weight gradient, itself a convolution in another layout,
tens of times slower inside a loop than outside (jax-ml/jax#12868). There both gradients are written
as convolutions in the forward layout: that of the input with the flipped kernel, that of the kernel
with operands transposed first. Other platforms keep XLA's own gradients.
"""

import jax
import jax.numpy as jnp
from jax import lax

from gmm_diffusion.types import Array

# In the names of operations that are only for the CPU, for what reads compiled programs.
FOR_CPU = "for_cpu"
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


@jax.named_scope(FOR_CPU)
def _gradient_by_canonical_layout(x, kernel, out_gradient):
    pad = kernel.shape[0] // 2
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    x_gradient = _forward(out_gradient, flipped)
    if pad == 0:
        flat = x.reshape(-1, x.shape[-1]).T @ out_gradient.reshape(-1, out_gradient.shape[-1])
        return x_gradient, flat[None, None]
    # The weight gradient correlates images with gradients: channels take the place of the batch,
    # the batch that of the channels. The barrier keeps XLA from folding the transpositions into
    # the convolution, which would undo the layout.
    images, gradients = lax.optimization_barrier(
        (x.transpose(3, 1, 2, 0), out_gradient.transpose(1, 2, 0, 3))
    )
    kernel_gradient = lax.conv_general_dilated(
        images, gradients, (1, 1), [(pad, pad), (pad, pad)], dimension_numbers=_DIMENSIONS
    )
    return x_gradient, kernel_gradient.transpose(1, 2, 0, 3)


def _gradient_by_xla(x, kernel, out_gradient):
    return jax.vjp(_forward, x, kernel)[1](out_gradient)


def _conv2d_bwd(residuals, out_gradient):
    x, kernel = residuals
    return lax.platform_dependent(
        x, kernel, out_gradient, cpu=_gradient_by_canonical_layout, default=_gradient_by_xla
    )


conv2d.defvjp(_conv2d_fwd, _conv2d_bwd)
