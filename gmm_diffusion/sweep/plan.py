"""From the stages of a sweep to its jobs: grids, templates, names. Nothing here touches the disk.

A stage is a dict. Settings are by dotted name, `{"training.seed": [0, 1, 2]}`:

  name      of its directory; required
  config    the config file; required
  fixed     setting -> value, for all its runs
  grid      setting -> list of values; all combinations
  points    list of {setting: value}; each with all combinations of the grid
  evaluate  False for a training that only serves others, such as a guide
  minutes   (of one training, of one evaluation), if known, for the estimate of time

Each combination of the settings that training depends on is one run, trained once. Each of those
of the groups `sample`, `guidance` and `evaluation` is one evaluation of that run.

In text, `{out}` is the directory of the sweep and `{training.seed}` the value of any setting that
the combination, or else the config file, gives: `"{out}/guide/seed{training.seed}"`.
"""

import itertools
import math
import pathlib
import re
from collections.abc import Callable, Iterator

from ml_collections import ConfigDict

from gmm_diffusion import config as config_lib
from gmm_diffusion.errors import InputError
from gmm_diffusion.sweep.jobs import Job

_KINDS = {
    "name": str,
    "config": str,
    "fixed": dict,
    "grid": dict,
    "points": list | tuple,
    "evaluate": bool,
    "minutes": list | tuple,
}
_SEED = "training.seed"
# Of `--mode=sample` alone, and of the sheets of training.
_OF_SAMPLES = {"sample.condition", "sample.num", "sample.name"}
_TEMPLATE = r"\{([\w.]+)\}"

Load = Callable[[str, dict[str, object]], ConfigDict]


def make_jobs(stages: list[dict], out: pathlib.Path, load: Load) -> list[Job]:
    """All commands of a sweep, in the order in which they run.

    Args:
      stages: see above.
      out: directory of the sweep.
      load: `(config file, overrides) -> config`, which raises InputError for a bad one.

    Raises:
      InputError: a stage or a setting that is not valid, or two points of the same name.
    """
    if not isinstance(stages, list | tuple) or not stages:
        raise InputError(f"A sweep is {stages!r}; it must be a list of stages, at least one.")
    jobs, names = [], set()
    for stage in stages:
        check_stage(stage)
        if stage["name"] in names:
            raise InputError(f"Two stages have the name {stage['name']!r}; names must differ.")
        names.add(stage["name"])
        jobs.extend(_stage_jobs(stage, out, load))
    return jobs


def check_stage(stage: dict) -> None:
    """Raises InputError unless `stage` is one, as far as can be told without its config."""
    if not isinstance(stage, dict):
        raise InputError(f"A stage is {stage!r}; it must be a dict with {', '.join(_KINDS)}.")
    for key in ("name", "config"):
        if key not in stage:
            raise InputError(f"A stage is {stage!r}; it must have a {key}.")
    for key, value in stage.items():
        if key not in _KINDS:
            raise InputError(f"A stage has the entry {key!r}; valid are {', '.join(_KINDS)}.")
        if not isinstance(value, _KINDS[key]):
            kind = getattr(_KINDS[key], "__name__", "list")
            raise InputError(f"{key} of a stage is {value!r}; it must be a {kind}.")
    name = stage["name"]
    if not re.fullmatch(r"[A-Za-z0-9_=-][A-Za-z0-9_.=-]*", name):
        raise InputError(f"name of a stage is {name!r}; it must be letters, digits or _ . = -.")
    for field, values in stage.get("grid", {}).items():
        if not isinstance(values, list | tuple) or not values:
            raise InputError(f"grid of stage {name} has {field}: {values!r}; it must be a list.")
    points = stage.get("points", [{}])
    if not points or not all(isinstance(point, dict) for point in points):
        raise InputError(f"points of stage {name} is {points!r}; it must be a list of dicts.")
    minutes = stage.get("minutes", (1, 1))
    if len(minutes) != 2 or not all(
        isinstance(m, int | float) and 0 <= m < math.inf for m in minutes
    ):
        raise InputError(f"minutes of stage {name} is {minutes!r}; it must be two numbers.")


def _stage_jobs(stage, out, load):
    fixed, config = stage.get("fixed", {}), stage["config"]
    usual = config_lib.fields(load(config, {}))
    runs: dict[str, dict[str, dict]] = {}
    for varied in _combinations(stage):
        for field in (*fixed, *varied):
            config_lib.check_name(field)
        for field in varied.keys() & _OF_SAMPLES:
            raise InputError(
                f"Stage {stage['name']} varies {field}, which no evaluation depends on; "
                "--mode=sample draws samples of a run that is trained."
            )
        overrides = _expand({**fixed, **varied}, usual, out)
        trained, sampled = _split(varied)
        seed = overrides.get(_SEED, usual[_SEED])
        run_name, evaluation_name = name_of({_SEED: seed} | trained), name_of(sampled)
        evaluations = runs.setdefault(run_name, {})
        known = evaluations.setdefault(evaluation_name, overrides)
        first = next(iter(evaluations.values()))
        if known != overrides or _split(first)[0] != _split(overrides)[0]:
            raise InputError(
                f"Two points of stage {stage['name']} have the name "
                f"{run_name} {evaluation_name}".rstrip()
                + "; their values must differ in letters, "
                "digits or one of _ . = -."
            )
    for run_name, evaluations in runs.items():
        yield from _run_jobs(stage, out / stage["name"] / run_name, evaluations, load)


def _run_jobs(stage, directory, evaluations, load) -> Iterator[Job]:
    """The training of one run, and its evaluations, name -> overrides."""
    config, minutes = stage["config"], stage.get("minutes", (None, None))
    evaluate = stage.get("evaluate", True)
    if not evaluate and set(evaluations) != {""}:
        field = next(f for o in evaluations.values() for f in _split(o)[1])
        raise InputError(
            f"Stage {stage['name']} varies {field} and has evaluate False; leave out one of them."
        )
    at_end = evaluate and set(evaluations) == {""}
    first = next(iter(evaluations.values()))
    # Of the settings for sampling, the training gets those that its own evaluation needs, or else
    # what all evaluations have alike: so one that is made by hand finds the sweep's judges.
    given = first if at_end else _split(first)[0] | _alike(first, evaluations.values())
    overrides = {**given, "evaluation.at_end": at_end}
    planned = load(config, overrides)
    train_minutes = minutes[0]
    if at_end and None not in minutes:
        train_minutes = sum(minutes)
    yield Job(stage["name"], "train", directory, config, overrides, planned, train_minutes)
    if at_end or not evaluate:
        return
    for name, value in evaluations.items():
        planned = load(config, {**value, "evaluation.name": name})
        sampled = {**_split(value)[1], "evaluation.name": name}
        yield Job(stage["name"], "evaluate", directory, config, sampled, planned, minutes[1])


def _combinations(stage):
    grid = stage.get("grid", {})
    for point in stage.get("points", [{}]):
        both = sorted(set(grid) & set(point))
        if both:
            raise InputError(f"{both[0]} of stage {stage['name']} is in grid and in points.")
        for values in itertools.product(*grid.values()):
            yield {**dict(zip(grid, values, strict=True)), **point}


def _split(overrides):
    """Those of training, and those that a trained model can be sampled with."""
    sampled = {f: v for f, v in overrides.items() if f.split(".")[0] in config_lib.SAMPLING_GROUPS}
    return {f: v for f, v in overrides.items() if f not in sampled}, sampled


def _alike(first, evaluations):
    """Settings of the group `evaluation` that the first has, and all of them."""
    return {
        f: v
        for f, v in first.items()
        if f.startswith("evaluation.") and all((f, v) in other.items() for other in evaluations)
    }


def _expand(overrides, usual, out):
    """Overrides with their templates filled in."""
    known = {**usual, **overrides, "out": out}

    def fill(match):
        if match[1] not in known:
            raise InputError(f"{{{match[1]}}} is not a setting; valid is {{out}} or any setting.")
        return str(known[match[1]])

    return {
        field: re.sub(_TEMPLATE, fill, value) if isinstance(value, str) else value
        for field, value in overrides.items()
    }


def name_of(settings: dict[str, object]) -> str:
    """A short file name: `{"training.seed": 0, "network.width": 64}` -> "seed0-width64"."""
    last = [field.split(".")[-1] for field in settings]
    parts = []
    for field, value in settings.items():
        short = field.split(".")[-1]
        label = field if last.count(short) > 1 else short
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        text = f"{value:.10g}" if is_number else "=" + _letters(value)
        parts.append(label + text)
    return "-".join(parts)


def _letters(value):
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    # The directory of a sweep may move, and its runs keep their names.
    text = re.sub(_TEMPLATE, "", text)
    return re.sub(r"[^A-Za-z0-9_.=-]+", "_", text).strip("_")
