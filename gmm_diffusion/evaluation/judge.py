"""The judges of a run: trained once, and no classifier that taught or guided the model."""

import logging
import os
import pathlib
import time
from collections.abc import Iterable

import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion import paths, stages
from gmm_diffusion.data import Dataset
from gmm_diffusion.errors import InputError
from gmm_diffusion.metrics import judge as judges
from gmm_diffusion.metrics.judge import Judge, parameter_hash
from gmm_diffusion.runs.workdir import JUDGE
from gmm_diffusion.types import Poll, PyTree

log = logging.getLogger(__name__)


def panel_of(
    config: ConfigDict, data: Dataset, path: pathlib.Path, poll: Poll | None = None
) -> tuple[Judge, ...]:
    """The run's judges, trained once and kept in its folder; `poll` is called while they train.

    They are trained as many at a time as there are devices, and kept when those are done: work that
    is stopped goes on with the next ones.
    """
    group = config.evaluation
    file = paths.within(path, group.judge_dir) / JUDGE
    file.parent.mkdir(parents=True, exist_ok=True)
    options = {"num_epochs": group.judge_epochs}
    settings = [judges.identity(data, group.judge_seed + i, **options) for i in range(group.judges)]

    def kept():
        """Those of the file, if it begins with those that are asked for."""
        if file.exists():
            try:
                found = judges.load(file)[: len(settings)]
                return found if [j.settings for j in found] == settings[: len(found)] else ()
            except InputError as error:
                aside = file.with_name(f"judge_damaged_{os.getpid()}_{time.time_ns()}.npz")
                file.rename(aside)
                log.warning("%s They are trained again; the file is now %s.", error, aside)
        return ()

    panel = kept()
    if len(panel) == len(settings):
        return panel
    left = len(settings) - len(panel)
    updates = left * judges.num_updates(data, **options)
    with stages.watched("Training judges", updates, poll) as tick:
        for judge in judges.each_judge(data, left, group.judge_seed + len(panel), tick, **options):
            # Another run beside this one may have been first: the same judges for all.
            theirs = kept()
            if len(theirs) == len(settings):
                return theirs
            panel = (*panel, judge)
            if len(theirs) < len(panel):
                judges.save(panel, file)
    log.info("Judges: %.1f %% of held-out examples right.", 100 * _accuracy(panel))
    return panel


def _accuracy(panel):
    return float(np.mean([judge.heldout_accuracy for judge in panel]))


def refuse_judge(judges: Iterable[Judge], *classifiers: PyTree | None) -> None:
    """Raises InputError if one of the classifiers that taught or guided a model is its judge."""
    used = {parameter_hash(params) for params in classifiers if params is not None}
    for judge in judges:
        if used & {judge.hash, parameter_hash(judge.params["network"])}:
            raise InputError(
                f"The classifier in training or guidance is the judge {judge.hash[:12]}; the judge "
                "must be another one."
            )
