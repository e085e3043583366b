"""How stable denoisers with a classifier beside were, read from the logs of finished runs."""

import json
import pathlib

import numpy as np

from experiments import markdown, stability
from experiments.many_classifiers import Curves
from gmm_diffusion.errors import InputError
from gmm_diffusion.report import comparisons
from gmm_diffusion.runs import workdir

METRICS = ("agreement", "defect_rate", "recall", "frechet")
NONE = ("none", 0.0, 0.0)
_TITLES = {
    "variation": "gradient variation",
    "largest": "largest / median",
    "spikes": "spikes of the denoising loss, %",
} | {name: name.replace("_", " ") for name in METRICS}


def read(out: pathlib.Path) -> dict[tuple[str, float, float], list[dict]]:
    """Finished runs below a directory: (loss, the term's weight, the classifier's rate) -> each.

    The key is `NONE` without a classifier. Curves are those of the log: each value is the mean
    over the updates between two lines.

    Raises:
      InputError: there is no finished run.
    """
    groups = {}
    for file in sorted(out.rglob(workdir.CONFIG)):
        result = workdir.evaluation_path(file.parent)
        if not result.exists():
            continue
        config = workdir.read_config(file.parent)
        key = NONE
        if config.ngmg.weight:
            group = config.classifier
            key = (group.loss, config.ngmg.weight, group.learning_rate)
        one = _one(file.parent, result) | {"seed": config.training.seed}
        groups.setdefault(key, []).append(one)
    if not groups:
        raise InputError(f"{out} holds no finished run.")
    return groups


def _one(path, result):
    rows = [json.loads(line) for line in (path / workdir.METRICS).read_text().splitlines()]
    rows = [row for row in rows if "gradient_norm" in row]
    column = {
        name: np.array([float(row.get(name, "nan")) for row in rows])
        for name in ("denoising_loss", "gradient_norm", "classifier_gradient_norm")
    }
    own = column["classifier_gradient_norm"]
    norm = own if np.isfinite(own).any() else column["gradient_norm"]
    metrics = json.loads(result.read_text())["metrics"]
    values = {
        name: next(m["value"] for full, m in metrics.items() if full.startswith(name))
        for name in METRICS
    }
    curves = Curves(column["denoising_loss"][None], norm[None], np.ones(1))
    measured = stability.measure(curves, 0.0)
    skipped = rows[-1]["nonfinite"]
    return values | {
        "diverged": bool(measured.diverged[0]) or skipped > 0,
        "variation": float(measured.variation[0]),
        "largest": float(measured.largest[0]),
        "spikes": 100 * float(measured.spikes[0]),
    }


def table(groups: dict[tuple[str, float, float], list[dict]]) -> str:
    """Markdown, one row a loss, weight and rate: means ± half of Student's 95 % interval."""
    rows = []
    for (loss, weight, rate), runs in sorted(groups.items()):
        columns = [np.array([run[name] for run in runs]) for name in _TITLES]
        cells = [markdown.mean(column[np.isfinite(column)]) for column in columns]
        diverged = f"{sum(run['diverged'] for run in runs)} of {len(runs)}"
        rows.append([loss, *_numbers(weight, rate), str(len(runs)), diverged, *cells])
    head = ["loss", "weight", "rate", "runs", "diverged", *_TITLES.values()]
    return markdown.table(head, rows)


def changes(groups: dict[tuple[str, float, float], list[dict]]) -> str:
    """Markdown: differences of losses from no classifier, and of NGMG from cross-entropy.

    Paired by seed, those that both have. Gradients are compared between classifiers alone: without
    one they are the denoiser's.
    """
    pairs = [(key, NONE) for key in sorted(groups) if key != NONE and NONE in groups]
    pairs += [
        (key, ("cross-entropy", *key[1:]))
        for key in sorted(groups)
        if key[0] == "ngmg" and ("cross-entropy", *key[1:]) in groups
    ]
    differences = {}
    for pair in pairs:
        ours, theirs = ({run["seed"]: run for run in groups[key]} for key in pair)
        seeds = sorted(ours.keys() & theirs.keys())
        for name in METRICS if pair[1] == NONE else _TITLES:
            values = [ours[seed][name] - theirs[seed][name] for seed in seeds]
            if values and np.isfinite(values).all():
                differences[pair, name] = values
    found = comparisons.compare(differences)
    rows = []
    for pair in pairs:
        cells = [
            markdown.change(found[pair, name]) if (pair, name) in found else "-" for name in _TITLES
        ]
        rows.append([f"{pair[0][0]} - {pair[1][0]}", *_numbers(*pair[0][1:]), *cells])
    head = ["difference", "weight", "rate", *_TITLES.values()]
    return markdown.table(head, rows) + "\n\n" + comparisons.note(found)


def _numbers(*values):
    return [f"{value:.2g}" if value else "-" for value in values]
