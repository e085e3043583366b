"""Weights & Biases (wandb): the curves, sheets and evaluations of a run, if `logging.wandb` is set.

The only place that imports it. It is optional (the extra `[wandb]`), takes a second to import, and
talks to a server, unless WANDB_MODE is offline: then its files wait in DIR/wandb for `wandb sync`.
Its own environment variables hold: WANDB_PROJECT, WANDB_ENTITY, WANDB_NAME, WANDB_MODE.
"""

import json
import logging
import os
import pathlib
import secrets
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion import extras, paths
from gmm_diffusion.errors import InputError

log = logging.getLogger(__name__)

# In the directory of a run: by what name wandb knows it, also after it has gone on.
ID = "wandb.json"


def check() -> None:
    """Refuses, before anything else is done, what could not be written.

    Raises:
      InputError: wandb is not installed, or knows no account and is not offline.
    """
    wandb = _import()
    if wandb.setup().settings.mode not in ("offline", "disabled", "dryrun") and not wandb.login(
        prompt=False, verify=False
    ):
        raise InputError(
            "logging.wandb is True, and wandb knows no account here; type `wandb login` once, set "
            "WANDB_API_KEY, or set WANDB_MODE=offline and send the files later by `wandb sync`."
        )


def _import() -> ModuleType:
    try:
        import wandb
    except ImportError as error:
        raise InputError(
            f"logging.wandb is True and needs wandb, which cannot be imported ({error}); install "
            f"it with {extras.advice('wandb')}."
        ) from error
    return wandb


class WandbWriter:
    """The run of wandb that belongs to a directory, for as long as it is open.

    Args:
      directory: of our run, where the id is kept.
      config: of our run; changed settings replace those of before.
    """

    def __init__(self, directory: pathlib.Path, config: ConfigDict):
        self._wandb = wandb = _import()
        local = None if paths.in_bucket(directory) else str(directory)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "gmm_diffusion",
            name=os.environ.get("WANDB_NAME") or directory.name,
            id=_id(directory),
            resume="allow",
            dir=local,
            config=json.loads(config.to_json_best_effort()),
            allow_val_change=True,
            # Who calls us may have a run of his own.
            reinit="create_new",
            # It would take hold of the streams, and its lines would stand between ours.
            settings=wandb.Settings(console="off", silent=True),
        )
        where = f"{self._run.dir}, for `wandb sync`" if self._run.offline else self._run.url
        log.info("wandb has this run at %s.", where)

    def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by name. Of a step that a resumed run makes again, the first stand."""
        self._run.log(dict(values), step=step)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Uint8 images `[H, W, C]` by name."""
        shown = {name: self._wandb.Image(image) for name, image in images.items()}
        self._run.log(shown, step=step)

    def write_summary(self, values: Mapping[str, Any]) -> None:
        """What stands for the run in tables of runs."""
        self._run.summary.update(dict(values))

    def flush(self) -> None:
        """Does nothing: wandb sends what it has by itself."""

    def close(self) -> None:
        """Returns when all is sent, or offline on disk."""
        self._run.finish()


def write_evaluation(config: ConfigDict, directory: pathlib.Path, result: dict) -> None:
    """An evaluation's values and floors, as `evaluation/...` or with a name `evaluation/NAME/...`.

    Where that fails, the log says so: the evaluation itself is on disk.
    """
    prefix = "/".join(filter(None, ("evaluation", config.evaluation.name)))
    found = {"step": result["step"]}
    for name, metric in result["metrics"].items():
        found |= {name: metric["value"], f"{name}_floor": metric.get("floor")}
    values = {f"{prefix}/{name}": value for name, value in found.items() if value is not None}
    try:
        writer = WandbWriter(directory, config)
        writer.write_summary(values)
        writer.close()
    except Exception as error:  # Of a library and of a network.
        log.warning("wandb did not get the evaluation: %s", error)


def _id(directory):
    file = directory / ID
    if file.exists():
        return json.loads(file.read_text())["id"]
    made = secrets.token_hex(4)
    with paths.whole(file) as temporary:
        temporary.write_text(json.dumps({"id": made}) + "\n")
    return made
