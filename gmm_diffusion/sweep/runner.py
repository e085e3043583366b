"""Runs the jobs of a sweep one after another, each as the command that a user would type."""

import dataclasses
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import gmm_diffusion
from gmm_diffusion.sweep import times
from gmm_diffusion.sweep.jobs import Job, fraction_left, is_done
from gmm_diffusion.training.signals import Interrupt

_POLL_SECONDS = 0.2


def command(arguments: list[str], log: pathlib.Path, interrupt: Interrupt) -> int:
    """Runs `gmm_diffusion.main`; output is appended to `log`. Returns the exit status.

    A signal to this process is passed on, and waited for. The command is in a group of its own,
    because a Ctrl-C on a terminal would otherwise reach it twice, and a second one kills.
    """
    line = [sys.executable, "-m", "gmm_diffusion.main", *arguments]
    # A clone that is not installed is found from any directory.
    root = str(pathlib.Path(gmm_diffusion.__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        print(f"$ {shlex.join(line)}", file=file, flush=True)
        child = subprocess.Popen(
            line,
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        passed_on = False
        try:
            while child.poll() is None:
                if interrupt.received is not None and not passed_on:
                    child.send_signal(interrupt.received)
                    passed_on = True
                time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:  # The second Ctrl-C.
            child.send_signal(signal.SIGINT)
            child.wait()
            raise
        return child.returncode


@dataclasses.dataclass
class Outcome:
    """What became of the jobs: those that failed, and those that were left out for it."""

    failed: list[Job] = dataclasses.field(default_factory=list)
    left_out: list[Job] = dataclasses.field(default_factory=list)


def run(
    jobs: list[Job],
    records: list[times.Record],
    execute: Callable[[Job], int],
    interrupt: Interrupt,
    store: Callable[[list[times.Record]], None],
    say: Callable[[str], None] = print,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Runs what is left of `jobs`; a failure stops nothing but the evaluations of its own run.

    Args:
      jobs: in order.
      records: times known already; those of this sweep are added, and `store` is called with all.
      execute: runs one job and returns its exit status.
      interrupt: asked after each job.
      store: keeps the records.
      say: prints a line.
      clock: seconds.

    Raises:
      signals.Interrupted: after the job that the signal stopped.
    """
    outcome, left = Outcome(), [job for job in jobs if not is_done(job)]
    broken = set()
    for number, job in enumerate(left, 1):
        if job.workdir in broken:
            outcome.left_out.append(job)
            continue
        verb = {"train": "training", "evaluate": "evaluating"}[job.kind]
        say(f"[{number}/{len(left)}] {job.title}: {verb}, log in {job.log}")
        whole, started = job.kind == "evaluate" or fraction_left(job) == 1, clock()
        status = execute(job)
        seconds = clock() - started
        interrupt.check()
        if status or not is_done(job):
            outcome.failed.append(job)
            say(f"  failed with exit status {status}: {last_line(job.log)}")
            if job.kind == "train":
                broken.add(job.workdir)
            continue
        if whole:
            records.append(times.Record(job.stage, job.kind, round(seconds, 1), job.steps))
            store(records)
        rest = [other for other in left[number:] if other.workdir not in broken]
        end = f"; {times.total(rest, records)} left" if rest else ""
        say(f"  done in {times.words(seconds)}{end}")
    return outcome


def last_line(log: pathlib.Path) -> str:
    """The last line of text in a log, where a failed command says why."""
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")
