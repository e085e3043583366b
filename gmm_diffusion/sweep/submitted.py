"""The runs of a sweep that were given to a cluster, and what has become of them.

OUT/sweep_jobs.json has the newest job of each. SLURM is asked for what is queued or running, and
the disk for what is done.
"""

import dataclasses
import json
import pathlib
import subprocess
from collections.abc import Iterable

from gmm_diffusion.errors import RunError, printable
from gmm_diffusion.runs.workdir import write_json
from gmm_diffusion.sweep import runner

FILE = "sweep_jobs.json"
# Of submitit's own files; no stage has this name.
FOLDER = ".submitit"


@dataclasses.dataclass(frozen=True)
class Submitted:
    """One run as a job of a cluster.

    Attributes:
      run: STAGE/NAME.
      cluster: "slurm" or "local".
      job: its number, such as "12" or "12_3".
      results: the files with its evaluations, relative to the directory of the sweep.
    """

    run: str
    cluster: str
    job: str
    results: list[str]


def read(out: pathlib.Path) -> dict[str, Submitted]:
    """STAGE/NAME -> the run, of those that were submitted.

    Raises:
      RunError: the file is there and cannot be read: a run that is queued would be run twice.
    """
    path = out / FILE
    try:
        found = [Submitted(**entry) for entry in json.loads(path.read_text())["runs"]]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} cannot be read ({type(error).__name__}); remove it when no job of this sweep "
            "is queued or running."
        ) from error
    return {submitted.run: submitted for submitted in found}


def write(out: pathlib.Path, runs: Iterable[Submitted]) -> None:
    """Stores what was submitted."""
    write_json(out / FILE, {"runs": [dataclasses.asdict(submitted) for submitted in runs]})


def active(runs: Iterable[Submitted], out: pathlib.Path) -> dict[str, str]:
    """STAGE/NAME -> state, such as "PENDING", of the runs whose job is queued or running.

    Raises:
      RunError: SLURM does not say.
    """
    states: dict[str, str] = {}
    asked = {"slurm": _of_slurm, "local": lambda: _of_this_machine(out)}
    for cluster in asked:
        mine = [submitted for submitted in runs if submitted.cluster == cluster]
        known = asked[cluster]() if mine else {}
        states |= {s.run: known[s.job] for s in mine if s.job in known}
    return states


def _of_slurm():
    """Number -> state of all jobs of this user that have not ended."""
    line = ["squeue", "--me", "--noheader", "--array", "--format=%i %T"]
    return dict(row.split() for row in _output(line, "which jobs are queued").splitlines())


def _of_this_machine(out):
    """A job is known by the process that looks after it."""
    rows = _output(["ps", "-A", "-o", "pid=,args="], "which jobs are running").splitlines()
    ours = [row for row in rows if row.endswith(f" submitit.local._local {out / FOLDER}")]
    return {row.split()[0]: "RUNNING" for row in ours}


def _output(line, what):
    try:
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError as error:
        raise RunError(f"{line[0]} is not found, and does not say {what}.") from error
    except subprocess.CalledProcessError as error:
        cause = (error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
        raise RunError(f"{line[0]} does not say {what}: {cause}") from error


def sentence(run: Submitted, state: str | None, out: pathlib.Path) -> str:
    """What has become of a run that is not done, from its state in the queue, if it is there."""
    log = out / f"{run.run}.log"
    if state is not None:
        return f"{run.run} is {state}, job {run.job}, log in {log}"
    last = printable(runner.last_line(log))
    return f"{run.run} has ended and is not done, log in {log}: {last}"


def unfinished(out: pathlib.Path) -> list[str]:
    """A sentence for each run that was submitted, and is in the queue or has no result."""
    try:
        runs = read(out)
        states = active(runs.values(), out)
    except RunError as error:
        return [str(error)]
    return [
        sentence(run, states.get(name), out)
        for name, run in runs.items()
        if name in states or not all((out / result).is_file() for result in run.results)
    ]
