"""Snapshots of the averages on disk, and averages of any width made from them.

Each is a plain parameter file, `width_0.05_step_1200.npz`, and stays for the whole run: what is
read later for post-hoc EMA (`posthoc_ema.py`) or as a guide.
"""

import dataclasses
import logging
import os
import re
from collections.abc import Sequence

import numpy as np

from gmm_diffusion import paths
from gmm_diffusion.errors import InputError, RunError
from gmm_diffusion.runs.param_files import export_params, load_params
from gmm_diffusion.training import posthoc_ema
from gmm_diffusion.training.ema import gamma_from_width
from gmm_diffusion.types import PyTree

log = logging.getLogger(__name__)

_NAME = re.compile(r"width_([\d.e-]+)_step_(\d+)\.npz")
# Files whose share of the result is below this, relative to the largest, are not read.
_NEGLIGIBLE = 1e-12


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """An average made from snapshots, and how far it can be trusted.

    Attributes:
      params: pytree of float32 arrays.
      step: of the average.
      width: of the average.
      num_snapshots: files that were read.
      amplification: sum of the coefficients' sizes, the factor on the snapshots' rounding.
      profile_error: relative L2 error of the profile; see `posthoc_ema.profile_error`.
    """

    params: PyTree
    step: int
    width: float
    num_snapshots: int
    amplification: float
    profile_error: float


def file_name(width: float, step: int) -> str:
    """The name of an average's file; the shortest decimals that give the width back."""
    return f"width_{float(width)}_step_{step}.npz"


def write(
    directory: str | os.PathLike, step: int, widths: Sequence[float], averages: Sequence[PyTree]
) -> None:
    """Writes one file for each width, over those of the same step.

    Raises:
      RunError: a file could not be written.
    """
    for width, average in zip(widths, averages, strict=True):
        try:
            export_params(average, paths.of(directory) / file_name(width, step))
        except OSError as error:
            raise RunError(
                f"The snapshot of step {step} could not be written to {directory}: "
                f"{error.strerror or error}."
            ) from error


def truncate(directory: str | os.PathLike, step: int) -> None:
    """Deletes snapshots of later steps.

    A run that goes on from `step` writes them again; until then they would belong to a future that
    may differ, for example in its number of steps.
    """
    for later, _, path in _files(directory):
        if later > step:
            path.unlink()


def steps(directory: str | os.PathLike) -> list[int]:
    """The steps that have a snapshot, ascending."""
    return sorted({step for step, _, _ in _files(directory)})


def reconstruct(directory: str | os.PathLike, step: int | None, width: float) -> Reconstruction:
    """The average of any width from the snapshots up to `step`.

    Args:
      directory: of the snapshots.
      step: one of `steps(directory)`; None takes the newest.
      width: relative standard deviation, as of `ema.gamma_from_width`.

    Raises:
      InputError: the width is out of range, there is no snapshot of that step, or a file is
        damaged.
    """
    gamma = gamma_from_width(width)
    available = steps(directory)
    if not available:
        raise InputError(
            f"An EMA of width {width} needs snapshots, and {directory} holds none; training writes "
            "them where checkpoint.snapshot_every is positive."
        )
    step = available[-1] if step is None else step
    if step not in available:
        raise InputError(
            f"There is no snapshot of step {step} in {directory}; available: "
            f"{', '.join(map(str, available))}."
        )
    files = [file for file in _files(directory) if file[0] <= step]
    when, gammas = [s for s, _, _ in files], [gamma_from_width(w) for _, w, _ in files]
    found = posthoc_ema.coefficients(when, gammas, step, gamma)
    used = np.flatnonzero(np.abs(found) > _NEGLIGIBLE * np.abs(found).max())
    try:
        params = posthoc_ema.combine(found[used], (load_params(files[i][2]) for i in used))
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(
            f"The snapshots in {directory} are not of one model; their parameters differ in name, "
            "shape or type."
        ) from error
    made = Reconstruction(
        params=params,
        step=step,
        width=width,
        num_snapshots=len(used),
        amplification=float(np.abs(found).sum()),
        profile_error=posthoc_ema.profile_error(found, when, gammas, step, gamma),
    )
    _report(made)
    return made


def _report(made):
    log.info(
        "EMA of width %g at step %d from %d snapshots: its profile is off by %.2g %%.",
        made.width,
        made.step,
        made.num_snapshots,
        100 * made.profile_error,
    )
    if made.profile_error > 0.01:
        log.warning("That is more than 1 %: the snapshots are too few or too late for this width.")
    if made.amplification > 100:
        log.warning(
            "It amplifies the rounding of the snapshots %.0f times: too narrow for their widths.",
            made.amplification,
        )


def _files(directory):
    """`(step, width, path)` of every snapshot, by step and width; what else lies there is none."""
    path = paths.of(directory)
    found = []
    for file in path.iterdir() if path.is_dir() else ():
        match = _NAME.fullmatch(file.name)
        if not match:
            continue
        try:
            step, width = int(match[2]), float(match[1])
        except ValueError:
            continue
        # Nobody else writes a width's shortest decimals.
        ours = file_name(width, step) == file.name and 0 < width < 0.28 and 0 < step < 2**31
        if ours and file.is_file():
            found.append((step, width, file))
    return sorted(found)
