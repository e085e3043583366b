"""Plain `.npz` files that may be damaged, or not ours: read without running or unpacking."""

import os
import zipfile

import numpy as np
from flax import traverse_util

from gmm_diffusion import paths
from gmm_diffusion.errors import RunError, read_fault


class Damaged(ValueError):
    """It is no intact `.npz` of plain arrays; the message says why, without a full stop."""


def read(path: str | os.PathLike, compressed: bool = False) -> dict[str, np.ndarray]:
    """Every array of a file by `np.savez`, by its name.

    Pickled objects are never read. Neither are compressed members, which `np.savez` does not write,
    so that a small file cannot fill the memory; `compressed` reads those of a user's own.

    Raises:
      FileNotFoundError: there is no such file.
      Damaged: it is another file, or a damaged one.
      RunError: it cannot be read, and may be good.
    """
    path = paths.of(path)
    try:
        with path.open("rb") as file:
            with zipfile.ZipFile(file) as archive:
                for member in archive.infolist():
                    if member.compress_type != zipfile.ZIP_STORED and not compressed:
                        raise Damaged(f"its member {member.filename} is compressed")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return {name: np.asarray(arrays[name]) for name in arrays.files}
    except (FileNotFoundError, Damaged):
        raise
    except MemoryError as error:
        raise RunError(f"There is not enough memory to read {path}.") from error
    except Exception as error:  # zipfile and NumPy's parser of headers fail in many ways.
        if fault := read_fault(path):
            raise RunError(
                f"{path} cannot be read, which need not be its fault: {fault.strerror}."
            ) from error
        raise Damaged(str(error).rstrip(".") or type(error).__name__) from error


def tree(arrays: dict[str, np.ndarray]) -> dict:
    """Arrays by names such as `network/w` -> nested dicts.

    Raises:
      Damaged: one name is the beginning of another.
    """
    try:
        return traverse_util.unflatten_dict(arrays, sep="/")
    except (AttributeError, TypeError, ValueError) as error:
        raise Damaged("its names contradict each other") from error
