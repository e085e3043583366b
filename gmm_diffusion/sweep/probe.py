"""Guesses of times before anything has run: a few steps of training, and one evaluation."""

import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable

from gmm_diffusion.runs.workdir import METRICS
from gmm_diffusion.sweep.jobs import Job, flags
from gmm_diffusion.sweep.times import Record

_CALLS = 5


def probe(jobs: list[Job], execute: Callable[[list[str]], int]) -> list[Record]:
    """Times of a stage's trainings and evaluations, from its first ones.

    The stage is trained for a few steps in a temporary directory, whose log has the rate; the rest
    of that time is taken for the start. An evaluation is the same however long the training was.
    What cannot be run yet, for example an evaluation with a guide that a stage before trains, has
    no record.

    Args:
      jobs: of one stage, its trainings first among those of a run.
      execute: runs a command line of `gmm_diffusion.main`, and returns its exit status.
    """
    trained = next(job for job in jobs if job.kind == "train")
    evaluated = next((job for job in jobs if job.kind == "evaluate"), None)
    group = trained.planned.training
    steps = min(group.num_steps, _CALLS * group.steps_per_call)
    short = {
        "training.num_steps": steps,
        "training.log_every": group.steps_per_call,
        "training.heldout_every": 0,
        "evaluation.at_end": False,
    }
    records = []
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder) / "run"
        start = [f"--config={trained.config}", f"--workdir={workdir}"]
        started = time.monotonic()
        if execute([*start, *flags(trained.overrides | short)]):
            return []
        seconds = time.monotonic() - started
        step_seconds = group.batch_size / _rate(workdir)
        seconds += (group.num_steps - steps) * step_seconds
        if evaluated is not None or trained.planned.evaluation.at_end:
            overrides = evaluated.overrides if evaluated is not None else {}
            begun = time.monotonic()
            arguments = [f"--workdir={workdir}", "--mode=evaluate", *flags(overrides)]
            status, spent = execute(arguments), time.monotonic() - begun
            if status == 0 and evaluated is not None:
                records.append(Record(trained.stage, "evaluate", spent, group.num_steps, "probed"))
            elif status == 0:
                seconds += spent
    return [Record(trained.stage, "train", seconds, group.num_steps, "probed"), *records]


def _rate(workdir):
    """Examples a second, without the calls that were compiled."""
    rows = map(json.loads, (workdir / METRICS).read_text().splitlines())
    rates = [row["images_per_second"] for row in rows if "images_per_second" in row]
    return statistics.median(rates[1:] or rates)
