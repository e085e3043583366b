"""Sums over a batch whose activations do not fit into memory at once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from gmm_diffusion.errors import InputError
from gmm_diffusion.types import PyTree


def accumulated(fn: Callable[..., PyTree], size: int, *examples: PyTree) -> PyTree:
    """`fn(*examples)`, which is a sum over examples, taken `size` neighbours at a time.

    Args:
      fn: returns a pytree of sums, such as those of losses and of their gradients.
      size: examples in one call; 0 takes all.
      *examples: pytrees with leading B.

    Returns:
      What `fn` returns of all, but for the order in which it is added.

    Raises:
      InputError: `size` is neither 0 nor divides B.
    """
    num = jax.tree.leaves(examples)[0].shape[0]
    if not size:
        return fn(*examples)
    if num % size:
        raise InputError(
            f"training.microbatch is {size}; it must divide the {num} examples of a device."
        )
    if num == size:
        return fn(*examples)
    parts = jax.tree.map(lambda x: x.reshape(num // size, size, *x.shape[1:]), examples)

    def body(total, part):
        return jax.tree.map(jnp.add, total, fn(*part)), None

    shapes = jax.eval_shape(fn, *jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return lax.scan(body, zeros, parts)[0]
