"""The judges of a run: trained once, and no classifier that taught or guided the model."""

import contextlib
import fcntl
import logging
import os
import pathlib
import time
from collections.abc import Iterable, Iterator

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

_WAIT_SECONDS = 0.5


def panel_of(
    config: ConfigDict, data: Dataset, path: pathlib.Path, poll: Poll | None = None
) -> tuple[Judge, ...]:
    """The run's judges, trained once and kept in its folder; `poll` is called while they train.

    They are trained as many at a time as there are devices, and kept when those are done: work that
    is stopped goes on with the next ones. Of runs that share a folder one trains them, and the
    others wait for it.
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
    with _alone(file, poll):
        panel = kept()
        left = len(settings) - len(panel)
        if not left:
            return panel
        updates = judges.num_updates(data, left, **options)
        first = group.judge_seed + len(panel)
        with stages.watched("Training judges", updates, poll) as tick:
            for judge in judges.each_judge(data, left, first, tick, **options):
                # Where a disk has no locks another run may have been first: the same for all.
                theirs = kept()
                if len(theirs) == len(settings):
                    return theirs
                panel = (*panel, judge)
                if len(theirs) < len(panel):
                    judges.save(panel, file)
    log.info("Judges: %.1f %% of held-out examples right.", 100 * _accuracy(panel))
    return panel


@contextlib.contextmanager
def _alone(file: pathlib.Path, poll: Poll | None) -> Iterator[None]:
    """Waits until no other process is within it for the same file; never where none can lock."""
    if paths.in_bucket(file):
        yield
        return
    beside = file.with_suffix(".lock")
    with beside.open("w") as lock:
        told = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    log.info("Another process trains the judges of %s; waiting for it.", file)
                    told = True
                if poll is not None:
                    poll()
                time.sleep(_WAIT_SECONDS)
            except OSError:  # A file system without locks.
                break
        try:
            yield
        finally:
            # Who opened it already waits on; who comes now finds the judges, unless a fault ended
            # their training: then the look at the file before each save is what is left.
            beside.unlink(missing_ok=True)


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
