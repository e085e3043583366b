"""How stable denoisers with a classifier beside were, read from the logs of finished runs."""

import json
import pathlib

import numpy as np

from experiments import markdown, stability
from experiments.many_classifiers import Curves
from gmm_diffusion.errors import InputError
from gmm_diffusion.runs import workdir

METRICS = ("agreement", "defect_rate", "recall", "frechet")


def read(out: pathlib.Path) -> dict[tuple[str, float, float], list[dict]]:
    """Finished runs below a directory: (loss, the term's weight, the classifier's rate) -> each.

    The loss is "none" without a classifier. Curves are those of the log: each value is the mean
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
        key = ("none", 0.0, 0.0)
        if config.ngmg.weight:
            group = config.classifier
            key = (group.loss, config.ngmg.weight, group.learning_rate)
        groups.setdefault(key, []).append(_one(file.parent, result))
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
    names = ("variation", "largest", "spikes", *METRICS)
    head = ["loss", "weight", "rate", "runs", "diverged", "gradient variation", "largest / median"]
    head += ["spikes of the denoising loss, %", *(name.replace("_", " ") for name in METRICS)]
    rows = []
    for (loss, weight, rate), runs in sorted(groups.items()):
        cells = []
        for name in names:
            cells.append(markdown.mean(np.array([run[name] for run in runs])))
        diverged = f"{sum(run['diverged'] for run in runs)} of {len(runs)}"
        weight, rate = (f"{value:.2g}" if value else "-" for value in (weight, rate))
        rows.append([loss, weight, rate, str(len(runs)), diverged, *cells])
    return markdown.table(head, rows)
