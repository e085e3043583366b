"""The evaluation of a run, written and printed, with what the model costs."""

import pathlib
from collections.abc import Iterable

import jax
from ml_collections import ConfigDict

from gmm_diffusion import assembly, paths, processes
from gmm_diffusion import config as config_lib
from gmm_diffusion.data import Dataset
from gmm_diffusion.evaluation import classifier as classifier_evaluation
from gmm_diffusion.evaluation import denoiser
from gmm_diffusion.model.guidance import Guidance
from gmm_diffusion.model.model import Model
from gmm_diffusion.runs import wandb_writer, workdir
from gmm_diffusion.runs.metrics_log import training_seconds
from gmm_diffusion.tasks import TASKS
from gmm_diffusion.types import Poll


def evaluate_and_report(
    model: Model,
    data: Dataset,
    path: pathlib.Path,
    guidance: Iterable[Guidance] = (),
    poll: Poll | None = None,
) -> dict:
    """Evaluates, writes the result, and prints the table and the files of the run.

    Of several processes, which evaluate together, the first one writes, and all return the same.

    One that was stopped goes on from the samples that it drew.
    The result is `evaluation.json`, or with `evaluation.name` `evaluations/NAME.json`. Beside the
    metrics it holds the settings that it was made with, and what the model costs.
    """
    config = model.config
    evaluate, as_text = EVALUATIONS[config.training.task]
    partial = workdir.evaluation_path(path, config.evaluation.name).with_suffix(".partial")
    scores = evaluate(model, data, path, guidance, poll, partial)
    return processes.of_first(lambda: _report(model, path, guidance, scores, as_text, partial))


def _report(model, path, guidance, scores, as_text, partial):
    config = model.config
    taken = scores.pop("parallel", {})
    result = {
        "step": model.step,
        **scores,
        "settings": config_lib.sampling_fields(config),
        "cost": cost(model, path, guidance) | taken,
    }
    file = workdir.evaluation_path(path, config.evaluation.name)
    file.parent.mkdir(exist_ok=True)
    workdir.write_json(file, result)
    paths.remove_folder(partial, ignore_errors=True)
    if config.logging.wandb:
        wandb_writer.write_evaluation(config, path, result)
    print(as_text(result))
    if taken:
        print(f"Parallel sampling: {rounds_line(config, taken)}")
    names = (
        workdir.METRICS,
        workdir.CONFIG,
        workdir.JUDGE,
        workdir.EMBEDDING,
        workdir.CHECKPOINTS,
        workdir.SNAPSHOTS,
    )
    files = [file, *(path / name for name in names), *sorted((path / workdir.SAMPLES).glob("*"))]
    print("\nFiles:\n" + "\n".join(f"  {file}" for file in files if file.exists()))
    return result


def rounds_line(config: ConfigDict, taken: dict) -> str:
    """What parallel sampling took, `assembly.parallel_cost`, as a sentence."""
    return (
        f"{config.sample.steps} steps in {taken['rounds']:.1f} rounds (at most "
        f"{taken['most_rounds']}), {taken['evaluations']:.1f} evaluations a sample."
    )


def cost(model: Model, path: pathlib.Path, guidance: Iterable[Guidance] = ()) -> dict:
    """What the model takes: parameters, calls of networks an answer, seconds of training.

    The seconds are of the steps alone, without saving and sheets of samples; None without a log.
    """
    samples = TASKS[model.config.training.task].samples
    calls = assembly.evaluations(model, guidance) if samples else {"evaluations": 1}
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(model.params)),
        **calls,
        "training_seconds": training_seconds(path, model.config.training.batch_size),
    }


def table(result: dict) -> str:
    """The metrics as lines of text: value (lowest to highest block), floor.

    Behind value and floor stand their standard deviations over judges, where there are several.
    """
    split = f"{result['floor_split']:>10}"
    lines = [f"{'metric':<22} {'samples':>8} {'judges':>8} {'(blocks)':>19} {split} {'judges':>8}"]
    for name, metric in result["metrics"].items():
        span = f"({min(metric['blocks']):.4f} to {max(metric['blocks']):.4f})"
        ours, floors = (
            f"±{metric[key]:.4f}" if key in metric else "" for key in ("judges", "floor_judges")
        )
        line = f"{name:<22} {metric['value']:>8.4f} {ours:>8} {span:>19}"
        lines.append(f"{line} {metric['floor']:>10.4f} {floors:>8}".rstrip())
    lines.append(f"Values are means over {len(metric['blocks'])} blocks of samples.")
    for name, metric in result["metrics"].items():
        if "ceiling" in metric:
            lines.append(f"{name} is expected to be {metric['ceiling']:.4f} for perfect samples.")
    if result["samples_per_block"] < 10_000:
        lines.append("Frechet distances from so few samples compare with their floor only.")
    lines.extend(result["verdicts"])
    if result["judges"]:
        right = ", ".join(f"{100 * judge['heldout_accuracy']:.1f}" for judge in result["judges"])
        lines.append(
            f"Judges: {right} % of held-out examples right; ± is the standard deviation over them."
        )
    return "\n".join(lines)


def _evaluate_classifier(model, data, path, guidance, poll, partial):
    del guidance, partial  # A classifier is not sampled.
    return classifier_evaluation.evaluate(
        model.config, data, model.fitted, model.params, path, poll
    )


# By `training.task`: the scores, and their text.
EVALUATIONS = {
    "denoiser": (denoiser.evaluate, table),
    "classifier": (_evaluate_classifier, classifier_evaluation.table),
}
