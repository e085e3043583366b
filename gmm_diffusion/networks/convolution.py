"""A 2-D convolution whose gradient is fast on a CPU, inside `lax.scan` as well.

XLA's CPU backend runs a convolution's weight gradient, itself a convolution in another layout,
tens of times slower inside a loop than outside (jax-ml/jax#12868). There the gradient of the input
is a convolution with the flipped kernel, and that of the kernel a few matrix products. Other
platforms keep XLA's own gradients.
"""

import jax
import jax.numpy as jnp
from jax import lax

from gmm_diffusion.types import Array

# In the names of operations that are only for the CPU, for what reads compiled programs.
FOR_CPU = "for_cpu"
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# What one block of the weight gradient reads: measured, benchmarks/README.md.
_BLOCK_BYTES = 4 << 20


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
def _gradient_by_products(x, kernel, out_gradient):
    pad = kernel.shape[0] // 2
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    x_gradient = _forward(out_gradient, flipped)
    if pad == 0:
        flat = x.reshape(-1, x.shape[-1]).T @ out_gradient.reshape(-1, out_gradient.shape[-1])
        return x_gradient, flat[None, None]
    return x_gradient, _weight_gradient(x, out_gradient, kernel.shape[0])


def _weight_gradient(x, out_gradient, size):
    """`[k, k, C, C']`: over blocks of examples whose operands stay in the cache."""
    batch, height, width, channels = x.shape
    row_bytes = height * width * (channels + size * out_gradient.shape[-1]) * x.dtype.itemsize
    sizes = [n for n in range(1, batch + 1) if batch % n == 0]
    block = max((n for n in sizes if n * row_bytes <= _BLOCK_BYTES), default=1)
    if block == batch:
        return _weight_gradient_of_block(x, out_gradient, size)

    def add(total, block):
        images, gradients = block
        return total + _weight_gradient_of_block(images, gradients, size), None

    blocks = jax.tree.map(lambda a: a.reshape(-1, block, *a.shape[1:]), (x, out_gradient))
    start = jnp.zeros((size, size, channels, out_gradient.shape[-1]), jnp.float32)
    return lax.scan(add, start, blocks)[0].astype(x.dtype)


def _weight_gradient_of_block(x, out_gradient, size):
    # A kernel's row is one product: of the image shifted by rows with the gradient shifted by each
    # column. One product for the whole kernel copies more than it saves, nine have narrow operands.
    pad = size // 2
    _, height, width, channels = x.shape
    features = out_gradient.shape[-1]
    x = jnp.pad(x, ((0, 0), (pad, pad), (0, 0), (0, 0)))
    out_gradient = jnp.pad(out_gradient, ((0, 0), (0, 0), (pad, pad), (0, 0)))
    shifted = [out_gradient[:, :, size - 1 - j :][:, :, :width] for j in range(size)]
    columns = jnp.concatenate(shifted, axis=-1).reshape(-1, size * features)
    rows = [x[:, i : i + height].reshape(-1, channels).T @ columns for i in range(size)]
    return jnp.stack(rows).reshape(size, channels, size, features).swapaxes(1, 2)


def _gradient_by_xla(x, kernel, out_gradient):
    return jax.vjp(_forward, x, kernel)[1](out_gradient)


def _conv2d_bwd(residuals, out_gradient):
    x, kernel = residuals
    return lax.platform_dependent(
        x, kernel, out_gradient, cpu=_gradient_by_products, default=_gradient_by_xla
    )


conv2d.defvjp(_conv2d_fwd, _conv2d_bwd)
