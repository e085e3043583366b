"""Sweeps on a cluster, through submitit: an array job a stage, a task a run.

A task is ended in time before its limit or when it is preempted, and goes back into the queue and
on from there. A stage starts when all jobs of the stages before it have ended.
"""

import contextlib
import io
import math
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from gmm_diffusion import extras
from gmm_diffusion.errors import InputError, RunError
from gmm_diffusion.runs.workdir import evaluation_path
from gmm_diffusion.signals import Interrupt, Interrupted
from gmm_diffusion.sweep import runner, submitted
from gmm_diffusion.sweep.jobs import Job

CLUSTERS = ("slurm", "local")
_NAMES = {
    "time": "timeout_min",
    "gpus": "gpus_per_node",
    "cpus": "cpus_per_task",
    "memory": "mem_gb",
    "partition": "slurm_partition",
    "account": "slurm_account",
    "qos": "slurm_qos",
    "constraint": "slurm_constraint",
}
FLAGS = tuple(_NAMES)
_USUAL_TIME = "4:00:00"
# From the signal to the end: a run saves after its call, and the first one compiles.
_SAVING_SECONDS = 120
# Times that a run may reach its limit of time; one that gets nowhere is not to go on for ever.
_TIMEOUTS = 100
# What SLURM gives a preempted or cancelled job, at most, before it kills it.
_GRACE_SECONDS = 900
_POLL_SECONDS = 0.2


def parameters(given: Mapping[str, str]) -> dict[str, Any]:
    """Flags and their values as typed -> the parameters of submitit.

    Raises:
      InputError: a value that is not valid.
    """
    values: dict[str, Any] = {"time": _minutes(given.get("time", _USUAL_TIME))}
    for flag in FLAGS:
        text = given.get(flag)
        if text is None or flag == "time":
            continue
        values[flag] = text
        if flag in ("gpus", "cpus", "memory"):
            if not text.isdecimal() or (int(text) == 0 and flag != "gpus"):
                unit = "GB, such as 32" if flag == "memory" else "an integer, such as 2"
                raise InputError(f"--{flag} is {text!r}; it must be {unit}.")
            values[flag] = int(text)
        elif not re.fullmatch(r"\S+", text):
            raise InputError(f"--{flag} is {text!r}; it must be one word that sbatch knows.")
    named = {_NAMES[flag]: value for flag, value in values.items()}
    if "cpus" in values:
        # srun takes no notice of what sbatch was told.
        named["slurm_srun_args"] = [f"--cpus-per-task={values['cpus']}"]
    return named


def _minutes(text):
    """Of the forms that sbatch takes: M, M:S, H:M:S, D-H, D-H:M and D-H:M:S."""
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    total = 0.0
    if len(parts) <= 3 and all(part.isdecimal() for part in [*parts, *([days] if dash else [])]):
        # Minutes come first, unless days or seconds make clear that it is hours.
        units = [60, 1, 1 / 60] if dash or len(parts) == 3 else [1, 1 / 60]
        total = sum(int(part) * unit for part, unit in zip(parts, units, strict=False))
        total += 24 * 60 * int(days or 0)
    if not total:
        raise InputError(
            f"--time is {text!r}; it must be the time of a run: minutes, H:MM:SS or D-HH:MM:SS."
        )
    return math.ceil(total)


def check(cluster: str) -> None:
    """Raises InputError if there is no such cluster, or none to be reached from here."""
    if cluster not in CLUSTERS:
        raise InputError(f"--cluster is {cluster!r}; valid are {', '.join(CLUSTERS)}.")
    try:
        _submitit()
    except ImportError:
        raise InputError(
            f"--cluster={cluster} needs submitit; {extras.advice('cluster')}."
        ) from None
    for program in ("sbatch", "srun", "squeue") if cluster == "slurm" else ():
        if shutil.which(program) is None:
            raise InputError(
                f"--cluster is 'slurm', and {program} is not found; type it on a machine of the "
                "cluster, or leave --cluster out to run on this one."
            )


def _submitit():
    """The module without its own logging: to set that up closes the handlers of all others, and
    with absl's the stream that it writes to."""
    name = "SUBMITIT_LOG_LEVEL"
    former = os.environ.get(name)
    os.environ[name] = "NOCONFIG"
    try:
        import submitit
    finally:
        del os.environ[name]
        if former is not None:
            os.environ[name] = former
    return submitit


class Run:
    """A training and its evaluations, or what is left of them, as a task of submitit.

    Args:
      jobs: its commands, in order.
    """

    def __init__(self, jobs: list[Job]):
        self.jobs = jobs
        self._child: subprocess.Popen | None = None

    def __call__(self) -> None:
        """Runs what is left.

        Raises:
          RunError: a command failed.
        """
        # Not every SLURM tells the processes of a task, too.
        signal.signal(signal.SIGTERM, lambda signum, frame: self._tell(signum))
        outcome = runner.run(self.jobs, [], self._execute, Interrupt(), lambda records: None)
        if outcome.failed:
            raise RunError(f"Failed: {', '.join(job.title for job in outcome.failed)}.")

    def checkpoint(self) -> Any:
        """What is to be run when the task is started again; at its end, with what runs saved."""
        import submitit

        self._tell(signal.SIGTERM)
        if self._child is not None:
            # Only looks: whom this interrupts may be waiting for the child, too.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(Run(self.jobs))

    def _tell(self, signum):
        if self._child is not None:
            self._child.send_signal(signum)

    def _execute(self, job, cores):
        # SLURM tells every process, and this signal, which is submitit's, would kill the child.
        self._child = runner.start(job.arguments(), job.log, ignored=[signal.SIGUSR2])
        try:
            status = self._child.wait()
            if status in (128 + signal.SIGTERM, -signal.SIGTERM):
                # Preempted or cancelled: SLURM knows which, and ends the task or requeues it.
                time.sleep(_GRACE_SECONDS)
            return status
        except KeyboardInterrupt:
            self._tell(signal.SIGINT)
            raise


def submit(
    left: list[Job],
    out: pathlib.Path,
    cluster: str,
    settings: Mapping[str, Any],
    parallel: int | None,
    interrupt: Interrupt,
    say: Callable[[str], None],
) -> None:
    """Submits the runs of `left` that are neither queued nor running.

    With "slurm" they are in the queue when this returns, with "local" they have ended.

    Args:
      left: what is not done, in order.
      out: directory of the sweep, absolute.
      cluster: one of `CLUSTERS`.
      settings: see `parameters`.
      parallel: runs of a stage at a time; None is what SLURM has room for, and one for "local".
      interrupt: asked while waiting.
      say: prints a line.

    Raises:
      RunError: SLURM does not answer, or does not take a job.
      signals.Interrupted: while waiting; what runs is told to stop.
    """
    known = submitted.read(out)
    states = submitted.active(known.values(), out)
    before: list[str] = []
    for stage in dict.fromkeys(job.stage for job in left):
        runs: dict[str, list[Job]] = {}
        for job in left:
            if job.stage == stage:
                runs.setdefault(f"{stage}/{job.workdir.name}", []).append(job)
        for run in runs:
            if run in known:
                say(submitted.sentence(known[run], states.get(run), out))
        new = [run for run in runs if run not in states]
        for batch in [new] if cluster == "slurm" else _batches(new, parallel or 1):
            if not batch:
                continue
            executor = _executor(out, stage, cluster, settings, parallel, before)
            tasks = _submitted(executor, [Run(runs[run]) for run in batch], stage)
            for run, task in zip(batch, tasks, strict=True):
                known[run] = submitted.Submitted(
                    run, cluster, task.job_id, _results(runs[run], out)
                )
            submitted.write(out, known.values())
            number = tasks[0].job_id.split("_")[0]
            say(f"{stage}: submitted {len(batch)} runs, job {number}, logs in {out / stage}")
            if cluster == "local":
                _wait(tasks, interrupt)
        mine = [known[run] for run in runs if known[run].cluster == "slurm"]
        before += [run.job.split("_")[0] for run in mine]


def _batches(runs, size):
    return [runs[i : i + size] for i in range(0, len(runs), size)]


def _executor(out, stage, cluster, settings, parallel, before):
    python = shlex.join(["env", f"PYTHONPATH={runner.python_path()}", sys.executable])
    executor = _submitit().AutoExecutor(
        out / submitted.FOLDER,
        cluster,
        slurm_max_num_timeout=_TIMEOUTS,
        local_max_num_timeout=_TIMEOUTS,
        slurm_python=python,
        local_python=python,
    )
    executor.update_parameters(
        name=f"{out.name}-{stage}",
        stderr_to_stdout=True,
        slurm_signal_delay_s=_SAVING_SECONDS,
        slurm_array_parallelism=parallel,
        slurm_additional_parameters={"requeue": True},
        # After any end: what needs a run that has failed says so itself, and the others go on.
        slurm_dependency=f"afterany:{':'.join(dict.fromkeys(before))}" if before else None,
        **settings,
    )
    return executor


def _submitted(executor, tasks, stage):
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        # It prints what its error says, too.
        with contextlib.redirect_stderr(io.StringIO()):
            return executor.submit_array(tasks)
    except (FailedJobError, FailedSubmissionError) as error:
        cause = " ".join(str(error).split()) or "no message"
        raise RunError(f"Stage {stage} could not be submitted: {cause.rstrip('.')}.") from error


def _results(jobs, out):
    evaluated = [job for job in jobs if job.kind == "evaluate" or job.planned.evaluation.at_end]
    paths = [evaluation_path(job.workdir, job.name) for job in evaluated]
    return [str(path.relative_to(out)) for path in paths]


def _wait(tasks, interrupt):
    try:
        while not all(task.done() for task in tasks):
            interrupt.check()
            time.sleep(_POLL_SECONDS)
    except (Interrupted, KeyboardInterrupt):
        for task in tasks:
            task.cancel()
        raise
