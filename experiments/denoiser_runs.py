"""How stable denoisers with a classifier beside were, read from the logs of finished runs."""

import json
import pathlib
from collections.abc import Callable

import numpy as np

import gmm_diffusion as gd
from experiments import kept, markdown, stability
from experiments.many_classifiers import Curves
from gmm_diffusion.data import Split
from gmm_diffusion.errors import InputError
from gmm_diffusion.report import comparisons
from gmm_diffusion.runs import workdir

METRICS = ("agreement", "defect_rate", "recall", "frechet")
NONE = ("none", 0.0, 0.0)
# Of reading one of ten digits right.
CHANCE = 0.1
_NAMES = {"none": "none", "ngmg": "NGMG", "cross_entropy": "cross-entropy"}
_TITLES = {
    "accuracy": "accuracy of the classifier",
    "variation": "gradient variation",
    "largest": "largest / median",
    "spikes": "spikes of the denoising loss, %",
} | {name: name.replace("_", " ") for name in METRICS}


def heldout_accuracy(run: pathlib.Path, heldout: Split, folder: pathlib.Path) -> float:
    """The share of held-out images that the classifier of a run reads right, by its average.

    An image is read as the class whose components have the largest share together; where a share
    is not finite it counts as wrong. What is found of a step is kept in the folder.
    """

    def compute():
        model = gd.load(str(run))
        assert model.conditioner is not None, "the classes are those of its components"
        shares = np.asarray(model.classify(model.center(heldout.x)))
        owner = np.asarray(model.conditioner.component_class)
        by_class = np.stack([shares[:, owner == c].sum(axis=1) for c in range(owner.max() + 1)], 1)
        right = np.isfinite(by_class).all(axis=1) & (by_class.argmax(axis=1) == heldout.label)
        return {"accuracy": right.mean()}

    step = json.loads(workdir.evaluation_path(run).read_text())["step"]
    file = folder / f"{run.name}-step{step}.npz"
    return float(kept.arrays(file, run.name, compute)["accuracy"])


def read(
    out: pathlib.Path, accuracy: Callable[[pathlib.Path], float]
) -> dict[tuple[str, float, float], list[dict]]:
    """Finished runs below a directory: (loss, the term's weight, the classifier's rate) -> each.

    The key is `NONE` without a classifier. Curves are those of the log: each value is the mean
    over the updates between two lines.

    Args:
      out: the sweep's directory.
      accuracy: of the classifier of a run's directory.

    Raises:
      InputError: there is no finished run.
    """
    groups = {}
    for file in sorted(out.rglob(workdir.CONFIG)):
        result = workdir.evaluation_path(file.parent)
        if not result.exists():
            continue
        config = workdir.read_config(file.parent)
        key, reads = NONE, np.nan
        if config.ngmg.weight:
            group = config.classifier
            key = (group.loss, config.ngmg.weight, group.learning_rate)
            reads = accuracy(file.parent)
        one = _one(file.parent, result, reads) | {"seed": config.training.seed}
        groups.setdefault(key, []).append(one)
    if not groups:
        raise InputError(f"{out} holds no finished run.")
    return groups


def _one(path, result, accuracy):
    rows = [json.loads(line) for line in (path / workdir.METRICS).read_text().splitlines()]
    rows = [row for row in rows if "gradient_norm" in row]
    column = {
        name: np.array([float(row.get(name, "nan")) for row in rows])
        for name in ("denoising_loss", "gradient_norm", "classifier_gradient_norm")
    }
    beside = np.isfinite(accuracy)
    norm = column["classifier_gradient_norm" if beside else "gradient_norm"]
    metrics = json.loads(result.read_text())["metrics"]
    values = {
        name: next(m["value"] for full, m in metrics.items() if full.startswith(name))
        for name in METRICS
    }
    curves = Curves(column["denoising_loss"][None], norm[None], np.array([accuracy]))
    measured = stability.measure(curves, CHANCE)
    diverged = bool(measured.diverged[0]) or rows[-1]["nonfinite"] > 0
    steady = {
        "variation": float(measured.variation[0]),
        "largest": float(measured.largest[0]),
        "spikes": 100 * float(measured.spikes[0]),
    }
    # What has diverged may be calm since.
    steady = {name: np.nan if diverged else value for name, value in steady.items()}
    return values | steady | {"diverged": diverged, "accuracy": accuracy}


def table(groups: dict[tuple[str, float, float], list[dict]]) -> str:
    """Markdown, one row a loss, weight and rate: means ± half of Student's 95 % interval.

    Gradients and spikes are of the runs that did not diverge.
    """
    rows = []
    for (loss, weight, rate), runs in sorted(groups.items()):
        columns = [np.array([run[name] for run in runs]) for name in _TITLES]
        cells = [markdown.mean(column[np.isfinite(column)]) for column in columns]
        diverged = f"{sum(run['diverged'] for run in runs)} of {len(runs)}"
        rows.append([_NAMES[loss], *_numbers(weight, rate), str(len(runs)), diverged, *cells])
    head = ["loss", "weight", "rate", "runs", "diverged", *_TITLES.values()]
    return markdown.table(head, rows)


def changes(groups: dict[tuple[str, float, float], list[dict]]) -> str:
    """Markdown: differences of losses from no classifier, and of NGMG from cross-entropy.

    Paired by seed, those that both have. Gradients are compared between classifiers alone: without
    one they are the denoiser's.
    """
    pairs = [(key, NONE) for key in sorted(groups) if key != NONE and NONE in groups]
    pairs += [
        (("ngmg", *key[1:]), key)
        for key in sorted(groups)
        if key[0] == "cross_entropy" and ("ngmg", *key[1:]) in groups
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
        rows.append(
            [f"{_NAMES[pair[0][0]]} - {_NAMES[pair[1][0]]}", *_numbers(*pair[0][1:]), *cells]
        )
    head = ["difference", "weight", "rate", *_TITLES.values()]
    return markdown.table(head, rows) + "\n\n" + comparisons.note(found)


def _numbers(*values):
    return [f"{value:.2g}" if value else "-" for value in values]
