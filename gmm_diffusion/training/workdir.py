"""The directory of a run: whose it is, and the config that it was made with."""

import json
import os
import pathlib

from ml_collections import ConfigDict

from gmm_diffusion import config as config_lib
from gmm_diffusion.errors import InputError
from gmm_diffusion.training import lock

CONFIG = "config.json"

# How the folder begins that `storage.check_saving` makes and removes.
PROBE_PREFIX = "probe-"


def check(config: ConfigDict, workdir: str | os.PathLike) -> bool:
    """Whether `workdir` holds a run of ours already; writes nothing.

    Raises:
      InputError: for a directory that holds something else, or a run that differs in what may not
        change on resume.
    """
    path = pathlib.Path(workdir)
    try:
        return _check(config, path)
    except OSError as error:
        raise InputError(f"--workdir {path} cannot be read: {error.strerror}.") from error


def _check(config, path):
    if path.exists() and not path.is_dir():
        raise InputError(f"--workdir is {path}, which is a file; it must be a directory.")
    resumed = (path / CONFIG).exists()
    if resumed:
        differences = config_lib.differences(config, read_config(path))
        if differences:
            raise InputError(
                f"--workdir {path} holds a run with another config; use another directory, or "
                f"undo the differences: {'; '.join(differences)}."
            )
    elif path.exists() and not all(map(_is_left_by_a_kill, path.iterdir())):
        raise InputError(
            f"--workdir {path} is not empty and holds no {CONFIG}, so it is not a run of ours; "
            "use a new or empty directory."
        )
    return resumed


def _is_left_by_a_kill(file):
    """Whether that is what a run leaves that was killed before it had written its config."""
    if file.name == "checkpoints" and file.is_dir():
        return all(inner.name.startswith(PROBE_PREFIX) for inner in file.iterdir())
    return file.name in (lock.NAME, CONFIG + ".tmp")


def write_config(config: ConfigDict, workdir: str | os.PathLike) -> None:
    """Makes `workdir` the directory of a run with this config, or of its continuation.

    Raises:
      InputError: if it cannot be written.
    """
    path = pathlib.Path(workdir)
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
    return _read(workdir, config_lib.from_dict)


def as_written(config: ConfigDict, workdir: str | os.PathLike) -> ConfigDict:
    """`config.as_written` for the run in `workdir`; `config` itself where there is none."""
    if not (pathlib.Path(workdir) / CONFIG).exists():
        return config
    return _read(workdir, lambda stored: config_lib.as_written(config, stored))


def _read(workdir, use):
    """`use(stored)` of the config stored in `workdir`, as plain values."""
    path = pathlib.Path(workdir) / CONFIG
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
    path = pathlib.Path(workdir)
    return path / "evaluations" / f"{name}.json" if name else path / "evaluation.json"


def write_json(path: pathlib.Path, value) -> None:
    """Writes JSON so that `path` is either the old file or the whole new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(temporary, path)
