"""Trained models on disk: loading a run for sampling, evaluation, guides and notebooks.

`runs.storage` and `runs.snapshots` are the storage underneath, which training writes to.
"""

import os

import jax
from ml_collections import ConfigDict

from gmm_diffusion.assembly import averages, networks
from gmm_diffusion.errors import InputError
from gmm_diffusion.model.fitted import from_arrays
from gmm_diffusion.model.model import Model
from gmm_diffusion.runs import snapshots, storage
from gmm_diffusion.runs import workdir as workdir_lib
from gmm_diffusion.runs.param_files import export_params, load_params

__all__ = ["export_params", "load_params", "load_run"]


def load_run(
    workdir: str | os.PathLike,
    step: int | None = None,
    ema: float | None = None,
    config: ConfigDict | None = None,
) -> Model:
    """Loads a run without its data and without its optimiser.

    Averages come from the checkpoint of that step where it holds them, and from snapshots where it
    does not: any width, and steps whose checkpoint is gone.

    Args:
      workdir: directory of the run.
      step: of a checkpoint or a snapshot; None takes the newest good checkpoint, or for a width
        that is not tracked the newest snapshot.
      ema: width of the average, below 0.28; 0 takes the raw parameters, None what `sample.ema`
        says.
      config: in place of the stored one, for example with other settings of `sample`.

    Raises:
      InputError: no run, no good checkpoint, no such step or average.
    """
    workdir = workdir_lib.directory(workdir)
    config = workdir_lib.read_config(workdir) if config is None else config
    directory = workdir / workdir_lib.CHECKPOINTS
    ema = config.sample.ema if ema is None else ema
    # The raw parameters are in checkpoints alone.
    in_checkpoint = averages.is_tracked(config, ema) and (not ema or _has_checkpoint(workdir, step))
    # Fitted statistics never change in a run: any checkpoint has them.
    # Read once: what holds the parameters holds them all.
    restore = storage.restore_leaves if in_checkpoint else storage.restore_fitted_and_meta
    stored = restore(directory, step if in_checkpoint else None)
    if stored is None:
        raise InputError(f"{directory} holds no checkpoint yet; train the run first.")
    fitted = from_arrays(stored.fitted, stored.meta["settings"])
    shape = tuple(stored.meta["shape"])
    params = jax.eval_shape(lambda: networks.init_params(config, shape, fitted))
    if in_checkpoint:
        step = stored.step
        chosen = averages.of_checkpoint(config, directory, stored, ema, params)
    else:
        made = snapshots.reconstruct(workdir / workdir_lib.SNAPSHOTS, step, ema)
        step, chosen = made.step, made.params
        _check_fit(workdir, chosen, params)
    return networks.model(config, shape, fitted, chosen, step)


def _has_checkpoint(workdir, step):
    """Whether a tracked average is to be read from a checkpoint, and not from a snapshot."""
    checkpoints = storage.steps(workdir / workdir_lib.CHECKPOINTS)
    if step is None or step in checkpoints:
        return True
    both = {*checkpoints, *snapshots.steps(workdir / workdir_lib.SNAPSHOTS)}
    if step not in both:
        raise InputError(
            f"There is neither a checkpoint nor a snapshot of step {step} in {workdir}; available: "
            f"{', '.join(map(str, sorted(both))) or 'none'}."
        )
    return False


def _check_fit(workdir, params, expected):
    shapes, wanted = (jax.tree.map(lambda x: x.shape, tree) for tree in (params, expected))
    if shapes != wanted:
        raise InputError(f"The snapshots in {workdir} do not fit this model.")
