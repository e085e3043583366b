"""Scores of a trained model, each beside its floor: real held-out data scored the same way."""

import logging
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from scipy.special import ndtri

from gmm_diffusion import build, classifier_evaluation, conditioning
from gmm_diffusion import config as config_lib
from gmm_diffusion.conditioning import requests
from gmm_diffusion.data import Dataset, batches, to_uint8
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
    log_mean, log_std = build.noise_law(config, constants)
    sigmas = np.exp(log_mean + log_std * quantiles)
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
    named = bool(data.attribute_names)
    labelled = data.num_classes > 1 and data.heldout.label is not None and not named
    judge = None
    if data.is_image and judges.can_judge(data):
        judge = _judge(config, data, path)
        pull = None if guide is None or guide.pull is None else guide.pull.params
        own = params.get("classifier")
        frozen.refuse_judge(judge, constants.frozen_classifier, own, pull)
    score = _ImageScores(config, data, judge, num) if data.is_image else VectorScores(data)
    floor = score(
        data.heldout.x[:num],
        data.heldout.label[:num] if labelled else None,
        data.heldout.attributes[:num] if named else None,
    )
    unseen = _unseen(data, constants.conditioner, num) if judge is not None else None
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
        **({"parallel": build.parallel_cost(config, constants, took)} if took else {}),
    }


def _unseen(data, conditioner, num):
    """Real data of combinations that training never shows, where a model can be asked for them."""
    if data.unseen is None or conditioner is None:
        return None
    if conditioner.attributes is None or not conditioner.attributes.laid_out:
        return None
    return data.unseen.take(np.arange(min(num, len(data.unseen))))


def judge_summary(judge: judges.Judge) -> dict:
    """What a result says of its judge."""
    return {"hash": judge.hash, "heldout_accuracy": judge.heldout_accuracy}


def _judge(config, data, path):
    """The run's judge, trained once and kept in its folder."""
    group = config.evaluation
    file = path / group.judge_dir / "judge.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    settings = judges.identity(data, group.judge_seed, num_epochs=group.judge_epochs)

    def kept():
        if file.exists():
            try:
                judge = judges.load(file)
                return judge if judge.settings == settings else None
            except InputError as error:
                log.warning("%s It is trained again.", error)
        return None

    judge = kept()
    if judge is None:
        judge = judges.fit_judge(data, group.judge_seed, num_epochs=group.judge_epochs)
        log.info("Judge: %.1f %% of held-out examples right.", 100 * judge.heldout_accuracy)
        # Another run beside this one may have been first: one judge for all.
        first = kept()
        if first is not None:
            return first
        judges.save(judge, file)
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

    def __call__(self, x, labels, attributes=None):
        count = frechet.count_name(len(x))
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
        if attributes is not None:
            scores |= self.attributes("", x, attributes)
        return scores

    def attributes(self, prefix, x, requested):
        """Whether `x` has the attributes that were asked for, by name."""
        count = frechet.count_name(len(x))
        found = consistency.attribute_agreement(requested, judges.predict(self.judge, x))
        return {f"{prefix}{name}_{count}": value for name, value in found.items()}


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
