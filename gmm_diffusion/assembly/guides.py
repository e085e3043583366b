"""Models of other runs that take part in this one: a worse one that guides, a classifier."""

import os

import jax
import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion import paths
from gmm_diffusion.assembly import classifiers
from gmm_diffusion.assembly import load as load_lib
from gmm_diffusion.conditioning import Conditioner
from gmm_diffusion.errors import InputError
from gmm_diffusion.model.fitted import Constants
from gmm_diffusion.model.generation import Guide, Pull
from gmm_diffusion.runs import workdir as workdir_lib
from gmm_diffusion.types import PyTree

# Fields of the group `classifier` that say what it is; the others say how it is trained.
_ARCHITECTURE = ("loss", "name", "width", "embedding_dim", "normalize", "noisy")


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
        pull = load_pull(config, constants)
    if group.kind != "auto" or group.scale == 1:
        return None if pull is None else Guide(pull=pull)
    where = workdir_lib.directory(group.guide or run_dir, "guidance.guide")
    run = load_lib.load_run(where, group.guide_step or None, group.guide_ema)
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


def load_classifier(config: ConfigDict, workdir: str | os.PathLike, ours: Constants) -> PyTree:
    """Parameters of the classifier of another run, of the average that its `sample.ema` names.

    In training they become constants of the run, so that they stand in its checkpoints: a resumed
    run needs the other directory no more. In guidance they are read each time.

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
        return classifiers.pull(config, ours)
    run = _load_run(workdir, "guidance.classifier", ours)
    return classifiers.pull(run.config, run.constants, jax.device_get(run.params["classifier"]))


def _load_run(workdir, field, ours):
    """A run with a classifier of the same data and mixture."""
    name = f"{field} is {str(workdir)!r}"
    if not paths.expand(workdir, field).is_dir():
        raise InputError(
            f"{name}; it must be the directory of a run with a classifier. (A judge takes no part "
            "in training or guidance.)"
        )
    run = load_lib.load_run(workdir)
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
