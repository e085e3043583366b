"""Parameters as plain `.npz` files, readable with NumPy alone."""

import os
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from gmm_diffusion import npz_files, paths
from gmm_diffusion.errors import InputError
from gmm_diffusion.types import PyTree


def export_params(params: PyTree, path: str | os.PathLike) -> None:
    """Writes a nested dict of parameters as a plain `.npz`, keys joined by "/".

    bfloat16, which numpy cannot store, becomes float32. The file appears complete or not at all.
    """
    path = paths.of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {}
    for name, value in traverse_util.flatten_dict(jax.device_get(params), sep="/").items():
        value = np.asarray(value)
        arrays[name] = value.astype(np.float32) if value.dtype == jax.numpy.bfloat16 else value
    # A file object, because numpy would add a suffix to the name.
    with paths.whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def load_params(path: str | os.PathLike) -> PyTree:
    """The nested dict of numpy arrays that `export_params` wrote.

    Raises:
      InputError: there is no such file, or it is not an intact `.npz`.
    """
    try:
        return npz_files.tree(npz_files.read(path))
    except FileNotFoundError:
        raise InputError(f"The parameter file {path} does not exist.") from None
    except npz_files.Damaged as error:
        raise InputError(f"The parameter file {path} is not an intact .npz: {error}.") from error
