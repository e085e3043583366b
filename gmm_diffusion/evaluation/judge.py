"""The judges of a run: trained once, and no classifier that taught or guided the model."""

import logging
import os
import pathlib
import time
from collections.abc import Iterable

import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion.data import Dataset
from gmm_diffusion.errors import InputError
from gmm_diffusion.metrics import judge as judges
from gmm_diffusion.metrics.judge import Judge, parameter_hash
from gmm_diffusion.runs.workdir import JUDGE
from gmm_diffusion.types import PyTree

log = logging.getLogger(__name__)


def panel_of(config: ConfigDict, data: Dataset, path: pathlib.Path) -> tuple[Judge, ...]:
    """The run's judges, trained once and kept in its folder."""
    group = config.evaluation
    file = path / group.judge_dir / JUDGE
    file.parent.mkdir(parents=True, exist_ok=True)
    options = {"num_epochs": group.judge_epochs}
    settings = [judges.identity(data, group.judge_seed + i, **options) for i in range(group.judges)]

    def kept():
        if file.exists():
            try:
                found = judges.load(file)
                return found if [judge.settings for judge in found] == settings else None
            except InputError as error:
                aside = file.with_name(f"judge_damaged_{os.getpid()}_{time.time_ns()}.npz")
                os.rename(file, aside)
                log.warning("%s They are trained again; the file is now %s.", error, aside)
        return None

    panel = kept()
    if panel is None:
        panel = judges.fit_judges(data, group.judges, group.judge_seed, **options)
        log.info("Judges: %.1f %% of held-out examples right.", 100 * _accuracy(panel))
        # Another run beside this one may have been first: the same judges for all.
        first = kept()
        if first is not None:
            return first
        judges.save(panel, file)
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
