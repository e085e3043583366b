"""Judges: classifiers trained on real data only, which read classes or attributes.

Several that differ in their seed alone tell how far a metric depends on who judges. A judge learns
from the training split, and from `Dataset.judges_only` where there are combinations of
attributes that models never see: without them it misread 60 % of real faces that show one.
It is a measuring instrument: its hash goes into every result, and a classifier with that hash may
not take part in training or guidance.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from gmm_diffusion import devices, npz_files, paths
from gmm_diffusion.data import batches
from gmm_diffusion.data.dataset import Dataset, Split, joined, to_float
from gmm_diffusion.errors import InputError
from gmm_diffusion.networks import classifier
from gmm_diffusion.types import Array, Poll, PyTree

_PREDICT_ROWS = 512
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Judge:
    """A trained classifier and how it came about.

    Attributes:
      params: `{"network": linen parameters, "mean": [C], "scale": [C]}`, numpy float32; data are
        standardised per last axis inside the judge.
      settings: what `identity` returned for it.
      heldout_accuracy: share of held-out real examples it classifies correctly, in [0, 1]; of
        attributes, the share of all (example, attribute) pairs.
      hash: sha256 of the parameters, hexadecimal.
    """

    params: PyTree
    settings: dict[str, Any]
    heldout_accuracy: float
    hash: str

    @property
    def network(self) -> nn.Module:
        return classifier.for_shape(tuple(self.settings["shape"]), _num_outputs(self.settings))

    @property
    def reads_attributes(self) -> bool:
        """Whether it reads attributes rather than classes."""
        return "attributes" in self.settings


def _num_outputs(settings):
    return len(settings.get("attributes", ())) or settings["num_classes"]


def can_judge(dataset: Dataset) -> bool:
    """Whether there is something to read: attributes, or labels of two classes on both splits."""
    labelled = dataset.train.label is not None and dataset.heldout.label is not None
    return bool(dataset.attribute_names) or (dataset.num_classes > 1 and labelled)


def identity(
    dataset: Dataset,
    seed: int = 0,
    num_epochs: int = 20,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
) -> dict[str, Any]:
    """The settings that determine a judge; compare with `Judge.settings` before reusing one."""
    # Where there are attributes, classes are their combinations, and the judge reads attributes.
    named = {"attributes": list(dataset.attribute_names)} if dataset.attribute_names else {}
    return {
        "format": _FORMAT,
        "dataset": dataset.name,
        "shape": list(dataset.shape),
        "num_classes": dataset.num_classes,
        **named,
        "num_train": len(_real_data(dataset)),
        "seed": seed,
        "num_epochs": num_epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
    }


def parameter_hash(params: PyTree) -> str:
    """sha256 over names, types, shapes and bytes of a nested dict of arrays."""
    digest = hashlib.sha256()
    for name, value in sorted(traverse_util.flatten_dict(params, sep="/").items()):
        value = np.asarray(value)
        digest.update(f"{name} {value.dtype.str} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _real_data(dataset: Dataset) -> Split:
    """What judges learn from."""
    if dataset.judges_only is None:
        return dataset.train
    return joined(dataset.train, dataset.judges_only)


def _augment(key: Array, x: Array) -> Array:
    """Noise for vectors; noise and shifts of up to an eighth of the side for images."""
    noise_key, shift_key = jax.random.split(key)
    x = x + 0.1 * jax.random.normal(noise_key, x.shape)
    if x.ndim == 2:
        return x
    reach = max(1, x.shape[1] // 8), max(1, x.shape[2] // 8)
    padded = jnp.pad(x, ((0, 0), (reach[0],) * 2, (reach[1],) * 2, (0, 0)), mode="edge")
    start = jax.random.randint(
        shift_key, (len(x), 2), 0, jnp.array([2 * reach[0] + 1, 2 * reach[1] + 1])[None]
    )

    def crop(image, corner):
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), x.shape[1:])

    return jax.vmap(crop)(padded, start)


def fit_judge(dataset: Dataset, seed: int = 0, **options) -> Judge:
    """`fit_judges` of one."""
    (judge,) = fit_judges(dataset, 1, seed, **options)
    return judge


def num_updates(dataset: Dataset, count: int = 1, **options) -> int:
    """Updates of so many judges, one for those trained together; options as of `identity`."""
    settings = identity(dataset, **options)
    each = -(-settings["num_epochs"] * len(_real_data(dataset)) // settings["batch_size"])
    return each * -(-count // _together(count))


def _together(count):
    return min(count, len(jax.local_devices()))


def fit_judges(dataset: Dataset, count: int, seed: int = 0, **options) -> tuple[Judge, ...]:
    """`each_judge` of them all."""
    return tuple(each_judge(dataset, count, seed, **options))


def each_judge(
    dataset: Dataset, count: int, seed: int = 0, poll: Poll | None = None, **options
) -> Iterator[Judge]:
    """Trains on real data that no metric scores; nine seconds each for the digits on two cores.

    AdamW with a cosine schedule, label smoothing 0.1, shifts and noise; the same seed gives the
    same parameters on the same machine. As many are trained at a time as this process has devices,
    each on one of its own: mapped over a stack of their parameters, convolutions become grouped
    ones, and five judges of the digits take three times as long on a CPU.

    Args:
      dataset: with labels or attributes; its held-out split is only read for `heldout_accuracy`.
      count: how many.
      seed: of the first one's initialisation, order and augmentation; judge i has `seed + i`.
      poll: called before each update of those that are trained at the same time.
      **options: the other arguments of `identity`.

    Yields:
      One after the other, when those that are trained at the same time are.

    Raises:
      InputError: neither attributes nor labels of two classes, or an option below 1 (0 for the
        rate).
    """
    if not can_judge(dataset):
        raise InputError(
            f"dataset {dataset.name} has {dataset.num_classes} classes; a judge needs labels of at "
            "least 2 on both splits."
        )
    settings = identity(dataset, seed, **options)
    num_epochs, batch_size, rate = (
        settings[name] for name in ("num_epochs", "batch_size", "learning_rate")
    )
    if min(num_epochs, batch_size) < 1 or not rate > 0:
        raise InputError(
            f"the judge has num_epochs {num_epochs}, batch_size {batch_size}, learning_rate {rate};"
            " valid are sizes from 1 and a rate above 0."
        )
    train = _real_data(dataset)
    num_steps = num_updates(dataset, **options)
    mean, scale = _standardisation(train.sample().x)
    network = classifier.for_shape(dataset.shape, _num_outputs(settings))
    cost: Callable[..., Array] = classifier.cross_entropy
    target = train.label
    if dataset.attribute_names:
        cost, target = classifier.binary_cross_entropy, train.attributes
    assert target is not None, "what a judge reads is there"
    initial = jax.jit(network.init)
    schedule = optax.cosine_decay_schedule(rate, num_steps)
    optimizer = optax.adamw(schedule, weight_decay=0.02)

    def mean_loss(weights, x, target):
        logits, _ = network.apply({"params": weights}, x)
        return cost(logits, target, smoothing=0.1).mean()

    together = _together(count)

    def update(weights, opt_state, key, i, x, target):
        x = _augment(jax.random.fold_in(key, i), x)
        grads = jax.grad(mean_loss)(weights, x, target)
        updates, opt_state = optimizer.update(grads, opt_state, weights)
        return optax.apply_updates(weights, updates), opt_state

    @functools.cache
    def steps(num):
        axes = (0, 0, 0, None, 0, 0)
        return devices.side_by_side(update, num, in_axes=axes, donate_argnums=(0, 1))

    def fit(seeds):
        step = steps(len(seeds))
        keys = jnp.stack([jax.random.key(seed) for seed in seeds])
        start = [initial(key, jnp.zeros((1, *dataset.shape)))["params"] for key in keys]
        weights = jax.tree.map(lambda *leaves: np.stack(leaves), *start)
        opt_state = jax.vmap(optimizer.init)(weights)
        for i in range(num_steps):
            if poll is not None:
                poll()
            index = [batches.indices(seed, i, batch_size, len(train))[0] for seed in seeds]
            x = np.stack([(to_float(train.x[rows]) - mean) / scale for rows in index])
            labels = np.stack([target[rows] for rows in index])
            weights, opt_state = step(weights, opt_state, keys, np.int32(i), x, labels)
        weights = jax.device_get(weights)
        for i, seed in enumerate(seeds):
            yield finished(jax.tree.map(lambda leaf, i=i: leaf[i], weights), seed)

    def finished(weights, seed):
        params = {"network": weights, "mean": mean, "scale": scale}
        judge = Judge(params, settings | {"seed": seed}, 0.0, parameter_hash(params))
        heldout = dataset.heldout
        true = heldout.attributes if judge.reads_attributes else heldout.label
        accuracy = float(np.mean(predict(judge, heldout.x) == true))
        return dataclasses.replace(judge, heldout_accuracy=accuracy)

    for first in range(0, count, together):
        yield from fit(range(seed + first, seed + min(first + together, count)))


def _standardisation(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    transform, sigma_data = batches.fit_transform_stats(x)
    mean = np.asarray(transform.mean)
    return mean, np.full_like(mean, sigma_data)


@functools.cache
def _forward(network: nn.Module, count: int) -> Callable[[PyTree, np.ndarray], PyTree]:
    def forward(params, x):
        channels = (1,) * (x.ndim - 1) + (-1,)
        x = (x - params["mean"].reshape(channels)) / params["scale"].reshape(channels)
        return network.apply({"params": params["network"]}, x)

    return devices.side_by_side(forward, count, (None, 0))


def _run(judge: Judge, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shape = tuple(judge.settings["shape"])
    if x.shape[1:] != shape or len(x) == 0 or (len(shape) == 3 and x.dtype != np.uint8):
        raise InputError(
            f"the judge got shape {x.shape} and type {x.dtype}; valid are examples of shape "
            f"{shape}, images as uint8."
        )
    parts = len(jax.local_devices())
    forward = _forward(judge.network, parts)
    rows = parts * min(_PREDICT_ROWS, 1 << (-(-len(x) // parts) - 1).bit_length())
    logits, embedding = [], []
    for i in range(0, len(x), rows):
        chunk = to_float(x[i : i + rows])
        # Padded to one shape, so that a last short chunk does not compile anew.
        padding = ((0, rows - len(chunk)),) + ((0, 0),) * (chunk.ndim - 1)
        spread = np.pad(chunk, padding).reshape(parts, -1, *shape)
        both = [np.concatenate(out) for out in jax.device_get(forward(judge.params, spread))]
        logits.append(both[0][: len(chunk)])
        embedding.append(both[1][: len(chunk)])
    return np.concatenate(logits), np.concatenate(embedding)


def predict(judge: Judge, x: np.ndarray) -> np.ndarray:
    """What the judge reads off each example.

    Args:
      judge: of classes or attributes.
      x: `[N, H, W, C]` uint8 or `[N, D]` float.

    Returns:
      The most likely class, `[N]` int32, or the attributes that are more likely there than not,
      `[N, A]` uint8.

    Raises:
      InputError: examples of another shape than the judge was trained on, or float images.
    """
    logits = _run(judge, x)[0]
    if judge.reads_attributes:
        return (logits > 0).astype(np.uint8)
    return logits.argmax(axis=-1).astype(np.int32)


def embed(judge: Judge, x: np.ndarray) -> np.ndarray:
    """The judge's last hidden layer: `[N, H, W, C]` uint8 or `[N, D]` float -> `[N, F]` float32.

    Raises:
      InputError: as `predict`.
    """
    return _run(judge, x)[1]


def save(judges: Sequence[Judge], path: str | os.PathLike) -> None:
    """Writes one plain `.npz`; a reader sees the old file or the new one, never half of one."""
    header = [
        {"settings": j.settings, "heldout_accuracy": j.heldout_accuracy, "hash": j.hash}
        for j in judges
    ]
    arrays = traverse_util.flatten_dict(
        {f"params{i}": judge.params for i, judge in enumerate(judges)}, sep="/"
    )
    with paths.whole(paths.of(path), f".{os.getpid()}.tmp") as temporary, temporary.open("wb") as f:
        np.savez(f, header=np.array(json.dumps(header)), **arrays)


def load(path: str | os.PathLike) -> tuple[Judge, ...]:
    """Reads what `save` wrote, or the single judge of an earlier version, and checks the hashes.

    Raises:
      InputError: no such file, no judges, or a parameter that changed since it was saved.
    """
    path = os.fspath(path)
    try:
        arrays = npz_files.read(path)
        header = json.loads(arrays.pop("header").item())
        params = npz_files.tree(arrays)
        if isinstance(header, dict):
            header, params = [header], {"params0": params["params"]}
        judges = tuple(
            Judge(params[f"params{i}"], h["settings"], h["heldout_accuracy"], h["hash"])
            for i, h in enumerate(header)
        )
    except FileNotFoundError as e:
        raise InputError(f"judge file {path} does not exist; valid is a file by judge.save.") from e
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise InputError(
            f"judge file {path} cannot be read ({e}); valid is an intact file by judge.save."
        ) from e
    if any(parameter_hash(judge.params) != judge.hash for judge in judges):
        raise InputError(
            f"judge file {path} is corrupt: its parameters do not match their hash; "
            "delete it and train the judges again."
        )
    return judges
