"""How long the rest of a sweep takes, from what was measured, declared or probed."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable

from gmm_diffusion.runs.workdir import write_json
from gmm_diffusion.sweep.jobs import Job, fraction_left

SOURCES = ("measured", "declared", "probed")


@dataclasses.dataclass(frozen=True)
class Record:
    """The time that one job took.

    Attributes:
      stage: name of its stage.
      kind: "train" or "evaluate".
      seconds: from start to exit of the command.
      steps: updates of the training.
      source: "measured", or "probed" for a guess from a short run.
    """

    stage: str
    kind: str
    seconds: float
    steps: int
    source: str = "measured"


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds that a job still takes, and where they come from (one of `SOURCES`)."""

    seconds: float
    source: str


def read(path: pathlib.Path) -> list[Record]:
    """The records of a sweep; none from a file that is absent or not whole."""
    try:
        return [Record(**record) for record in json.loads(path.read_text())["times"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def write(path: pathlib.Path, records: Iterable[Record]) -> None:
    """Stores the records of a sweep."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"times": [dataclasses.asdict(record) for record in records]})


def estimate(job: Job, records: Iterable[Record]) -> Estimate | None:
    """What a job still takes; None if nothing is known.

    What is measured in its stage counts most, then what the stage declares, then a probe. Trainings
    are scaled by their number of steps, and by the share of it that is left.
    """
    ours = [r for r in records if (r.stage, r.kind) == (job.stage, job.kind)]
    share = fraction_left(job) if job.kind == "train" else 1.0

    def mean(source):
        known = [r for r in ours if r.source == source]
        scales = [job.steps / r.steps if job.kind == "train" else 1.0 for r in known]
        pairs = zip(scales, known, strict=True)
        return sum(scale * r.seconds for scale, r in pairs) / len(known) if known else None

    declared = None if job.minutes is None else 60.0 * job.minutes
    for source, value in zip(SOURCES, (mean("measured"), declared, mean("probed")), strict=True):
        if value is not None:
            return Estimate(share * value, source)
    return None


def total(jobs: Iterable[Job], records: Iterable[Record], parallel: int = 1) -> str:
    """What all jobs take, so many at a time, in words."""
    estimates = [estimate(job, records) for job in jobs]
    known = [e.seconds for e in estimates if e is not None]
    if not known:
        return "an unknown time"
    how = "about" if len(known) == len(estimates) else "at least"
    return f"{how} {words(sum(known) / parallel)}"


def words(seconds: float) -> str:
    """95 -> "1.6 min"."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def table(jobs: list[Job], left: list[Job], records: list[Record], parallel: int = 1) -> str:
    """The plan as text: a line for each stage and kind, and the sum."""
    lines = [f"{'stage':<20} {'':<9} {'left':>4} {'of':>4} {'each':>9} {'in all':>9}"]
    for stage, kind in dict.fromkeys((job.stage, job.kind) for job in jobs):
        mine = [job for job in jobs if (job.stage, job.kind) == (stage, kind)]
        rest = [job for job in left if (job.stage, job.kind) == (stage, kind)]
        estimates = [e for e in (estimate(job, records) for job in rest) if e is not None]
        line = f"{stage:<20} {kind:<9} {len(rest):>4} {len(mine):>4}"
        if estimates:
            seconds = sum(e.seconds for e in estimates)
            each, source = words(seconds / len(estimates)), estimates[0].source
            line += f" {each:>9} {words(seconds):>9}  ({source})"
        elif rest:
            line += f" {'unknown':>9} {'unknown':>9}"
        lines.append(line)
    time = f", {total(left, records, parallel)}" if left else ""
    lines.append(f"{len(left)} of {len(jobs)} to do{time}.")
    return "\n".join(lines)
