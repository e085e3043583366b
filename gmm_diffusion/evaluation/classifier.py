"""Scores of a classifier: held-out data beside the training split, scored the same way."""

import importlib.util
import logging
import pathlib
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion import assembly, extras, processes
from gmm_diffusion.data import Dataset, Split, batches
from gmm_diffusion.data.dataset import evenly_spaced
from gmm_diffusion.devices import map_examples
from gmm_diffusion.model.classifier import AttributeObjective
from gmm_diffusion.model.fitted import FittedStatistics
from gmm_diffusion.runs import workdir
from gmm_diffusion.types import Poll, PyTree

log = logging.getLogger(__name__)


class Readings(NamedTuple):
    """What a classifier makes of N examples.

    A class is read as the one whose components have the largest share (`Objective.components`).
    Without classes each component is one, and an example's is the component of its largest weight.

    Attributes:
      cost: `[N]`, the loss.
      read: `[N]` classes, or of attributes `[N, A]` of 0 and 1.
      true: of the same shape.
    """

    cost: np.ndarray
    read: np.ndarray
    true: np.ndarray


class Read(Protocol):
    """A classifier on examples that were chosen before."""

    def __call__(self, params: PyTree, poll: Poll | None = None) -> Readings:
        """`params` a dict of parts; `poll` is called before each batch."""


class Reader(Protocol):
    """A classifier on any split."""

    def __call__(self, split: Split, num: int) -> Read:
        """Of at most `num` examples, evenly spaced, whose weights are made once."""


def make_reader(config: ConfigDict, fitted: FittedStatistics) -> Reader:
    """What the classifier of a run makes of splits, given its parameters."""
    classify, objective = assembly.classify(config, fitted), assembly.objective(config, fitted)
    of_attributes = isinstance(objective, AttributeObjective)
    assert fitted.conditioner is not None, "a classifier learns the components of a mixture"
    owner = np.asarray(fitted.conditioner.component_class)
    labelled = owner.min() >= 0
    if not labelled:
        owner = np.arange(len(owner))
    own = jnp.asarray(np.eye(owner.max() + 1, dtype=np.float32)[owner])

    def one_batch(params, x, weights):
        out, _ = classify(params["classifier"], x)
        shares = objective.components(out) @ own
        return jnp.concatenate([objective(out, weights)[:, None], shares], axis=1)

    mapped = map_examples(one_batch, config.sample.batch_size)

    def reader(split: Split, num: int) -> Read:
        split = split.read(evenly_spaced(len(split), num))
        by_view = assembly.split_weights(config, fitted, split)
        assert by_view is not None, "a classifier learns the weights of examples"
        weights = by_view[0]
        true = np.asarray(split.label) if labelled else weights.argmax(axis=1)

        def read(params: PyTree, poll: Poll | None = None) -> Readings:
            x = batches.Views(split.x, jax.device_get(fitted.transform), flip=False)
            scored = mapped(params, x, weights, poll=poll)
            if of_attributes:
                present = (scored[:, 2::2] > scored[:, 1::2]).astype(np.uint8)
                return Readings(scored[:, 0], present, np.asarray(split.attributes))
            return Readings(scored[:, 0], scored[:, 1:].argmax(axis=1), true)

        return read

    return reader


def confusion(read: np.ndarray, true: np.ndarray) -> np.ndarray:
    """How often each class (a row) is read as each: `[N], [N] -> [C, C]`, rows of sum 1 or 0.

    Of attributes `[N, A] -> [A, 2]`: how often each is read as there, where it is absent and where
    it is there.
    """
    if read.ndim == 2:
        cases = [np.sum(read * (true == value), axis=0) for value in (0, 1)]
        of = [np.maximum(np.sum(true == value, axis=0), 1) for value in (0, 1)]
        return np.stack(cases, axis=1) / np.stack(of, axis=1)
    counts = np.zeros((max(read.max(), true.max()) + 1,) * 2)
    np.add.at(counts, (true, read), 1)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def evaluate(
    config: ConfigDict,
    data: Dataset,
    fitted: FittedStatistics,
    params: PyTree,
    path: pathlib.Path,
    poll: Poll | None = None,
) -> dict:
    """Loss and accuracy on `evaluation.split` and on the training split.

    At most `evaluation.max_samples` examples of each, evenly spaced. Images of one size also get
    `embedding.jaxexport` in `path`, the last hidden layer as a feature space for metrics:
    `--config.evaluation.features=file:...`.

    Returns:
      {"metrics": {name: {"value", "blocks", "floor": training split}}, ...}.
    """
    reader = make_reader(config, fitted)
    own = getattr(data, config.evaluation.split)
    num = min(len(own), config.evaluation.max_samples)
    scores = []
    for split in (own, data.train):
        seen = reader(split, config.evaluation.max_samples)(params, poll)
        scores.append((float(seen.cost.mean()), float(np.mean(seen.read == seen.true))))
    metrics = {
        f"{name}_{num}": {"value": value, "blocks": [value], "floor": train}
        for name, value, train in zip(("loss", "accuracy"), *scores, strict=True)
    }
    features = None
    if data.is_image and importlib.util.find_spec("flatbuffers") is None:
        log.warning(
            "The classifier's embedding is not written, which needs flatbuffers; install it with "
            "%s and evaluate again.",
            extras.advice("features"),
        )
    elif data.is_image:
        features = workdir.EMBEDDING
        if processes.is_first():
            (path / features).write_bytes(export_embedding(config, fitted, params, data.shape))
    return {
        "task": "classifier",
        "dataset": data.name,
        "split": config.evaluation.split,
        "floor_split": "train",
        "shape": list(data.shape),
        "samples_per_block": num,
        "ema": config.sample.ema,
        "features": {"embedding": features},
        "judges": [],
        "metrics": metrics,
        "verdicts": [],
    }


def export_embedding(
    config: ConfigDict, fitted: FittedStatistics, params: PyTree, shape: tuple[int, ...]
) -> bytes:
    """The classifier's last hidden layer as `metrics.features` reads it from a file.

    `[B, H, W, C]` float32 in [-1, 1] to `[B, F]`, for CPU, GPU and TPU.
    """
    classify = assembly.classify(config, fitted)
    transform, params = jax.device_get((fitted.transform, params["classifier"]))

    @jax.jit
    def embed(x):
        return classify(params, jnp.asarray(batches.apply(transform, x)))[1]

    (size,) = jax.export.symbolic_shape("b")
    spec = jax.ShapeDtypeStruct((size, *shape), jnp.float32)
    return bytes(jax.export.export(embed, platforms=("cpu", "cuda", "tpu"))(spec).serialize())


def table(result: dict) -> str:
    """The metrics as lines of text."""
    lines = [f"{'metric':<22} {result['split']:>10} {'training':>9}"]
    for name, metric in result["metrics"].items():
        lines.append(f"{name:<22} {metric['value']:>10.4f} {metric['floor']:>9.4f}")
    return "\n".join(lines)
