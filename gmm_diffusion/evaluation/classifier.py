"""Scores of a classifier: held-out data beside the training split, scored the same way."""

import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion import assembly
from gmm_diffusion.data import Dataset, Split, batches, to_float
from gmm_diffusion.data.dataset import evenly_spaced
from gmm_diffusion.devices import map_examples
from gmm_diffusion.model.fitted import FittedStatistics
from gmm_diffusion.types import PyTree


def make_reader(config: ConfigDict, fitted: FittedStatistics) -> Callable:
    """What a classifier makes of splits.

    Returns:
      `(split, num) -> read`, of at most `num` examples of the split, evenly spaced, whose weights
      are made once; and `read(params, poll=None) -> (cost [N], read [N], true [N])`: the loss, the
      class read, and the class. A class is read as the one whose components have the largest share
      (`Objective.components`). Without classes each component is one, and an example's is the
      component of its largest weight. Of attributes `read` and `true` are `[N, A]`.
    """
    classify, objective = (
        assembly.classify(config, fitted),
        assembly.objective(config, fitted),
    )
    of_attributes = assembly.kind(config).of_attributes
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

    def reader(split: Split, num: int) -> Callable:
        split = split.take(evenly_spaced(len(split), num))
        weights = assembly.split_weights(config, fitted, split)[0]
        true = split.label if labelled else weights.argmax(axis=1)

        def read(params: PyTree, poll: Callable | None = None):
            x = batches.apply(jax.device_get(fitted.transform), to_float(split.x))
            scored = mapped(params, x, weights, poll=poll)
            if of_attributes:
                absent, present = scored[:, 1::2], scored[:, 2::2]
                return scored[:, 0], (present > absent).astype(np.uint8), split.attributes
            return scored[:, 0], scored[:, 1:].argmax(axis=1), true

        return read

    return reader


def confusion(read: np.ndarray, true: np.ndarray) -> np.ndarray:
    """How often each class (a row) is read as each: `[N], [N] -> [C, C]`, rows of sum 1 or 0.

    Of attributes `[N, A] -> [A, 2]`: how often each is read as there, where it is absent and where
    it is there.
    """
    if read.ndim == 2:
        cases = [np.sum(read * (true == value), axis=0) for value in (0, 1)]
        counts = [np.maximum(np.sum(true == value, axis=0), 1) for value in (0, 1)]
        return np.stack(cases, axis=1) / np.stack(counts, axis=1)
    counts = np.zeros((max(read.max(), true.max()) + 1,) * 2)
    np.add.at(counts, (true, read), 1)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def evaluate(
    config: ConfigDict,
    data: Dataset,
    fitted: FittedStatistics,
    params: PyTree,
    path: pathlib.Path,
    poll: Callable | None = None,
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
        cost, seen, true = reader(split, config.evaluation.max_samples)(params, poll)
        scores.append((float(cost.mean()), float(np.mean(seen == true))))
    metrics = {
        f"{name}_{num}": {"value": value, "blocks": [value], "floor": train}
        for name, value, train in zip(("loss", "accuracy"), *scores, strict=True)
    }
    features = None
    if data.is_image:
        features = "embedding.jaxexport"
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
        return classify(params, batches.apply(transform, x))[1]

    (size,) = jax.export.symbolic_shape("b")
    spec = jax.ShapeDtypeStruct((size, *shape), jnp.float32)
    return jax.export.export(embed, platforms=("cpu", "cuda", "tpu"))(spec).serialize()


def table(result: dict) -> str:
    """The metrics as lines of text."""
    lines = [f"{'metric':<22} {result['split']:>10} {'training':>9}"]
    for name, metric in result["metrics"].items():
        lines.append(f"{name:<22} {metric['value']:>10.4f} {metric['floor']:>9.4f}")
    return "\n".join(lines)
