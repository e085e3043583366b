"""The judge: a classifier trained on real data only, which reads classes or attributes.

It learns from the training split, and from `Dataset.judges_only` where there are combinations of
attributes that models never see: without them it misread 60 % of real faces that show one.
It is a measuring instrument: its hash goes into every result, and a classifier with that hash may
not take part in training or guidance.
"""

import dataclasses
import functools
import hashlib
import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from gmm_diffusion import npz_files
from gmm_diffusion.data import batches
from gmm_diffusion.data.dataset import Dataset, Split, joined, to_float
from gmm_diffusion.errors import InputError
from gmm_diffusion.networks import classifier
from gmm_diffusion.types import Array, PyTree

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
    def network(self):
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
    """Trains on real data that no metric scores; ten seconds for the digits on two cores.

    AdamW with a cosine schedule, label smoothing 0.1, shifts and noise; the same seed gives the
    same parameters on the same machine.

    Args:
      dataset: with labels or attributes; its held-out split is only read for `heldout_accuracy`.
      seed: of the initialisation, the order and the augmentation.
      **options: the other arguments of `identity`.

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
    num_steps = -(-num_epochs * len(train) // batch_size)
    mean, scale = _standardisation(train.x)
    network = classifier.for_shape(dataset.shape, _num_outputs(settings))
    cost, target = classifier.cross_entropy, train.label
    if dataset.attribute_names:
        cost, target = classifier.binary_cross_entropy, train.attributes
    key = jax.random.key(seed)
    weights = jax.jit(network.init)(key, jnp.zeros((1, *dataset.shape)))["params"]
    schedule = optax.cosine_decay_schedule(rate, num_steps)
    optimizer = optax.adamw(schedule, weight_decay=0.02)

    def mean_loss(weights, x, target):
        logits, _ = network.apply({"params": weights}, x)
        return cost(logits, target, smoothing=0.1).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(weights, opt_state, i, x, target):
        x = _augment(jax.random.fold_in(key, i), x)
        grads = jax.grad(mean_loss)(weights, x, target)
        updates, opt_state = optimizer.update(grads, opt_state, weights)
        return optax.apply_updates(weights, updates), opt_state

    opt_state = optimizer.init(weights)
    for i in range(num_steps):
        index, _ = batches.indices(seed, i, batch_size, len(train))
        x = (to_float(train.x[index]) - mean) / scale
        weights, opt_state = step(weights, opt_state, np.int32(i), x, target[index])
    params = {"network": jax.device_get(weights), "mean": mean, "scale": scale}
    judge = Judge(params, settings, 0.0, parameter_hash(params))
    heldout = dataset.heldout
    true = heldout.attributes if judge.reads_attributes else heldout.label
    accuracy = float(np.mean(predict(judge, heldout.x) == true))
    return dataclasses.replace(judge, heldout_accuracy=accuracy)


def _standardisation(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    transform, sigma_data = batches.fit_transform_stats(x)
    return transform.mean, np.full_like(transform.mean, sigma_data)


@functools.partial(jax.jit, static_argnums=0)
def _forward(network, params: PyTree, x: Array) -> tuple[Array, Array]:
    channels = (1,) * (x.ndim - 1) + (-1,)
    x = (x - params["mean"].reshape(channels)) / params["scale"].reshape(channels)
    return network.apply({"params": params["network"]}, x)


def _run(judge: Judge, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shape = tuple(judge.settings["shape"])
    if x.shape[1:] != shape or len(x) == 0 or (len(shape) == 3 and x.dtype != np.uint8):
        raise InputError(
            f"the judge got shape {x.shape} and type {x.dtype}; valid are examples of shape "
            f"{shape}, images as uint8."
        )
    rows = min(_PREDICT_ROWS, 1 << (len(x) - 1).bit_length())
    logits, embedding = [], []
    for i in range(0, len(x), rows):
        chunk = to_float(x[i : i + rows])
        # Padded to one shape, so that a last short chunk does not compile anew.
        padding = ((0, rows - len(chunk)),) + ((0, 0),) * (chunk.ndim - 1)
        both = jax.device_get(_forward(judge.network, judge.params, np.pad(chunk, padding)))
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


def save(judge: Judge, path: str | os.PathLike) -> None:
    """Writes one plain `.npz`; a reader sees the old file or the new one, never half of one."""
    flat = traverse_util.flatten_dict(judge.params, sep="/")
    header = json.dumps(
        {
            "settings": judge.settings,
            "heldout_accuracy": judge.heldout_accuracy,
            "hash": judge.hash,
        }
    )
    temporary = f"{os.fspath(path)}.{os.getpid()}.tmp"
    with open(temporary, "wb") as f:
        np.savez(f, header=np.array(header), **{f"params/{k}": v for k, v in flat.items()})
    os.replace(temporary, path)


def load(path: str | os.PathLike) -> Judge:
    """Reads what `save` wrote and checks the parameters against the stored hash.

    Raises:
      InputError: no such file, not a judge, or a parameter that changed since it was saved.
    """
    path = os.fspath(path)
    try:
        arrays = npz_files.read(path)
        header = json.loads(arrays.pop("header").item())
        params = npz_files.tree({k.removeprefix("params/"): v for k, v in arrays.items()})
        judge = Judge(params, header["settings"], header["heldout_accuracy"], header["hash"])
    except FileNotFoundError as e:
        raise InputError(f"judge file {path} does not exist; valid is a file by judge.save.") from e
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise InputError(
            f"judge file {path} cannot be read ({e}); valid is an intact file by judge.save."
        ) from e
    if parameter_hash(params) != judge.hash:
        raise InputError(
            f"judge file {path} is corrupt: its parameters do not match their hash; "
            "delete it and train the judge again."
        )
    return judge
