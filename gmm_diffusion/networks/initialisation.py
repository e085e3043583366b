"""Parameters at step 0, drawn on the host.

Every network here starts from the same rule: a leaf named `weight` is standard normal (forced
normalisation then fixes its scale), a `kernel` is normal with variance 2 over its inputs (He et al.
2015), every other leaf is a gain or a bias and starts at zero. Drawing them
with NumPy gives the same numbers on every platform and saves compiling a generator for each of the
dozens of shapes, which took longer than compiling the network.
"""

import zlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from gmm_diffusion.types import Array, PyTree


def initialise(init: Callable[[Array], Mapping[str, PyTree]], seed: int) -> PyTree:
    """Parameters of a linen module, each leaf from a stream of its own.

    Args:
      init: `(key) -> {"params": ...}`; only its shapes are used, nothing runs.
      seed: not negative.
    """
    shapes = jax.eval_shape(init, jax.random.key(0))["params"]

    def one(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if path[-1].key not in ("weight", "kernel"):
            return jnp.asarray(np.zeros(leaf.shape, leaf.dtype))
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        values = rng.normal(size=leaf.shape)
        if path[-1].key == "kernel":
            values *= np.sqrt(2 / np.prod(leaf.shape[:-1]))
        # Rounded on the host, where no shape has a program of its own.
        return jnp.asarray(np.asarray(values, leaf.dtype))

    return jax.tree_util.tree_map_with_path(one, shapes)
