"""A classifier trained in another run that takes part in this one without being trained.

In training its parameters become constants of the run, so that they stand in its checkpoints: a
resumed run needs the other directory no more. In guidance they are read each time.
"""

import os
from collections.abc import Iterable

import jax
import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion import build
from gmm_diffusion.conditioning import Conditioner
from gmm_diffusion.data import Dataset
from gmm_diffusion.errors import InputError
from gmm_diffusion.generation import Pull
from gmm_diffusion.metrics.judge import Judge, parameter_hash
from gmm_diffusion.training import checkpoint
from gmm_diffusion.training import workdir as workdir_lib
from gmm_diffusion.training.constants import Constants
from gmm_diffusion.types import PyTree

# Fields of the group `classifier` that say what it is; the others say how it is trained.
_ARCHITECTURE = ("loss", "name", "width", "embedding_dim", "normalize", "noisy")


def constants(config: ConfigDict, data: Dataset) -> Constants:
    """`build.constants`, with the classifier that `ngmg.workdir` names where one takes part.

    Raises:
      InputError: as `build.constants` and `load`.
    """
    made = build.constants(config, data)
    if not (config.ngmg.weight and config.ngmg.workdir):
        return made
    return made.replace(frozen_classifier=load(config, config.ngmg.workdir, made))


def load(config: ConfigDict, workdir: str | os.PathLike, ours: Constants) -> PyTree:
    """Parameters of the classifier of another run, of the average that its `sample.ema` names.

    Args:
      config: of this run; its group `classifier` must describe the classifier.
      workdir: directory of a run with a classifier.
      ours: constants of this run, whose data and mixture the classifier must know.

    Raises:
      InputError: no such run, one without a classifier, another architecture, other data, another
        mixture, or a file of a judge.
    """
    run = _load_run(workdir, "ngmg.workdir", ours)
    for field in _ARCHITECTURE:
        mine, theirs = config.classifier[field], run.config.classifier[field]
        if mine != theirs:
            raise InputError(
                f"classifier.{field} is {mine!r}; ngmg.workdir is {str(workdir)!r}, where it is "
                f"{theirs!r}."
            )
    return jax.device_get(run.params["classifier"])


def load_pull(config: ConfigDict, ours: Constants) -> Pull:
    """The classifier of `guidance.energy`: of the run `guidance.classifier`, or this run's own.

    Another run's may have any architecture and loss.

    Raises:
      InputError: no such run, one without a classifier, other data, another mixture, or a file of a
        judge.
    """
    workdir = config.guidance.classifier
    if not workdir:
        return build.pull(config, ours)
    run = _load_run(workdir, "guidance.classifier", ours)
    return build.pull(run.config, run.constants, jax.device_get(run.params["classifier"]))


def _load_run(workdir, field, ours):
    """A run with a classifier of the same data and mixture."""
    name = f"{field} is {str(workdir)!r}"
    if not workdir_lib.directory(workdir, field).is_dir():
        raise InputError(
            f"{name}; it must be the directory of a run with a classifier. (A judge takes no part "
            "in training or guidance.)"
        )
    run = checkpoint.load_run(workdir)
    if "classifier" not in run.params:
        raise InputError(f"{name}, a run without a classifier; it must have training.task or ngmg.")
    means = [np.asarray(constants.transform.mean) for constants in (run.constants, ours)]
    if means[0].shape != means[1].shape or not np.allclose(*means, atol=1e-5):
        raise InputError(f"{name}, which was trained on other data; it must have the same.")
    if not _same_mixture(ours.conditioner, run.conditioner):
        raise InputError(
            f"{name}, whose conditioning has another mixture; it must be trained with the same "
            "group conditioning and training.seed."
        )
    return run


def _same_mixture(ours: Conditioner | None, theirs: Conditioner | None) -> bool:
    if ours is None or theirs is None:
        return False
    pairs = [
        (ours.mixture.means, theirs.mixture.means),
        (ours.mixture.variances, theirs.mixture.variances),
        (ours.component_class, theirs.component_class),
    ]
    return ours.mixture.kind == theirs.mixture.kind and all(
        a.shape == b.shape and np.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs
    )


def refuse_judge(judges: Iterable[Judge], *classifiers: PyTree | None) -> None:
    """Raises InputError if one of the classifiers that taught or guided a model is its judge."""
    used = {parameter_hash(params) for params in classifiers if params is not None}
    for judge in judges:
        if used & {judge.hash, parameter_hash(judge.params["network"])}:
            raise InputError(
                f"The classifier in training or guidance is the judge {judge.hash[:12]}; the judge "
                "must be another one."
            )
