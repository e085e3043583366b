"""Runs the jobs of a sweep, each as the command that a user would type."""

import concurrent.futures
import dataclasses
import os
import pathlib
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

import gmm_diffusion
from gmm_diffusion import paths
from gmm_diffusion.signals import Interrupt
from gmm_diffusion.sweep import times
from gmm_diffusion.sweep.jobs import Job, fraction_left, is_done

_POLL_SECONDS = 0.2


def shares(parallel: int) -> list[list[int]]:
    """The processors that this process may use, dealt out; none where the system has no such lists.

    A network too small for several processors trains faster on one, with another beside it.
    """
    if parallel == 1 or not hasattr(os, "sched_getaffinity"):
        return [[] for _ in range(parallel)]
    cores = sorted(os.sched_getaffinity(0))
    return [cores[i::parallel] or [cores[i % len(cores)]] for i in range(parallel)]


def start(arguments: list[str], log: pathlib.Path, ignored: Sequence[int] = ()) -> subprocess.Popen:
    """Starts `gmm_diffusion.main`, whose output is appended to `log`.

    It is in a group of its own, because a Ctrl-C on a terminal would otherwise reach it twice, and
    a second one kills.

    Args:
      arguments: of the command line.
      log: file for what is printed, on a disk.
      ignored: signals that do nothing to it and to what it starts.
    """

    with paths.appending(log) as file:
        return _start(arguments, file, ignored)


def _start(arguments, file, ignored=()):
    def ignore():
        for signum in ignored:
            signal.signal(signum, signal.SIG_IGN)

    line = [sys.executable, "-m", "gmm_diffusion.main", *arguments]
    print(f"$ {shlex.join(line)}", file=file, flush=True)
    return subprocess.Popen(
        line,
        env=os.environ | {"PYTHONPATH": python_path()},
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=subprocess.STDOUT,
        process_group=0,
        preexec_fn=ignore if ignored else None,
    )


def python_path() -> str:
    """`PYTHONPATH` with which a clone that is not installed is found from any directory."""
    root = str(pathlib.Path(gmm_diffusion.__file__).parents[1])
    return os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))


def command(
    arguments: list[str], log: pathlib.Path, interrupt: Interrupt, cores: Sequence[int] = ()
) -> int:
    """Runs `gmm_diffusion.main`, see `start`, and returns the exit status.

    A signal to this process is passed on, and waited for.

    Args:
      arguments: of the command line.
      log: file for what is printed.
      interrupt: says whether a signal has arrived.
      cores: the processors to run on; all, if empty.
    """
    with paths.appending(log) as file:
        child = _start(arguments, file)
        if cores:
            os.sched_setaffinity(child.pid, cores)
        passed_on = False
        try:
            while child.poll() is None:
                if interrupt.received is not None and not passed_on:
                    child.send_signal(interrupt.received)
                    passed_on = True
                if interrupt.repeated:  # Only the main thread gets a KeyboardInterrupt.
                    raise KeyboardInterrupt
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
    execute: Callable[[Job, Sequence[int]], int],
    interrupt: Interrupt,
    store: Callable[[list[times.Record]], None],
    say: Callable[[str], None] = print,
    clock: Callable[[], float] = time.monotonic,
    parallel: int = 1,
) -> Outcome:
    """Runs what is left of `jobs`; a failure stops nothing but the evaluations of its own run.

    A stage is finished before the next one starts, and a run trained before it is evaluated.

    Args:
      jobs: in order.
      records: times known already; those of this sweep are added, and `store` is called with all.
      execute: runs one job on the processors given, all if none, and returns its exit status.
      interrupt: asked after each job.
      store: keeps the records.
      say: prints a line.
      clock: seconds.
      parallel: runs at a time.

    Raises:
      signals.Interrupted: after the job that the signal stopped.
    """
    left = [job for job in jobs if not is_done(job)]
    sweep = _Sweep(left, records, execute, interrupt, store, say, clock, parallel)
    for stage in dict.fromkeys(job.stage for job in left):
        mine = [job for job in left if job.stage == stage]
        runs = [
            [job for job in mine if job.workdir == workdir]
            for workdir in dict.fromkeys(job.workdir for job in mine)
        ]
        if parallel == 1:
            for each in runs:
                sweep.one_run(each)
        else:
            with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
                list(pool.map(sweep.one_run, runs))
    return sweep.outcome


class _Sweep:
    """What the runs of a sweep have in common while it goes on."""

    def __init__(self, left, records, execute, interrupt, store, say, clock, parallel):
        self.left, self.records, self.parallel = left, records, parallel
        self.execute, self.interrupt, self.store = execute, interrupt, store
        self.say, self.clock = say, clock
        self.outcome, self.lock = Outcome(), threading.Lock()
        self.waiting = {id(job): job for job in left}
        self.shares: queue.SimpleQueue = queue.SimpleQueue()
        for cores in shares(parallel):
            self.shares.put(cores)

    def one_run(self, jobs):
        """A training and its evaluations, or what is left of them."""
        self.interrupt.check()
        cores = self.shares.get()
        try:
            for i, job in enumerate(jobs):
                if not self.one_job(job, cores) and job.kind == "train":
                    with self.lock:
                        self.outcome.left_out.extend(jobs[i + 1 :])
                        for other in jobs[i + 1 :]:
                            del self.waiting[id(other)]
                    break
        finally:
            self.shares.put(cores)

    def one_job(self, job, cores):
        """Whether it was done."""
        number = 1 + next(i for i, other in enumerate(self.left) if other is job)
        verb = {"train": "training", "evaluate": "evaluating"}[job.kind]
        self.say(f"[{number}/{len(self.left)}] {job.title}: {verb}, log in {job.log}")
        whole, started = job.kind == "evaluate" or fraction_left(job) == 1, self.clock()
        status = self.execute(job, cores)
        seconds = self.clock() - started
        self.interrupt.check()
        name = f"{job.title}: " if self.parallel > 1 else ""
        with self.lock:
            del self.waiting[id(job)]
            if status or not is_done(job):
                self.outcome.failed.append(job)
                self.say(f"  {name}failed with exit status {status}: {last_line(job.log)}")
                return False
            if whole:
                made = times.Record(job.stage, job.kind, round(seconds, 1), job.steps)
                self.records.append(made)
                self.store(self.records)
            rest = self.waiting.values()
            end = f"; {times.total(rest, self.records, self.parallel)} left" if rest else ""
            self.say(f"  {name}done in {times.words(seconds)}{end}")
        return True


def last_line(log: pathlib.Path) -> str:
    """The last line of text in a log, where a failed command says why."""
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")
