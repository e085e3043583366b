"""Which parameters a width such as `sample.ema` names: the one place that decides it.

Width 0 names the raw parameters, a width of `training.ema_widths` the average that training tracks,
and any other one an average that is made of snapshots.
"""

import os
import pathlib

from ml_collections import ConfigDict

from gmm_diffusion.runs import snapshots, storage, workdir
from gmm_diffusion.training.state import TrainState
from gmm_diffusion.types import PyTree


def is_tracked(config: ConfigDict, width: float) -> bool:
    """Whether the state of training, and so each checkpoint, holds what this width names."""
    return not width or width in tuple(config.training.ema_widths)


def of_state(config: ConfigDict, state: TrainState, width: float) -> PyTree:
    """The parameters of a tracked width, or of 0, in the state of training."""
    return state.ema[_number(config, width)] if width else state.params


def of_checkpoint(
    config: ConfigDict,
    directory: str | os.PathLike,
    stored: storage.Restored,
    width: float,
    expected: PyTree,
) -> PyTree:
    """The parameters of a tracked width, or of 0, from a checkpoint that was read.

    Args:
      config: of the run.
      directory: of its checkpoints, for messages.
      stored: one of them, by `storage.restore_leaves`.
      width: tracked, or 0.
      expected: the parameters' shapes and dtypes.

    Raises:
      InputError: it does not fit.
    """
    number = str(_number(config, width)) if width else ""
    target = {"ema": {number: expected}} if width else {"params": expected}
    state = storage.fit(directory, stored.step, stored.state, target, partial=True)
    return state["ema"][number] if width else state["params"]


def nearest(config: ConfigDict, state: TrainState) -> PyTree:
    """What stands for `sample.ema` while training, without snapshots: the nearest tracked width."""
    width = config.sample.ema
    if not is_tracked(config, width):
        width = min(config.training.ema_widths, key=lambda tracked: abs(tracked - width))
    return of_state(config, state, width)


def final(config: ConfigDict, path: pathlib.Path, state: TrainState) -> PyTree:
    """The parameters that `sample.ema` names at the end of the run in `path`.

    Raises:
      InputError: as `snapshots.reconstruct`.
    """
    width = config.sample.ema
    if is_tracked(config, width):
        return of_state(config, state, width)
    return snapshots.reconstruct(path / workdir.SNAPSHOTS, int(state.step), width).params


def _number(config, width):
    return tuple(config.training.ema_widths).index(width)
