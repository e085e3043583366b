"""Whether a run could save its checkpoints, before it trains."""

import contextlib
import os
import pathlib
import secrets
import tempfile

import numpy as np

from gmm_diffusion import paths
from gmm_diffusion.errors import RunError
from gmm_diffusion.runs import storage
from gmm_diffusion.runs.checkpoint_reading import read
from gmm_diffusion.runs.faults import Damaged, cause
from gmm_diffusion.runs.workdir import PROBE_PREFIX


def check_saving(directory: str | os.PathLike) -> None:
    """Saves a small checkpoint below `directory`, reads it back and removes it.

    It takes the route of the real ones, so that a run that could not save is refused before it
    trains. Steps, and whoever reads them meanwhile, are not disturbed.

    Raises:
      RunError: it could not be saved, or not be read.
    """
    path = paths.of(directory).absolute()
    probe = {"probe": np.arange(3, dtype=np.float32)}
    made, folder = not path.exists(), None
    try:
        path.mkdir(parents=True, exist_ok=True)
        for left in path.glob(f"{PROBE_PREFIX}*"):
            paths.remove_folder(left)  # By a run that was killed here.
        folder = _new_folder(path)
        # In a bucket removing takes another right than writing: the second one removes the first.
        step = 2 if paths.in_bucket(path) else 1
        with storage.open(folder, keep=1) as store:
            for number in range(1, step + 1):
                store.save(number, probe, {}, {})
        state, _, _ = read(folder, step)
        if not np.array_equal(state["probe"], probe["probe"]):
            raise Damaged("it holds other values")
    except (OSError, RunError, Damaged) as error:
        raise RunError(
            f"A small checkpoint could not be saved to {directory} and read back, so the run was "
            f"not started: {cause(error)}"
        ) from error
    finally:
        if folder is not None:
            paths.remove_folder(folder, ignore_errors=True)
        if made and not paths.in_bucket(path):
            with contextlib.suppress(OSError):
                path.rmdir()


def _new_folder(path):
    if paths.in_bucket(path):
        return path / f"{PROBE_PREFIX}{secrets.token_hex(8)}"
    return pathlib.Path(tempfile.mkdtemp(prefix=PROBE_PREFIX, dir=path))
