"""Scores of a trained model, each beside its floor: real data scored the same way."""

import logging
import os
import pathlib
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from scipy.special import ndtri

from gmm_diffusion import build, classifier_evaluation, conditioning
from gmm_diffusion import config as config_lib
from gmm_diffusion.conditioning import requests
from gmm_diffusion.data import Dataset, batches, to_float, to_uint8
from gmm_diffusion.data.dataset import evenly_spaced
from gmm_diffusion.diffusion.denoising_loss import denoising_loss
from gmm_diffusion.errors import InputError, RunError
from gmm_diffusion.generation import Guide
from gmm_diffusion.metrics import consistency, frechet, manifold
from gmm_diffusion.metrics import judge as judges
from gmm_diffusion.metrics.features import make_extractor
from gmm_diffusion.metrics.vector_scores import VectorScores
from gmm_diffusion.training import frozen
from gmm_diffusion.training.constants import Constants
from gmm_diffusion.training.devices import example_keys, map_examples
from gmm_diffusion.training.metrics_log import training_seconds
from gmm_diffusion.training.state import TrainState
from gmm_diffusion.training.workdir import evaluation_path, write_json
from gmm_diffusion.types import PyTree

log = logging.getLogger(__name__)

# At most this many examples in the denoising loss that is logged while training.
_LOSS_EXAMPLES = 1024


def choose_params(config: ConfigDict, state: TrainState) -> PyTree:
    """The parameters that `sample.ema` names: an average, or with 0 the raw ones.

    Of a width that is not tracked, the nearest one that is: snapshots are not read while training.
    """
    width = config.sample.ema
    if not width:
        return state.params
    distances = [abs(tracked - width) for tracked in config.training.ema_widths]
    return state.ema[distances.index(min(distances))]


def make_heldout_losses(config: ConfigDict, data: Dataset, constants: Constants) -> Callable:
    """`(params, poll=None) -> {"heldout_loss/sigma_0.30": ...}`, by noise level and their mean.

    They are of at most 1,024 examples of `Dataset.watched`, evenly spaced. The levels are evenly
    spaced quantiles of the training distribution of sigma, the noise is the same at every call, and
    the conditions are drawn as in training.
    """
    split = data.watched.take(evenly_spaced(len(data.watched), _LOSS_EXAMPLES))
    num = len(split)
    levels = config.evaluation.loss_levels
    quantiles = ndtri((np.arange(levels) + 0.5) / levels)
    log_mean, log_std = build.noise_law(config, constants)
    sigmas = np.exp(log_mean + log_std * quantiles)
    x = batches.apply(jax.device_get(constants.transform), to_float(split.x))
    keys = example_keys(config.training.seed, num)
    weights = build.split_weights(config, constants, split)
    weights = None if weights is None else jnp.asarray(weights[0])
    semantics_options = build.semantics_options(config, constants)
    denoise = build.denoise(config, constants)
    sigma_data = float(constants.sigma_data)

    def one_batch(shared, x, keys, sigma, weights):
        params, constants = shared

        def use(number):
            return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)

        cond = None
        if weights is not None:
            conditioner = constants.conditioner
            weights = conditioning.training_weights(
                conditioner, use(1), weights, **semantics_options
            )
            cond = conditioning.encode(conditioner, weights, use(2))

        def denoise_fn(x, sigma, cond):
            return denoise(params, x, sigma, cond)

        return denoising_loss(denoise_fn, use(0), x, sigma, cond, sigma_data=sigma_data)

    mapped = map_examples(one_batch, config.sample.batch_size)

    def losses(params, poll=None):
        means = {}
        for sigma in sigmas:
            level = np.full(num, sigma, np.float32)
            values = mapped((params, constants), x, keys, level, weights, poll=poll)
            means[f"heldout_loss/sigma_{sigma:.3g}"] = float(values.mean())
        means["heldout_loss/mean"] = float(np.mean(list(means.values())))
        return means

    return losses


def make_sheet(config: ConfigDict, data: Dataset, constants: Constants) -> Callable:
    """`(params, poll=None) -> [N, ...]` samples of the training marginal, the same seeds always.

    They are not guided: sheets of a run and of its guide are to be compared.
    """
    generate = build.generator(config, constants, data.shape)
    num = config.sample.num
    weights = None
    if constants.conditioner is not None:
        group = config.sample
        weights = requests.weights(
            constants.conditioner, "train", num, group.seed, group.component
        ).weights
    return lambda params, poll=None: generate(params, weights, config.sample.seed, num, poll=poll)


def check(config: ConfigDict, data: Dataset) -> None:
    """Raises InputError for what only the evaluation, hours later, would stumble over."""
    group = config.evaluation
    if not data.is_image:
        return
    if data.shape[-1] not in (1, 3):
        raise InputError(
            f"Images of {data.name} have {data.shape[-1]} channels; sheets need grey or RGB images."
        )
    fewest = min(len(getattr(data, group.split)), group.max_samples, len(_reference(config, data)))
    if group.neighbours >= fewest:
        raise InputError(
            f"evaluation.neighbours is {group.neighbours}; it must be below the {fewest} images "
            "that are compared."
        )
    if group.features.startswith("file:"):
        make_extractor(group.features, data)


def _reference(config, data):
    """The training images that samples are compared with, evenly spaced."""
    train = data.train.x
    return train[evenly_spaced(len(train), config.evaluation.max_reference)]


def evaluate(
    config: ConfigDict,
    data: Dataset,
    constants: Constants,
    params: PyTree,
    path: pathlib.Path,
    poll: Callable | None = None,
    guide: Guide | None = None,
) -> dict:
    """All metrics that the dataset allows.

    `evaluation.blocks` independent sets of samples, each as large as `evaluation.split`, are scored
    one by one: a metric's value is their mean, and its floor is that split. What depends on a judge
    is a mean over judges.

    Returns:
      {"metrics": {name: {"value", "blocks", "floor"}}, ...} and how they were computed. Metrics of
      several judges also have "judges" and "floor_judges", the standard deviations over judges of
      value and floor; coverage has "ceiling", what real data would be expected to have.
    """
    group = config.evaluation
    real = getattr(data, group.split)
    real = real.take(evenly_spaced(len(real), group.max_samples))
    num = len(real)
    guidance = build.guidance(config, guide)
    generate = build.generator(config, constants, data.shape, guidance)
    named = bool(data.attribute_names)
    labelled = data.num_classes > 1 and real.label is not None and not named
    panel = ()
    if data.is_image and judges.can_judge(data):
        panel = _judges(config, data, path)
        pull = None if guide is None or guide.pull is None else guide.pull.params
        own = params.get("classifier")
        frozen.refuse_judge(panel, constants.frozen_classifier, own, pull)
    score = _ImageScores(config, data, panel, real.x) if data.is_image else VectorScores(data)
    floor = score(real.x, real.label if labelled else None, real.attributes if named else None)
    # Nothing is chosen on combinations that count as never seen.
    unseen = None
    if panel and group.split == "heldout":
        unseen = _unseen(data, constants.conditioner, num)
    if unseen is not None:
        floor |= score.attributes("unseen_", unseen.x, unseen.attributes)
    blocks, took = [], []

    def draw(asked, seed, count):
        if poll is not None:
            poll()
        weights = None if asked is None else asked.weights
        samples = generate(params, weights, seed, count, poll=poll, took=took)
        if not np.isfinite(samples).all():
            raise RunError("Samples are not finite; the model cannot be evaluated.")
        return to_uint8(samples) if data.is_image else samples

    for block in range(group.blocks):
        seed = config.sample.seed + 1 + block
        asked = None
        if constants.conditioner is not None:
            asked = requests.weights(
                constants.conditioner, "train", num, seed, config.sample.component
            )
        told = asked is not None and asked.label.min() >= 0 and labelled
        scores = score(
            draw(asked, seed, num),
            asked.label if told else None,
            asked.attributes if named and asked is not None else None,
        )
        if unseen is not None:
            new = requests.of_attributes(constants.conditioner, unseen.attributes)
            scores |= score.attributes("unseen_", draw(new, seed, len(unseen)), new.attributes)
        blocks.append(scores)
    metrics = {name: _metric([block[name] for block in blocks], floor[name]) for name in blocks[0]}
    for name, metric in metrics.items():
        if name.startswith("coverage_"):
            metric["ceiling"] = score.coverage_ceiling(num)
    return {
        "dataset": data.name,
        "floor_split": group.split,
        "reference_split": "train",
        "shape": list(data.shape),
        "samples_per_block": num,
        "condition": "train",
        "sampler": config.sample.sampler,
        "steps": config.sample.steps,
        "ema": config.sample.ema,
        "features": score.features,
        "judges": [
            {"hash": judge.hash, "heldout_accuracy": judge.heldout_accuracy} for judge in panel
        ],
        "metrics": metrics,
        "verdicts": verdicts(metrics),
        **({"parallel": build.parallel_cost(config, constants, took)} if took else {}),
    }


def _unseen(data, conditioner, num):
    """Real data of combinations that training never shows, where a model can be asked for them."""
    if data.unseen is None or conditioner is None:
        return None
    if conditioner.attributes is None or not conditioner.attributes.laid_out:
        return None
    return data.unseen.take(evenly_spaced(len(data.unseen), num))


def _metric(blocks, floor):
    """A metric from its scores in each block, numbers or `[J]`, one a judge, and its floor's."""
    blocks, floor = np.array(blocks, np.float64), np.array(floor, np.float64)
    blocks, floor = blocks.reshape(len(blocks), -1), floor.reshape(-1)
    metric = {
        "value": float(blocks.mean()),
        "blocks": blocks.mean(axis=1).tolist(),
        "floor": float(floor.mean()),
    }
    if len(floor) > 1:
        metric["judges"] = float(blocks.mean(axis=0).std(ddof=1))
        metric["floor_judges"] = float(floor.std(ddof=1))
    return metric


def _judges(config, data, path):
    """The run's judges, trained once and kept in its folder."""
    group = config.evaluation
    file = path / group.judge_dir / "judge.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    options = {"num_epochs": group.judge_epochs}
    settings = [judges.identity(data, group.judge_seed + i, **options) for i in range(group.judges)]

    def kept():
        if file.exists():
            try:
                found = judges.load(file)
                return found if [judge.settings for judge in found] == settings else None
            except InputError as error:
                aside = file.with_name(f"judge_damaged_{os.getpid()}_{time.time_ns()}.npz")
                os.rename(file, aside)
                log.warning("%s They are trained again; the file is now %s.", error, aside)
        return None

    panel = kept()
    if panel is None:
        panel = judges.fit_judges(data, group.judges, group.judge_seed, **options)
        log.info("Judges: %.1f %% of held-out examples right.", 100 * _accuracy(panel))
        # Another run beside this one may have been first: the same judges for all.
        first = kept()
        if first is not None:
            return first
        judges.save(panel, file)
    return panel


def _accuracy(panel):
    return float(np.mean([judge.heldout_accuracy for judge in panel]))


class _Manifold:
    """Where the training images lie in a space of features."""

    def __init__(self, extractor, train, k):
        self.id, self.extract, self.k = extractor.id, extractor.extract, k
        self.reference = extractor.extract(train)
        self.radii = manifold.ball_radii(self.reference, k)

    def __call__(self, x):
        features = self.extract(x)
        precision = manifold.precision(features, self.reference, self.k, self.radii)
        return {
            "defect_rate": 1.0 - precision,
            "precision": precision,
            "recall": manifold.recall(features, self.reference, self.k),
            "coverage": manifold.coverage(features, self.reference, self.k, self.radii),
        }


class _Frechet:
    """The distance of images to the training images in a space of features."""

    def __init__(self, extractor, train):
        self.extractor = extractor
        self.statistics = self._statistics(train)

    def _statistics(self, x):
        extractor = self.extractor
        return frechet.statistics(extractor.extract(x), extractor.id, resize=extractor.resize)

    def __call__(self, x):
        return {"frechet": frechet.distance(self._statistics(x), self.statistics)}


class _ImageScores:
    """Scores of uint8 images `[N, H, W, C]`: numbers, or `[J]`, one a judge."""

    def __init__(self, config, data, panel, real):
        self.data, self.panel, self.real = data, panel, real
        self.k = config.evaluation.neighbours
        self.train = _reference(config, data)

        def extractors(spec):
            if spec == "judge":
                return [make_extractor(spec, data, judge) for judge in panel]
            return [make_extractor(spec, data)]

        # The same spaces for all models: the judges', or principal components without labels.
        usual = "judge" if panel else "pca"
        spec = config.evaluation.features
        self.manifolds = [_Manifold(e, self.train, self.k) for e in extractors(usual)]
        spaces = extractors(usual if spec == "judge" else spec)
        self.frechet = [_Frechet(extractor, data.train.x) for extractor in spaces]
        self.features = {
            "manifold": ",".join(space.id for space in self.manifolds),
            "frechet": ",".join(space.id for space in spaces),
            "resize": spaces[0].resize,
        }
        # Mirror images of training examples are memorised ones too where training mirrors.
        self.views = self.train
        if config.data.flip:
            self.views = np.concatenate([self.train, self.train[:, :, ::-1]])

    def __call__(self, x, labels, attributes=None):
        count = frechet.count_name(len(x))
        scores = _by_judge([space(x) for space in self.manifolds], "", count)
        scores |= _by_judge([distance(x) for distance in self.frechet], "", count)
        scores[f"memorisation_{count}"] = manifold.memorisation(x, self.views, self.real)
        if labels is not None and self.panel:
            scores[f"agreement_{count}"] = [
                consistency.agreement(
                    labels, judges.predict(judge, x), self.data.num_classes
                )["agreement"]
                for judge in self.panel
            ]
        if attributes is not None:
            scores |= self.attributes("", x, attributes)
        return scores

    def attributes(self, prefix, x, requested):
        """Whether `x` has the attributes that were asked for, by name."""
        rows = [
            consistency.attribute_agreement(requested, judges.predict(judge, x))
            for judge in self.panel
        ]
        return _by_judge(rows, prefix, frechet.count_name(len(x)))

    def coverage_ceiling(self, num):
        return manifold.coverage_ceiling(num, len(self.train), self.k)


def _by_judge(rows, prefix, count):
    """One dict a judge -> the scores of all judges by name."""
    return {f"{prefix}{name}_{count}": [row[name] for row in rows] for name in rows[0]}


def verdicts(metrics: dict) -> list[str]:
    """What the metrics say of copying: memorised samples score a perfect precision.

    A share of memorised samples above 10 %, or a precision more than 3 points above that of the
    held-out split, is memorisation and not success (our reading; see docs/method.md).
    """
    found = []
    for name, metric in metrics.items():
        if name.startswith("memorisation") and metric["value"] > 0.10:
            found.append(f"{name} is {metric['value']:.3f}, above 0.100: samples are copies.")
        if name.startswith("precision") and metric["value"] > metric["floor"] + 0.03:
            found.append(
                f"{name} is {metric['value']:.3f}, more than 0.030 above held-out data: read it "
                "as a sign of memorisation, not of quality."
            )
    return found


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


def evaluate_and_report(
    config: ConfigDict,
    path: pathlib.Path,
    data: Dataset,
    constants: Constants,
    params: PyTree,
    step: int,
    poll: Callable | None = None,
    guide: Guide | None = None,
) -> dict:
    """Evaluates, writes the result, and prints the table and the files of the run.

    The result is `evaluation.json`, or with `evaluation.name` `evaluations/NAME.json`. Beside the
    metrics it holds the settings that it was made with, and what the model costs.
    """
    alone = config.training.task == "classifier"
    if alone:
        scores = classifier_evaluation.evaluate(config, data, constants, params, path, poll)
    else:
        scores = evaluate(config, data, constants, params, path, poll, guide)
    taken = scores.pop("parallel", {})
    result = {
        "step": step,
        **scores,
        "settings": config_lib.sampling_fields(config),
        "cost": cost(config, constants, params, path) | taken,
    }
    file = evaluation_path(path, config.evaluation.name)
    file.parent.mkdir(exist_ok=True)
    write_json(file, result)
    print(classifier_evaluation.table(result) if alone else table(result))
    if taken:
        print(f"Parallel sampling: {rounds_line(config, taken)}")
    names = ("metrics.jsonl", "config.json", "judge.npz", "embedding.jaxexport")
    names += ("checkpoints", "snapshots")
    files = [file, *(path / name for name in names), *sorted((path / "samples").glob("*"))]
    print("\nFiles:\n" + "\n".join(f"  {file}" for file in files if file.exists()))
    return result


def rounds_line(config: ConfigDict, taken: dict) -> str:
    """What parallel sampling took, `build.parallel_cost`, as a sentence."""
    return (
        f"{config.sample.steps} steps in {taken['rounds']:.1f} rounds (at most "
        f"{taken['most_rounds']}), {taken['evaluations']:.1f} evaluations a sample."
    )


def cost(
    config: ConfigDict, constants: Constants, params: PyTree, path: pathlib.Path
) -> dict:
    """What the model takes: parameters, calls of the network an answer, seconds of training.

    The seconds are of the steps alone, without saving and sheets of samples; None without a log.
    """
    calls = {"evaluations": 1}
    if config.training.task == "denoiser":
        calls = build.evaluations(config, constants)
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        **calls,
        "training_seconds": training_seconds(path, config.training.batch_size),
    }
