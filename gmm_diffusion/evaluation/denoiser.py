"""Scores of a trained model, each beside its floor: real data scored the same way."""

import logging
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np

from gmm_diffusion import assembly, conditioning, paths, processes, stages
from gmm_diffusion.conditioning import requests
from gmm_diffusion.conditioning.requests import Request
from gmm_diffusion.data import Dataset, Split, latents
from gmm_diffusion.data.dataset import evenly_spaced
from gmm_diffusion.evaluation import reference
from gmm_diffusion.evaluation.checks import stored_statistics
from gmm_diffusion.evaluation.drawn import Drawn
from gmm_diffusion.evaluation.images import ImageScores
from gmm_diffusion.evaluation.judge import panel_of, refuse_judge
from gmm_diffusion.metrics import judge as judges
from gmm_diffusion.metrics.judge import Judge
from gmm_diffusion.metrics.vector_scores import VectorScores
from gmm_diffusion.model import guidance as guidances
from gmm_diffusion.model.guidance import ClassifierGuidance, Guidance
from gmm_diffusion.model.model import Model
from gmm_diffusion.types import Poll

log = logging.getLogger(__name__)


def evaluate(
    model: Model,
    data: Dataset,
    path: pathlib.Path,
    guidance: Iterable[Guidance] = (),
    poll: Poll | None = None,
    partial: pathlib.Path | None = None,
) -> dict:
    """All metrics that the dataset allows, as the groups `sample` and `evaluation` say.

    `evaluation.blocks` independent sets of samples, each as large as `evaluation.split`, are scored
    one by one: a metric's value is their mean, and its floor is that split. What depends on a judge
    is a mean over judges. Of several processes, which sample together, the first one scores; the
    others return no metrics.

    Args:
      model: with its config.
      data: shaped as what the model was trained on.
      path: of the judges, which are kept in its folder `evaluation.judge_dir`.
      guidance: of the samples.
      poll: called before each batch of samples; what it raises ends the evaluation.
      partial: folder in which samples are kept, for an evaluation that is stopped and made again.

    Returns:
      {"metrics": {name: {"value", "blocks", "floor"}}, ...} and how they were computed. Metrics of
      several judges also have "judges" and "floor_judges", the standard deviations over judges of
      value and floor; coverage has "ceiling", what real data would be expected to have.
    """
    config, conditioner = model.config, model.conditioner
    group = config.evaluation
    # Latents that have pictures are scored by these.
    decoder, data = data.decoder, latents.decoded(data)
    real = getattr(data, group.split)
    real = real.read(evenly_spaced(len(real), group.max_samples))
    num = len(real)
    guidance = guidances.ordered(guidance)
    named = bool(data.attribute_names)
    labelled = data.num_classes > 1 and real.label is not None and not named
    first = processes.is_first()
    judged = data.is_image and judges.can_judge(data)
    panel: tuple[Judge, ...] = ()
    if judged and first:
        # Of several processes the others wait, and cannot be asked whether one should stop.
        panel = panel_of(config, data, path, poll if jax.process_count() == 1 else None)
        refuse_judge(panel, *_classifiers(model, guidance))
    pixels = len(data.shape) == 3 and first
    beside = paths.within(path, group.judge_dir) / reference.FOLDER
    images = ImageScores(config, data, panel, real.x, beside) if pixels else None
    vectors = VectorScores(data, stored_statistics(config)) if first and not pixels else None
    score = images or vectors or _ScoredElsewhere()
    floor = score(real.x, real.label if labelled else None, real.attributes if named else None)
    # Nothing is chosen on combinations that count as never seen.
    unseen = None
    if judged and group.split == "heldout":
        unseen = _unseen(data, conditioner, num)
    if images and unseen:
        floor |= images.attributes("unseen_", unseen.split.x, unseen.attributes)
    blocks, drawn = [], Drawn(model, guidance, partial)

    def sample(asked, seed, count, tick):
        x = drawn.sample(count, asked, seed, tick)
        return x if decoder is None else latents.decode(decoder, x)

    batches = -(-num // config.sample.batch_size)
    if unseen:
        batches += -(-len(unseen.split) // config.sample.batch_size)
    with stages.watched("Sampling and scoring", group.blocks * batches, poll, first) as tick:
        for block in range(group.blocks):
            seed = config.sample.seed + 1 + block
            asked = model.request("train", num, seed)
            label = attributes = None
            if asked is not None:
                label = asked.label if labelled and asked.label.min() >= 0 else None
                attributes = asked.attributes if named else None
            x = sample("train" if asked is None else asked, seed, num, tick)
            scores = score(x, label, attributes)
            if unseen:
                x = sample(unseen.request, seed, len(unseen.split), tick)
                if images:
                    scores |= images.attributes("unseen_", x, unseen.attributes)
            blocks.append(scores)
    infos = drawn.infos
    metrics = {name: _metric([block[name] for block in blocks], floor[name]) for name in blocks[0]}
    for name, metric in metrics.items():
        if images and name.startswith("coverage_"):
            metric["ceiling"] = images.coverage_ceiling(num)
    return {
        "dataset": data.name,
        "floor_split": group.split,
        "reference_split": "train",
        "shape": list(model.shape),
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
        **({"parallel": assembly.parallel_cost(model, infos, guidance)} if infos else {}),
    }


class _ScoredElsewhere:
    """In place of the scores, in a process that helps to sample and no more."""

    def __init__(self):
        self.features: dict = {}

    def __call__(self, x, labels, attributes=None):
        return {}


def _classifiers(model, guidance):
    """Parameters of all classifiers that taught or guide a model; None where one is none."""
    yield model.params.get("classifier")
    yield model.fitted.frozen_classifier
    if model.fitted.embedder is not None:
        yield model.fitted.embedder.params
    for one in guidance:
        if isinstance(one, ClassifierGuidance) and one.classifier is not None:
            yield one.classifier.classifier_params


class _Unseen(NamedTuple):
    """Real data of combinations of attributes that training never shows, and what asks for them."""

    split: Split
    request: Request
    attributes: np.ndarray


def _unseen(
    data: Dataset, conditioner: conditioning.Conditioner | None, num: int
) -> _Unseen | None:
    """None where there are none, or the model cannot be asked for them."""
    if data.unseen is None or conditioner is None:
        return None
    if conditioner.attributes is None or not conditioner.attributes.laid_out:
        return None
    split = data.unseen.read(evenly_spaced(len(data.unseen), num))
    attributes = np.asarray(split.attributes)
    return _Unseen(split, requests.of_attributes(conditioner, attributes), attributes)


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
