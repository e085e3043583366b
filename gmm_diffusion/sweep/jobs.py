"""One command of a sweep, and how much of it is on disk already."""

import dataclasses
import json
import pathlib

from ml_collections import ConfigDict

from gmm_diffusion import config as config_lib
from gmm_diffusion import paths
from gmm_diffusion.errors import InputError
from gmm_diffusion.runs import workdir as workdir_lib
from gmm_diffusion.runs.checkpoint_files import last_complete_step

# What says where a result goes, and not how it was made.
_NOT_COMPARED = ("evaluation.name", "evaluation.at_end")


@dataclasses.dataclass(frozen=True)
class Job:
    """One training or one evaluation.

    Attributes:
      stage: name of its stage.
      kind: "train" or "evaluate".
      workdir: directory of the run.
      config: the config file.
      overrides: dotted field -> value, on the command line.
      planned: the config that results, valid.
      minutes: how long its stage says that it takes, or None.
    """

    stage: str
    kind: str
    workdir: pathlib.Path
    config: str
    overrides: dict[str, object]
    planned: ConfigDict
    minutes: float | None = None

    @property
    def title(self) -> str:
        """What a person reads."""
        return " ".join(filter(None, (f"{self.stage}/{self.workdir.name}", self.name)))

    @property
    def name(self) -> str:
        """Name of the evaluation; empty for a training."""
        return self.planned.evaluation.name if self.kind == "evaluate" else ""

    @property
    def log(self) -> pathlib.Path:
        """Where the output of all commands of a run goes."""
        return self.workdir.with_name(self.workdir.name + ".log")

    @property
    def steps(self) -> int:
        """Updates of the training."""
        return self.planned.training.num_steps

    def arguments(self) -> list[str]:
        """The command line of `gmm_diffusion.main`."""
        start = [f"--mode={self.kind}", f"--workdir={self.workdir}"]
        # An evaluation takes the run's own config, which its training has stored.
        config = [f"--config={self.config}"] if self.kind == "train" else []
        return start + config + flags(self.overrides)


def flags(overrides: dict[str, object]) -> list[str]:
    """`{"training.seed": 1}` -> `["--config.training.seed=1"]`."""

    def text(value):
        return str(value).lower() if isinstance(value, bool) else str(value)

    return [f"--config.{field}={text(value)}" for field, value in overrides.items()]


def is_done(job: Job) -> bool:
    """Whether the job's result is on disk, made with the settings that the job asks for."""
    if job.kind == "evaluate":
        return _is_evaluated(job)
    if fraction_left(job) > 0:
        return False
    return not job.planned.evaluation.at_end or _is_evaluated(job)


def _is_evaluated(job):
    path = workdir_lib.evaluation_path(job.workdir, job.name)
    try:
        result = json.loads(path.read_text())
        stored, step = result["settings"], result["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    wanted = config_lib.sampling_fields(job.planned)
    compared = set(job.overrides) & set(wanted) - set(_NOT_COMPARED)
    same = all(wanted[field] in _as_stored(field, stored.get(field)) for field in compared)
    return same and step == (job.planned.sample.step or job.steps)


def _as_stored(field, value):
    """The value, and of a path that an earlier version stored as it was typed the absolute one."""
    is_path = field in config_lib.PATH_FIELDS and isinstance(value, str) and value
    return (value, paths.absolute(value, field)) if is_path else (value,)


def fraction_left(job: Job) -> float:
    """The share of a training's steps that is not in a checkpoint yet."""
    done = None
    if (job.workdir / workdir_lib.CONFIG).exists():
        done = last_complete_step(job.workdir / workdir_lib.CHECKPOINTS)
    return max(0.0, 1 - (done or 0) / job.steps)


def check_workdirs(jobs: list[Job]) -> None:
    """Raises InputError if a training's directory holds something else, or another config."""
    for job in jobs:
        if job.kind == "train":
            try:
                workdir_lib.check(job.planned, job.workdir)
            except InputError as error:
                raise InputError(f"{job.title}: {error}") from error
