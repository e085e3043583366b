"""Arrays on disk that are computed once: what makes an experiment go on where it was stopped."""

import json
import os
import pathlib
from collections.abc import Callable

import numpy as np

from gmm_diffusion.errors import InputError


def arrays(
    file: pathlib.Path, settings: object, compute: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Those of the file; if there is none, what `compute` returns, which is then written whole.

    Args:
      file: an `.npz`; its folder is made.
      settings: what decides the arrays, of types that JSON has.
      compute: makes them, by name.

    Raises:
      InputError: a file that was made with other settings.
    """
    header = json.dumps(settings)
    if file.exists():
        with np.load(file) as stored:
            if stored["header"].item() != header:
                raise InputError(
                    f"{file} was made with other settings; use another --out, or delete it."
                )
            return {name: stored[name] for name in stored.files if name != "header"}
    found = compute()
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    with temporary.open("wb") as handle:
        np.savez(handle, header=np.array(header), **found)
    os.replace(temporary, file)
    return found
