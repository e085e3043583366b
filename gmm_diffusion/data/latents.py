"""Latents: float images of any number of channels, and the pictures that a decoder makes of them.

A decoder is a function of the user's, `[n, H, W, C]` float32 latents -> `[n, H', W', 1 or 3]`
pictures, uint8 or floats in [-1, 1]. It is always given the same n, so that it compiles once.
"""

import dataclasses
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from gmm_diffusion.data.dataset import Dataset, Split, to_uint8
from gmm_diffusion.errors import InputError

Decoder = Callable[[np.ndarray], np.ndarray]

_ROWS = 32


def load_decoder(spec: str) -> Decoder:
    """The function that `package.module:function` names; modules may lie in the current directory.

    Raises:
      InputError: it cannot be imported, or is no function.
    """
    module, _, name = spec.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # A user's module may fail in any way.
        raise InputError(
            f"data.decoder is {spec!r}, which cannot be imported ({type(error).__name__}: {error})."
        ) from error
    if not callable(found):
        raise InputError(f"data.decoder is {spec!r}, which is no function.")
    return found


def decode(decoder: Decoder, x: np.ndarray) -> np.ndarray:
    """Latents `[N, H, W, C]` -> uint8 pictures `[N, H', W', 1 or 3]`, rounded as all images are.

    Raises:
      InputError: the decoder fails, or returns something else.
    """
    return np.concatenate(
        [_block(decoder, x, start)[: len(x) - start] for start in range(0, len(x), _ROWS)]
    )


def _block(decoder, x, start):
    rows = np.arange(start, start + _ROWS) % len(x)
    try:
        made = np.asarray(decoder(np.asarray(x[rows], np.float32)))
    except Exception as error:  # A user's function may fail in any way.
        raise InputError(
            f"data.decoder fails on latents of shape {x.shape[1:]} ({type(error).__name__}: "
            f"{error})."
        ) from error
    pictures = made.ndim == 4 and len(made) == _ROWS and made.shape[3] in (1, 3) and made.size
    # JAX's: NumPy does not know bfloat16.
    numbers = made.dtype == np.uint8 or jnp.issubdtype(made.dtype, jnp.floating)
    if not (pictures and numbers):
        raise InputError(
            f"data.decoder returns {made.dtype} of shape {made.shape} for {_ROWS} latents; valid "
            f"is uint8, or floats in [-1, 1], of shape ({_ROWS}, H, W, 1 or 3)."
        )
    return to_uint8(made)


def decoded(data: Dataset) -> Dataset:
    """Latents that have a decoder -> their pictures; other data pass.

    Raises:
      InputError: as `decode`.
    """
    decoder = data.decoder
    if decoder is None:
        return data
    made: dict[str, Any] = {}
    for field in dataclasses.fields(data):
        split = getattr(data, field.name)
        if isinstance(split, Split):
            made[field.name] = dataclasses.replace(split, x=decode(decoder, split.x))
    # A judge of the pictures of one decoder is none of those of another.
    where = f"{getattr(decoder, '__module__', '')}:{getattr(decoder, '__qualname__', '')}"
    return dataclasses.replace(data, name=f"{data.name} decoded by {where}", decoder=None, **made)


def one_example(data: Dataset) -> Dataset:
    """The first training example alone, in all splits: enough for what depends on shapes."""
    one = data.train.take(slice(1))
    return dataclasses.replace(
        data, train=one, heldout=one, validation=None, unseen=None, judges_only=None
    )
