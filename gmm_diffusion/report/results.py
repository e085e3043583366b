"""Evaluations on disk: the settings that each was made with, and its metrics."""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Any

from gmm_diffusion import config as config_lib
from gmm_diffusion import paths
from gmm_diffusion.errors import InputError, printable
from gmm_diffusion.runs.workdir import DATA, EVALUATION, EVALUATIONS, read_config
from gmm_diffusion.sweep import submitted

SEED = "training.seed"
# Settings that change no metric.
_WITHOUT_EFFECT = (
    "checkpoint.every",
    "checkpoint.keep",
    "contrastive.chunk",
    "data.cache",
    "evaluation.at_end",
    "evaluation.judge_dir",
    "evaluation.loss_levels",
    "evaluation.name",
    "logging.wandb",
    "sample.batch_size",
    "sample.condition",
    "sample.name",
    "sample.num",
    "training.heldout_every",
    "training.list_parameters",
    "training.log_every",
    "training.steps_per_call",
    "training.tensorboard",
)
# Where data lie changes no metric where they are the same.
_PLACES = ("data.data_dir", "data.heldout_dir")
_STEP = "sample.step"
# What evaluations did before these settings existed.
_EARLIER = {"evaluation.judges": 1, "evaluation.split": "heldout"}
# What `_read` raises for a file that is damaged or of another program; InputError is a ValueError.
_NOT_OURS = (OSError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError)


@dataclasses.dataclass(frozen=True)
class Result:
    """One evaluation.

    Attributes:
      path: its file.
      settings: by dotted name, those of the training and those of sampling; values that JSON has.
      metrics: name -> {"value", "blocks", "floor"}; of parallel sampling "rounds" and
        "evaluations", too, whose floors are those of one step after another.
      data: what the run noted of its data, as text; empty where it noted nothing.
    """

    path: pathlib.Path
    settings: dict[str, Any]
    metrics: dict[str, dict]
    data: str = ""

    @property
    def seed(self) -> int:
        """Of the training."""
        return self.settings[SEED]


def find(directories: Iterable[str | os.PathLike]) -> tuple[list[Result], list[str]]:
    """All evaluations below the directories, and a sentence for each file that cannot be read, and
    for each run that a sweep has given to a cluster and that is not done.

    Raises:
      InputError: a directory that does not exist, or no evaluation at all.
    """
    directories = list(directories)
    files: set[pathlib.Path] = set()
    sweeps: set[pathlib.Path] = set()
    for directory in directories:
        directory = paths.folder(directory, "DIR", exists="a directory of runs", bucket=True)
        for pattern in (EVALUATION, f"{EVALUATIONS}/*.json"):
            files.update(paths.find(directory, pattern))
        sweeps.update(path.parent for path in paths.find(directory, submitted.FILE))
    results, skipped = [], [line for out in sorted(sweeps) for line in submitted.unfinished(out)]
    for path in sorted(files):
        try:
            results.append(_read(path))
        except KeyError as error:
            skipped.append(f"Skipped {path}: it has no {error}.")
        except _NOT_OURS as error:
            skipped.append(printable(f"Skipped {path}: {str(error).rstrip('.')}."))
    if not results:
        end = f" {skipped[0]}" if skipped else ""
        raise InputError(f"{' '.join(map(str, directories))} holds no finished evaluation.{end}")
    return results, skipped


def _read(path):
    result = json.loads(path.read_text())
    if not isinstance(result, dict):
        raise ValueError("it is not the result of an evaluation")
    in_folder = path.parent.name == EVALUATIONS
    run_dir = path.parent.parent if in_folder else path.parent
    config = read_config(run_dir)
    settings: dict[str, Any] = {
        field: list(value) if isinstance(value, tuple) else value
        for field, value in config_lib.fields(config).items()
    }
    for field, value in (_EARLIER | result.get("settings", {})).items():
        # One that this version does not know is shown as it is.
        kind = type(settings.get(field, value))
        if not isinstance(value, (int, float) if kind is float else kind):
            raise ValueError(f"{field} is {value!r}; it must be of type {kind.__name__}")
        if isinstance(value, int):
            _number(value)  # Tables and axes are of floats.
        settings[field] = value
    if type(result.get("step")) is int:
        # Of 0, the last one, there were others before the run went on.
        settings[_STEP] = int(_number(result["step"]))
    metrics = {
        _metric_name(name): {
            "value": _number(metric["value"]),
            "blocks": [_number(value) for value in metric["blocks"]],
            "floor": _number(metric["floor"]),
        }
        for name, metric in result["metrics"].items()
    }
    cost, steps = result.get("cost", {}), float(settings["sample.steps"])
    # Beside them stands what one step after another takes.
    alone = {"rounds": steps, "evaluations": cost.get("sequential_evaluations")}
    if "rounds" in cost:
        for name, floor in alone.items():
            if floor is not None:
                value = _number(cost[name])
                metrics[name] = {"value": value, "blocks": [value], "floor": _number(floor)}
    settings = {field: _seedless(value, settings[SEED]) for field, value in settings.items()}
    return Result(path, settings, metrics, _noted(run_dir))


def _noted(run_dir):
    """What tells other data from the same ones that another machine has read, and rounded."""
    try:
        stored = json.loads((run_dir / DATA).read_text())
        return json.dumps(
            [stored[field] for field in ("shape", "kind", "classes", "attributes")]
            + [
                [name, f"{split['deviation']:.3g}"]
                + [split.get(f) for f in ("examples", "labels", "attributes", "features")]
                for name, split in sorted(stored["splits"].items())
            ]
        )
    except (KeyError, *_NOT_OURS):
        return ""  # A run of an earlier version has no such file.


def _metric_name(name):
    # It becomes a part of a picture's file name.
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", name):
        raise ValueError(f"it has a metric called {name!r}")
    return name


def _number(value):
    number = float(value)
    if not abs(number) < 1e30:
        raise ValueError(f"it has the value {value!r}, which is none that can be plotted")
    return number


def _seedless(value, seed):
    """Paths such as a guide's name the seed; what differs by it alone is the same setting."""
    is_text = isinstance(value, str)
    return re.sub(rf"seed{seed}(?!\d)", "seed*", value) if is_text else value


def varying(results: list[Result]) -> list[str]:
    """Settings, but the training seed, that differ between the results and may change them."""
    fields = dict.fromkeys(field for result in results for field in result.settings)
    without = {SEED, *_WITHOUT_EFFECT}
    if len({result.data for result in results}) <= 1:
        without |= set(_PLACES)
    if all(r.settings.get(_STEP) == r.settings.get("training.num_steps") for r in results):
        without.add(_STEP)
    return [
        field
        for field in fields
        if field not in without and len({str(result.settings.get(field)) for result in results}) > 1
    ]


def implied(results: list[Result], fields: list[str]) -> list[str]:
    """Those of `fields` that follow from the `kind` of their group, such as the guide's directory
    from `guidance.kind`; a column of their own would say nothing more."""
    found = []
    for field in fields:
        kind = field.split(".")[0] + ".kind"
        if kind not in fields or field == kind:
            continue
        pairs = {(str(r.settings.get(kind)), str(r.settings.get(field))) for r in results}
        if len(pairs) == len({value for value, _ in pairs}):
            found.append(field)
    return found


def where(results: list[Result], conditions: dict[str, str]) -> list[Result]:
    """The results whose settings have these values, as text.

    Raises:
      InputError: a value that no result has.
    """
    for field, text in conditions.items():
        config_lib.check_name(field)
        kept = [result for result in results if _is(result.settings.get(field), text)]
        if not kept:
            values = sorted({str(result.settings.get(field)) for result in results})
            raise InputError(f"No run has {field}={text}; there are {', '.join(values)}.")
        results = kept
    return results


def against(results: list[Result], conditions: dict[str, str]) -> list[Result]:
    """The other results, each minus the baseline of its training seed.

    Runs that share a seed share their start and their batches, so that a difference is known better
    than its ends. Settings that differ between the baselines must be the same in a pair.

    Args:
      results: of any number of runs.
      conditions: what makes a result a baseline, as in `where`.

    Raises:
      InputError: no baseline, nothing beside it, or no pair.
    """
    baseline = where(results, conditions)
    fields = [SEED, *varying(baseline)]

    def key(result):
        return str([result.settings.get(field) for field in fields])

    paths = {result.path for result in baseline}
    found = {key(result): result for result in baseline}
    pairs = [
        (result, found[key(result)])
        for result in results
        if result.path not in paths and key(result) in found
    ]
    if not pairs:
        text = " ".join(f"{field}={value}" for field, value in conditions.items())
        raise InputError(
            f"--against {text} leaves no pair: no other run has the training seed and the "
            f"{', '.join(fields[1:]) or 'settings'} of one of these."
        )
    return [dataclasses.replace(ours, metrics=_minus(ours, theirs)) for ours, theirs in pairs]


def _minus(ours, theirs):
    metrics = {}
    for name in ours.metrics.keys() & theirs.metrics.keys():
        a, b = ours.metrics[name], theirs.metrics[name]
        value = a["value"] - b["value"]
        metrics[name] = {"value": value, "blocks": [value], "floor": a["floor"] - b["floor"]}
    # In the order of the table of values.
    return {name: metrics[name] for name in ours.metrics if name in metrics}


def _is(value, text):
    try:
        return str(value) == text or float(value) == float(text)
    except (TypeError, ValueError):
        return False
