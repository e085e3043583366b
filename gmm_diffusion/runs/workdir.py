"""The directory of a run: whose it is, and the config that it was made with."""

import json
import logging
import os
import pathlib
import sys
from typing import Any

from ml_collections import ConfigDict

from gmm_diffusion import config as config_lib
from gmm_diffusion import paths
from gmm_diffusion.errors import InputError
from gmm_diffusion.runs import lock

log = logging.getLogger(__name__)

# Of its files and folders.
CONFIG = "config.json"
DATA = "data.json"
METRICS = "metrics.jsonl"
EVALUATION = "evaluation.json"
JUDGE = "judge.npz"
EMBEDDING = "embedding.jaxexport"
CHECKPOINTS = "checkpoints"
SNAPSHOTS = "snapshots"
SAMPLES = "samples"
EVALUATIONS = "evaluations"
AVERAGES = "ema"

# How the folder begins that `saving_probe.check_saving` makes and removes.
PROBE_PREFIX = "probe-"
_FOLDERS = (CHECKPOINTS, SNAPSHOTS, SAMPLES, EVALUATIONS, AVERAGES)
_FILES = (CONFIG, DATA, METRICS, EVALUATION, JUDGE)


def directory(workdir: str | os.PathLike, name: str = "--workdir") -> pathlib.Path:
    """The directory of a run, which need not exist, with the home for `~`.

    Args:
      workdir: its path.
      name: the flag or the setting that it comes from.

    Raises:
      InputError: as `paths.folder`; a file where the run has a folder, or the reverse; a name that
        checkpoints cannot have.
    """
    path = paths.folder(workdir, name, bucket=True)
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        # Tensorstore takes names as UTF-8.
        raise InputError(
            f"{name} is {str(path)!r}, which is not UTF-8 ({sys.getfilesystemencoding()} is the "
            "encoding of file names here); use an ASCII name, or set PYTHONUTF8=1."
        ) from None
    for part in _FOLDERS:
        if (path / part).exists() and not (path / part).is_dir():
            raise InputError(
                f"{name} {path} holds a file {part} where a run has a folder; move it away."
            )
    for part in _FILES:
        if (path / part).is_dir():
            raise InputError(
                f"{name} {path} holds a folder {part} where a run has a file; move it away."
            )
    return path


def check(config: ConfigDict, workdir: str | os.PathLike) -> bool:
    """Whether `workdir` holds a run of ours already; writes nothing.

    Raises:
      InputError: for a directory that holds something else, or a run that differs in what may not
        change on resume.
    """
    path = directory(workdir)
    try:
        return _check(config, path)
    except OSError as error:
        raise InputError(f"--workdir {path} cannot be read: {error.strerror}.") from error


def _check(config, path):
    resumed = (path / CONFIG).exists()
    if resumed:
        stored = read_config(path)
        differences = config_lib.differences(config, stored)
        if differences:
            raise InputError(
                f"--workdir {path} holds a run with another config; use another directory, or "
                f"undo the differences: {'; '.join(differences)}."
            )
        _say_new_rate(config, stored)
    elif path.exists() and not all(map(_is_left_by_a_kill, path.iterdir())):
        raise InputError(
            f"--workdir {path} is not empty and holds no {CONFIG}, so it is not a run of ours; "
            "use a new or empty directory."
        )
    return resumed


def _say_new_rate(config, stored):
    """Logs where a new `training.num_steps` changes the rate of steps made, or still to be made."""
    old, new = stored.training.num_steps, config.training.num_steps
    if old == new:
        return
    # Imported late: the report reads configs without jax.
    from gmm_diffusion.training.optimizer import learning_rate

    rates = [
        float(
            learning_rate(
                config.optimizer.schedule,
                config.optimizer.learning_rate,
                config.optimizer.warmup_steps,
                config.optimizer.decay_steps,
                num_steps,
            )(min(old, new) - 1)
        )
        for num_steps in (old, new)
    ]
    if abs(rates[1] - rates[0]) > 1e-6 * config.optimizer.learning_rate:
        log.warning(
            "training.num_steps goes from %d to %d, and optimizer.schedule %s depends on it: the "
            "learning rate at step %d, which was to be %.3g, is now %.3g.",
            old,
            new,
            config.optimizer.schedule,
            min(old, new),
            *rates,
        )


def _is_left_by_a_kill(file):
    """Whether a run that was killed before it had written its config may have left the file."""
    if file.name == CHECKPOINTS and file.is_dir():
        return all(inner.name.startswith(PROBE_PREFIX) for inner in file.iterdir())
    return file.name in (lock.NAME, CONFIG + ".tmp")


def write_config(config: ConfigDict, workdir: str | os.PathLike) -> None:
    """Makes `workdir` the directory of a run with this config, or of its continuation.

    Raises:
      InputError: if it cannot be written.
    """
    path = paths.of(workdir)
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / CONFIG, json.loads(config.to_json_best_effort()))
    except OSError as error:
        raise InputError(f"--workdir {path} cannot be written: {error.strerror}.") from error


def read_config(workdir: str | os.PathLike) -> ConfigDict:
    """The config stored in `workdir`.

    Raises:
      InputError: if there is none, or it cannot be read.
    """
    return _read(paths.folder(workdir, "--workdir", bucket=True), config_lib.from_dict)


def as_written(config: ConfigDict, workdir: str | os.PathLike) -> ConfigDict:
    """`config.as_written` for the run in `workdir`, with paths that are absolute."""
    config = config_lib.with_paths(config)
    if not (paths.of(workdir) / CONFIG).exists():
        return config
    return _read(workdir, lambda stored: config_lib.as_written(config, stored))


def _read(workdir, use):
    """`use(stored)` of the config stored in `workdir`, as plain values."""
    path = paths.of(workdir) / CONFIG
    if not path.exists():
        raise InputError(
            f"--workdir {workdir} holds no {CONFIG}; it must be the directory of a run."
        )
    try:
        stored = json.loads(path.read_text())
        if not isinstance(stored, dict):
            raise InputError("it holds no groups of settings.")
        return use(stored)
    except (OSError, ValueError, ArithmeticError, RecursionError) as error:
        cause = str(error).rstrip(".")
        raise InputError(f"{path} cannot be read as the config of a run: {cause}.") from error


def evaluation_path(workdir: str | os.PathLike, name: str = "") -> pathlib.Path:
    """The file of the evaluation with this `evaluation.name`."""
    path = paths.of(workdir)
    return path / EVALUATIONS / f"{name}.json" if name else path / EVALUATION


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON so that `path` is either the old file or the whole new one."""
    with paths.whole(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")
