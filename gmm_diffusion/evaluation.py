"""Scores of a trained model, each beside its floor: real held-out data scored the same way."""

import logging
import pathlib
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from scipy.special import ndtri

from gmm_diffusion import build, classifier_evaluation, conditioning, mixture
from gmm_diffusion import config as config_lib
from gmm_diffusion.conditioning import requests
from gmm_diffusion.data import Dataset, batches, to_uint8
from gmm_diffusion.diffusion.denoising_loss import denoising_loss
from gmm_diffusion.errors import InputError, RunError
from gmm_diffusion.generation import Guide
from gmm_diffusion.metrics import consistency, frechet, manifold, sliced_wasserstein
from gmm_diffusion.metrics import judge as judges
from gmm_diffusion.metrics.features import make_extractor
from gmm_diffusion.sampling.samplers import SAMPLERS
from gmm_diffusion.training import frozen
from gmm_diffusion.training.constants import Constants
from gmm_diffusion.training.devices import example_keys, map_examples
from gmm_diffusion.training.metrics_log import training_seconds
from gmm_diffusion.training.state import TrainState
from gmm_diffusion.training.workdir import evaluation_path, write_json
from gmm_diffusion.types import PyTree

log = logging.getLogger(__name__)

# As many training points as give the 0.1 % quantile of their log-density to a tenth of itself.
_DENSITY_REFERENCE = 2**16
_CLASS_REFERENCE = 2**15
# Log-densities count for no less than this below the mean of true points: so far below it are the
# -20 at which the published comparison on a tree cuts (see docs/results.md).
_LOG_DENSITY_RANGE = 21.4
# At most this many held-out examples in the denoising loss that is logged while training.
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

    The levels are evenly spaced quantiles of the training distribution of sigma, the noise is the
    same at every call, and the conditions are drawn as in training.
    """
    split = data.heldout
    num = min(len(split), _LOSS_EXAMPLES)
    levels = config.evaluation.loss_levels
    quantiles = ndtri((np.arange(levels) + 0.5) / levels)
    sigmas = np.exp(config.diffusion.sigma_log_mean + config.diffusion.sigma_log_std * quantiles)
    x = batches.make_batch(
        split.x, np.arange(num), np.zeros(num, bool), jax.device_get(constants.transform)
    )
    keys = example_keys(config.training.seed, num)
    weights = build.split_weights(config, constants, split)
    weights = None if weights is None else jnp.asarray(weights[0, :num])
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
        weights, _ = requests.weights(constants.conditioner, "train", num, config.sample.seed)
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
    fewest = min(len(data.heldout), group.max_samples, len(_reference(config, data)))
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
    return train[:: max(1, len(train) // config.evaluation.max_reference)]


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

    `evaluation.blocks` independent sets of samples, each as large as the held-out split, are
    scored one by one: a metric's value is their mean, and its floor is the held-out split.

    Returns:
      {"metrics": {name: {"value", "blocks", "floor"}}, ...} and how they were computed.
    """
    group = config.evaluation
    num = min(len(data.heldout), group.max_samples)
    guidance = build.guidance(config, guide)
    generate = build.generator(config, constants, data.shape, guidance)
    labelled = data.num_classes > 1 and data.heldout.label is not None
    judge = None
    if data.is_image and labelled:
        judge = _judge(config, data, path)
        pull = None if guide is None or guide.pull is None else guide.pull.params
        own = params.get("classifier")
        frozen.refuse_judge(judge, constants.frozen_classifier, own, pull)
    score = _ImageScores(config, data, judge, num) if data.is_image else _VectorScores(config, data)
    floor = score(data.heldout.x[:num], data.heldout.label[:num] if labelled else None)
    blocks = []
    for block in range(group.blocks):
        if poll is not None:
            poll()
        seed = config.sample.seed + 1 + block
        weights, labels = None, np.full(num, -1)
        if constants.conditioner is not None:
            weights, labels = requests.weights(constants.conditioner, "train", num, seed)
        samples = generate(params, weights, seed, num, poll=poll)
        if not np.isfinite(samples).all():
            raise RunError("Samples are not finite; the model cannot be evaluated.")
        samples = to_uint8(samples) if data.is_image else samples
        blocks.append(score(samples, labels if labels.min() >= 0 else None))
    metrics = {
        name: {
            "value": float(np.mean([block[name] for block in blocks])),
            "blocks": [block[name] for block in blocks],
            "floor": floor[name],
        }
        for name in blocks[0]
    }
    return {
        "dataset": data.name,
        "floor_split": "heldout",
        "reference_split": "train",
        "shape": list(data.shape),
        "samples_per_block": num,
        "condition": "train",
        "sampler": config.sample.sampler,
        "steps": config.sample.steps,
        "ema": config.sample.ema,
        "features": score.features,
        "judge": None if judge is None else judge_summary(judge),
        "metrics": metrics,
        "verdicts": verdicts(metrics),
    }


def judge_summary(judge: judges.Judge) -> dict:
    """What a result says of its judge."""
    return {"hash": judge.hash, "heldout_accuracy": judge.heldout_accuracy}


def _judge(config, data, path):
    """The run's judge, trained once and kept in the workdir."""
    group = config.evaluation
    file = path / "judge.npz"
    settings = judges.identity(data, group.judge_seed, num_epochs=group.judge_epochs)
    if file.exists():
        try:
            judge = judges.load(file)
            if judge.settings == settings:
                return judge
        except InputError as error:
            log.warning("%s It is trained again.", error)
    judge = judges.fit_judge(data, group.judge_seed, num_epochs=group.judge_epochs)
    judges.save(judge, file)
    log.info("Judge: %.1f %% of held-out examples right.", 100 * judge.heldout_accuracy)
    return judge


class _ImageScores:
    """Scores of uint8 images `[N, H, W, C]`."""

    def __init__(self, config, data, judge, num):
        group = config.evaluation
        self.data, self.judge, self.k = data, judge, group.neighbours
        # One embedding for all models: the judge's, or principal components without labels.
        embedding = make_extractor("judge" if judge else "pca", data, judge)
        spec = group.features if judge or group.features != "judge" else "pca"
        self.frechet_features = make_extractor(spec, data, judge)
        self.embed = embedding.extract
        self.features = {
            "manifold": embedding.id,
            "frechet": self.frechet_features.id,
            "resize": self.frechet_features.resize,
        }
        train = _reference(config, data)
        self.train = train
        self.reference = self.embed(train)
        self.heldout = data.heldout.x[:num]
        self.statistics = self._statistics(data.train.x)
        # Mirror images of training examples are memorised ones too where training mirrors.
        self.views = train
        if config.data.flip:
            self.views = np.concatenate([train, train[:, :, ::-1]])

    def _statistics(self, x):
        extractor = self.frechet_features
        return frechet.statistics(extractor.extract(x), extractor.id, resize=extractor.resize)

    def __call__(self, x, labels):
        count = _count(len(x))
        features = self.embed(x)
        precision = manifold.precision(features, self.reference, self.k)
        scores = {
            f"defect_rate_{count}": 1.0 - precision,
            f"precision_{count}": precision,
            f"recall_{count}": manifold.recall(features, self.reference, self.k),
            f"coverage_{count}": manifold.coverage(features, self.reference, self.k),
            f"frechet_{count}": frechet.distance(self._statistics(x), self.statistics),
            f"memorisation_{count}": manifold.memorisation(x, self.views, self.heldout),
        }
        if labels is not None and self.judge is not None:
            predicted = judges.predict(self.judge, x)
            agreement = consistency.agreement(labels, predicted, self.data.num_classes)
            scores[f"agreement_{count}"] = agreement["agreement"]
        return scores


class _VectorScores:
    """Scores of vectors `[N, D]`, by the true density where it is known.

    Where classes are known, too, `condition_` scores are by the density of the class asked for, and
    all but the smallest log-density are means over classes, as is the sliced distance.
    """

    def __init__(self, config, data):
        self.data = data
        self.features = {"manifold": "raw", "frechet": "raw"}
        self.statistics = frechet.statistics(data.train.x, "raw")
        self.train = data.train.x[:_DENSITY_REFERENCE]
        self.labels = None if data.train.label is None else data.train.label[:_DENSITY_REFERENCE]
        true = data.mixture
        if true is None:
            return
        self.log_prob = jax.jit(lambda x, weights: mixture.log_prob(true, x, weights=weights))
        self.posterior = jax.jit(lambda x: mixture.responsibilities(true, x))
        self.own = np.eye(data.num_classes)[data.component_class]
        weights = np.asarray(true.weights)
        self.reference = np.asarray(self.log_prob(self.train, weights))
        self.class_weights = [column * weights / (column @ weights) for column in self.own.T]
        self.class_reference = []
        for label, own in enumerate(self.class_weights):
            # Points of one class in the training split may be too few for the quantile.
            key = jax.random.fold_in(jax.random.key(config.evaluation.judge_seed), label)
            with np.errstate(divide="ignore"):
                alone = true.replace(log_weights=jnp.asarray(np.log(own), jnp.float32))
            x = mixture.sample(alone, key, _CLASS_REFERENCE)
            self.class_reference.append(np.asarray(self.log_prob(x, own)))

    def __call__(self, x, labels):
        count = _count(len(x))
        scores = {
            f"frechet_{count}": frechet.distance(frechet.statistics(x, "raw"), self.statistics),
            f"sliced_wasserstein_{count}": self._sliced(x, labels),
        }
        if self.data.mixture is None:
            return scores
        values = np.asarray(self.log_prob(x, np.asarray(self.data.mixture.weights)))
        scores[f"density_defects_{count}"] = manifold.density_defects(values, self.reference)
        scores[f"log_density_{count}"] = _clipped_mean(values, self.reference)
        if labels is not None:
            scores |= self._class_scores(x, labels, count)
            owner = (np.asarray(self.posterior(x)) @ self.own).argmax(1)
            agreement = consistency.agreement(labels, owner, self.data.num_classes)
            scores[f"agreement_{count}"] = agreement["agreement"]
        return scores

    def _class_scores(self, x, labels, count):
        rows = []
        for label in np.unique(labels):
            reference = self.class_reference[label]
            values = np.asarray(self.log_prob(x[labels == label], self.class_weights[label]))
            defects = manifold.density_defects(values, reference)
            rows.append((defects, _clipped_mean(values, reference), values.min()))
        defects, means, least = np.array(rows, np.float64).T
        return {
            f"condition_defects_{count}": float(defects.mean()),
            f"condition_log_density_{count}": float(means.mean()),
            f"condition_log_density_min_{count}": float(least.min()),
        }

    def _sliced(self, x, labels):
        if labels is None or self.labels is None:
            return sliced_wasserstein.distance(x, self.train[: len(x)])
        distances = []
        for label in np.unique(labels):
            ours, theirs = x[labels == label], self.train[self.labels == label]
            distances.append(sliced_wasserstein.distance(ours, theirs[: len(ours)]))
        return float(np.mean(distances))


def _clipped_mean(values, reference):
    """The mean log-density without its tail, which a few points far out would set."""
    return float(np.maximum(values, reference.mean() - _LOG_DENSITY_RANGE).mean())


def _count(num):
    """A number of samples as it stands in the metrics' names: 360, 5k."""
    with warnings.catch_warnings():
        # The table says it once, in place of a warning for each block.
        warnings.simplefilter("ignore")
        return frechet.metric_name(num).removeprefix("frechet_")


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
    """The metrics as lines of text: value (lowest to highest block), floor."""
    lines = [f"{'metric':<22} {'samples':>8} {'(blocks)':>19} {'held-out':>9}"]
    for name, metric in result["metrics"].items():
        span = f"({min(metric['blocks']):.4f} to {max(metric['blocks']):.4f})"
        lines.append(f"{name:<22} {metric['value']:>8.4f} {span:>19} {metric['floor']:>9.4f}")
    lines.append(f"Values are means over {len(metric['blocks'])} blocks of samples.")
    if result["samples_per_block"] < 10_000:
        lines.append("Frechet distances from so few samples compare with their floor only.")
    lines.extend(result["verdicts"])
    if result["judge"] is not None:
        lines.append(
            f"Judge: {100 * result['judge']['heldout_accuracy']:.1f} % of held-out examples right."
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
    result = {
        "step": step,
        **scores,
        "settings": config_lib.sampling_fields(config),
        "cost": cost(config, params, path),
    }
    file = evaluation_path(path, config.evaluation.name)
    file.parent.mkdir(exist_ok=True)
    write_json(file, result)
    print(classifier_evaluation.table(result) if alone else table(result))
    names = ("metrics.jsonl", "config.json", "judge.npz", "embedding.jaxexport")
    names += ("checkpoints", "snapshots")
    files = [file, *(path / name for name in names), *sorted((path / "samples").glob("*"))]
    print("\nFiles:\n" + "\n".join(f"  {file}" for file in files if file.exists()))
    return result


def cost(config: ConfigDict, params: PyTree, path: pathlib.Path) -> dict:
    """What the model takes: parameters, calls of the network an answer, seconds of training.

    The seconds are of the steps alone, without saving and sheets of samples; None without a log.
    """
    evaluations = 1
    if config.training.task == "denoiser":
        evaluations = SAMPLERS[config.sample.sampler].evaluations(config.sample.steps)
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "evaluations": evaluations,
        "training_seconds": training_seconds(path, config.training.batch_size),
    }
