"""Models of other runs that take part in this one: a worse one that guides, a classifier."""

import os
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from gmm_diffusion import paths
from gmm_diffusion.assembly import load as load_lib
from gmm_diffusion.errors import InputError
from gmm_diffusion.model.fitted import FittedStatistics, other_data, other_mixture
from gmm_diffusion.model.guidance import (
    Autoguidance,
    ClassifierFree,
    ClassifierGuidance,
    Guidance,
    MixtureGuidance,
    difference,
    ordered,
    scale_acts,
)
from gmm_diffusion.model.model import Model
from gmm_diffusion.runs import workdir as workdir_lib
from gmm_diffusion.types import PyTree

# Fields of the group `classifier` that say what it is; the others say how it is trained.
_ARCHITECTURE = ("loss", "name", "width", "embedding_dim", "normalize", "noisy")


def guidance(model: Model, run_dir: str | os.PathLike) -> tuple[Guidance, ...]:
    """How samples are guided, as the group `guidance` of `model.config` says; () for not at all.

    A worse model is another run, or an earlier step of the same one. It may differ in network,
    training and average. It must know the same data and the same mixture, for its condition is
    made from the same weights; the embedding may be another. So must the classifier of
    `guidance.energy`, this run's own or that of another run.

    Args:
      model: of a run.
      run_dir: the directory of that run.

    Raises:
      InputError: no such run, step or average, or a guide of other data or another conditioning.
    """
    group = model.config.guidance
    interval, limit = tuple(group.interval), group.limit or None
    shared: dict[str, Any] = {"scale": float(group.scale), "interval": interval, "limit": limit}
    kinds: dict[str, Callable[[], tuple[Guidance, ...]]] = {
        "none": lambda: (),
        "auto": lambda: (Autoguidance(_guide(model, run_dir), **shared),),
        "classifier_free": lambda: (ClassifierFree(**shared),),
        "mixture": lambda: (
            MixtureGuidance(blur=group.blur, amount=float(group.blur_amount), **shared),
        ),
    }
    # A guide is not loaded to have no say.
    made = kinds[group.kind if scale_acts(group.scale) else "none"]()
    if group.energy:
        made += (ClassifierGuidance(_classifier(model), float(group.energy), interval),)
    return ordered(made)


def needs_other_runs(config: ConfigDict) -> bool:
    """Whether what guides lies in other directories, and can be had before training."""
    return bool(config.guidance.guide or config.guidance.classifier)


def is_own_step(config: ConfigDict) -> bool:
    """Whether what guides is an earlier step of the run itself, and has a say."""
    group = config.guidance
    return group.kind == "auto" and not group.guide and scale_acts(group.scale)


def _guide(model, run_dir):
    group = model.config.guidance
    where = workdir_lib.directory(group.guide or run_dir, "guidance.guide")
    guide = load_lib.load_run(where, group.guide_step or None, group.guide_ema)
    misfit = difference(model, guide)
    if misfit:
        raise InputError(f"guidance.guide is {str(where)!r}, a model {misfit}.")
    return guide


def _classifier(model):
    """The model of `guidance.classifier`, of any architecture and loss; None for the own one."""
    workdir = model.config.guidance.classifier
    return _load_classifier(workdir, "guidance.classifier", model.fitted) if workdir else None


def load_classifier(
    config: ConfigDict, workdir: str | os.PathLike, ours: FittedStatistics
) -> PyTree:
    """Parameters of the classifier of another run, of the average that its `sample.ema` names.

    In training they stand beside the fitted statistics in the run's checkpoints: a resumed run
    needs the other directory no more. In guidance they are read each time.

    Args:
      config: of this run; its group `classifier` must describe the classifier.
      workdir: directory of a run with a classifier.
      ours: fitted statistics of this run, whose data and mixture the classifier must know.

    Raises:
      InputError: no such run, one without a classifier, another architecture, other data, another
        mixture, or a file of a judge.
    """
    run = _load_classifier(workdir, "ngmg.workdir", ours)
    for field in _ARCHITECTURE:
        mine, theirs = config.classifier[field], run.config.classifier[field]
        if mine != theirs:
            raise InputError(
                f"classifier.{field} is {mine!r}; ngmg.workdir is {str(workdir)!r}, where it is "
                f"{theirs!r}."
            )
    return jax.device_get(run.params["classifier"])


def _load_classifier(workdir, field, ours):
    """A run with a classifier of the same data and mixture."""
    name = f"{field} is {str(workdir)!r}"
    if not paths.expand(workdir, field, bucket=True).is_dir():
        raise InputError(
            f"{name}; it must be the directory of a run with a classifier. (A judge takes no part "
            "in training or guidance.)"
        )
    run = load_lib.load_run(workdir)
    if "classifier" not in run.params:
        raise InputError(f"{name}, a run without a classifier; it must have training.task or ngmg.")
    if other_data(ours, run.fitted):
        raise InputError(f"{name}, a model that was trained on other data; it must have the same.")
    different = other_mixture(ours.conditioner, run.fitted.conditioner, reads=False)
    if different or ours.conditioner is None:
        raise InputError(
            f"{name}, whose conditioning has {different}; it must be trained with the same group "
            "conditioning and training.seed."
        )
    return run
