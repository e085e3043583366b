"""Arrays that an evaluation computed and may need again, in files that may be lost or damaged."""

import contextlib
import os
import pathlib
from typing import Any

import numpy as np

from gmm_diffusion import npz_files, paths
from gmm_diffusion.errors import RunError


def read(file: pathlib.Path) -> dict[str, Any] | None:
    """What `write` wrote; None where there is no such file, or none that can be read."""
    try:
        return npz_files.read(file)
    except (FileNotFoundError, npz_files.Damaged, RunError):
        return None


def write(file: pathlib.Path, arrays: dict[str, Any]) -> None:
    """One whole file; none where the disk takes none, which ends no evaluation."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with paths.whole(file, f".{os.getpid()}.tmp") as temporary, temporary.open("wb") as stream:
            np.savez(stream, **arrays)
