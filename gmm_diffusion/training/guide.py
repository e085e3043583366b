"""The models that guide: a worse one for autoguidance, and a classifier."""

import os

import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion.conditioning import Conditioner
from gmm_diffusion.errors import InputError
from gmm_diffusion.generation import Guide
from gmm_diffusion.training import checkpoint, frozen, workdir
from gmm_diffusion.training.constants import Constants


def load(
    config: ConfigDict, run_dir: str | os.PathLike, constants: Constants, shape: tuple[int, ...]
) -> Guide | None:
    """The guide that the group `guidance` names, or None where it needs none.

    A worse model is another run, or an earlier step of the same one. It may differ in network,
    training and average. It must know the same data and the same mixture, for its condition is
    made from the same weights; the embedding may be another. So must the classifier of
    `guidance.energy`, this run's own or that of another run.

    Args:
      config: of the main run.
      run_dir: directory of the main run.
      constants: of the main run.
      shape: of one example of the main run.

    Raises:
      InputError: no such run, step or average, or a guide of other data or another conditioning.
    """
    group = config.guidance
    pull = None
    if group.energy:
        pull = frozen.load_pull(config, constants)
    if group.kind != "auto" or group.scale == 1:
        return None if pull is None else Guide(pull=pull)
    where = workdir.directory(group.guide or run_dir, "guidance.guide")
    run = checkpoint.load_run(where, group.guide_step or None, group.guide_ema)
    name = f"guidance.guide is {str(where)!r}"
    if run.shape != tuple(shape):
        raise InputError(
            f"{name}, a model of examples of shape {run.shape}; it must be of {tuple(shape)}."
        )
    if not np.allclose(run.transform.mean, constants.transform.mean, atol=1e-5):
        raise InputError(
            f"{name}, which was trained on other data; it must have the same group data."
        )
    difference = _difference(constants.conditioner, run.conditioner)
    if difference:
        raise InputError(
            f"{name}, whose conditioning has {difference}; it must be trained with the same data, "
            "the same kind of conditioning and mixture, and the same training.seed."
        )
    return Guide(run.params, run.conditioner, run.denoise, pull)


def _difference(ours: Conditioner | None, theirs: Conditioner | None) -> str:
    """What two conditionings do not share, in words, or nothing."""
    if (ours is None) != (theirs is None):
        return "no mixture" if theirs is None else "a mixture where this run has none"
    if ours is None:
        return ""
    if ours.num_components != theirs.num_components:
        return f"{theirs.num_components} components where this run has {ours.num_components}"
    if ours.semantics != theirs.semantics:
        return f"semantics {theirs.semantics} where this run has {ours.semantics}"
    pairs = [
        (ours.mixture.means, theirs.mixture.means),
        (ours.mixture.weights, theirs.mixture.weights),
        (ours.base, theirs.base),
    ]
    same = ours.mixture.kind == theirs.mixture.kind and all(
        a.shape == b.shape and np.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs
    )
    return "" if same else "another mixture"
