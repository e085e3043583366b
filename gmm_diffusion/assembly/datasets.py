"""The data of a config, and whether they fit what is to be done with them."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion import paths
from gmm_diffusion.assembly import exact
from gmm_diffusion.assembly.kind import kind
from gmm_diffusion.data import DATASETS, Dataset, latents
from gmm_diffusion.data.dataset import (
    EXAMPLES_A_COMBINATION,
    combination_classes,
    with_validation,
)
from gmm_diffusion.errors import InputError


def dataset(config: ConfigDict, given: Dataset | None = None) -> Dataset:
    """The data; InputError if they cannot be had or do not fit the conditioning.

    Args:
      config: its group `data`.
      given: the data themselves, of `data.name` arrays.
    """
    data = config.data
    place = "" if given is not None else _place(data)
    options: dict[str, Callable[[], dict[str, Any]]] = {
        "digits": lambda: {
            "heldout_fraction": data.heldout_fraction,
            "split_seed": data.split_seed,
        },
        "toy": lambda: {
            "name": data.toy_name,
            "num_train": data.num_train,
            "num_heldout": data.num_heldout,
            "seed": data.split_seed,
            "validation": data.validation_fraction > 0,
        },
        "faces": lambda: {
            "resolution": data.resolution or 32,
            "num_train": data.num_train,
            "num_heldout": data.num_heldout,
            "seed": data.split_seed,
            "validation": data.validation_fraction > 0,
            "attributes": tuple(data.attributes),
            "correlation": float(data.correlation),
            "held_out": tuple(data.held_out),
        },
        "tfds_images": lambda: {
            "tfds_name": data.tfds_name,
            "data_dir": place or None,
            "train_split": data.train_split,
            "heldout_split": data.heldout_split or None,
            "heldout_fraction": data.heldout_fraction,
            "split_seed": data.split_seed,
            "resolution": data.resolution or None,
            "crop": data.crop,
            "max_examples": data.max_examples or None,
            "attributes": tuple(data.attributes),
            "in_memory": data.in_memory,
        },
        "image_folder": lambda: {
            "data_dir": place,
            "attributes": tuple(data.attributes),
            "heldout_fraction": data.heldout_fraction,
            "split_seed": data.split_seed,
            "resolution": data.resolution or None,
            "crop": data.crop,
            "max_examples": data.max_examples or None,
            "in_memory": data.in_memory,
            "heldout_dir": _heldout_place(data.heldout_dir),
            "validation": data.validation_fraction > 0,
            "cache": data.cache,
        },
        "cifar_archive": lambda: {
            "data_dir": place,
            "resolution": data.resolution or None,
            "crop": data.crop,
            "max_examples": data.max_examples or None,
        },
        "arrays": lambda: {
            "data_dir": place,
            "attributes": tuple(data.attributes),
            "heldout_fraction": data.heldout_fraction,
            "split_seed": data.split_seed,
            "max_examples": data.max_examples or None,
        },
    }
    if given is not None:
        loaded = _given(config, given)
    else:
        loaded = DATASETS[data.name](**options[data.name]())
    if data.decoder:
        loaded = dataclasses.replace(loaded, decoder=latents.load_decoder(data.decoder))
    # Those that are drawn draw it, and a folder may have one of its own.
    if data.validation_fraction and loaded.validation is None:
        loaded = with_validation(loaded, data.validation_fraction, data.split_seed)
    if loaded.attribute_names and not loaded.num_classes:
        loaded = combination_classes(loaded)
    _check_fit(config, loaded)
    return loaded


def _given(config, data):
    if config.data.name != "arrays":
        raise InputError(
            f"data.name is {config.data.name!r}; data that are given in Python are 'arrays'."
        )
    return data


def _place(data) -> str:
    """`data.data_dir` with the home for `~`, where it can hold the data."""
    moved = "if the data have moved, --config.data.data_dir=PATH says where to, also of a run"
    if data.name == "image_folder":
        wanted = f"the folder of the images; {moved}"
        return str(paths.folder(data.data_dir, "data.data_dir", exists=wanted))
    if data.name == "arrays":
        if not data.data_dir:
            raise InputError(
                "data.data_dir is empty, and arrays that were given in Python stand in no file; "
                "name an .npz or a folder of .npy, or give them again."
            )
        is_folder = os.path.isdir(paths.expand(data.data_dir, "data.data_dir"))
        check = paths.folder if is_folder else paths.file
        wanted = f"an .npz or a folder of .npy; {moved}"
        return str(check(data.data_dir, "data.data_dir", exists=wanted))
    if data.name == "cifar_archive":
        wanted = f"the archive, such as cifar-10-binary.tar.gz; {moved}"
        return str(paths.file(data.data_dir, "data.data_dir", exists=wanted))
    if data.name != "tfds_images":
        return data.data_dir
    # TFDS itself would make a folder named ~ where there is no home.
    usual = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    name = "data.data_dir" if data.data_dir else "The default of data.data_dir"
    path = paths.folder(data.data_dir or usual, name)
    return str(path) if data.data_dir else ""


def _heldout_place(text: str) -> str | None:
    if not text:
        return None
    wanted = (
        "a folder of held-out images; if they have moved, --config.data.heldout_dir=PATH says "
        "where to, also of a run"
    )
    return str(paths.folder(text, "data.heldout_dir", exists=wanted))


def _check_fit(config: ConfigDict, data: Dataset) -> None:
    conditioning = config.conditioning
    own = kind(config)
    wanted = "unet" if len(data.shape) == 3 else "mlp"
    if config.network.name != wanted:
        raise InputError(
            f"network.name is {config.network.name!r}; data of shape {data.shape} need {wanted}."
        )
    if data.is_latent and config.data.flip:
        raise InputError("data.flip is True; only images can be mirrored, and these are latents.")
    if data.decoder is not None:
        if not data.is_latent:
            raise InputError(
                f"data.decoder is for float latents [N, H, W, C]; {data.name} has other data."
            )
        latents.decoded(latents.one_example(data))
    wants_own = own is not None and own.fitted and conditioning.features == "own"
    splits = (data.train, data.heldout, data.watched)
    if wants_own and any(split.features is None for split in splits):
        raise InputError(
            f"conditioning.features is 'own', and {data.name} has no array features; it must hold "
            "one, [N, F]."
        )
    if own is not None and "attributes" in own.needs and not data.attribute_names:
        raise InputError(
            f"conditioning.kind {conditioning.kind!r} needs attributes, and {data.name} has none; "
            "use gmm, class or none."
        )
    needs_labels = own is not None and own.needs_labels(conditioning.per_class)
    if needs_labels and not data.num_classes:
        need = f"conditioning.kind {conditioning.kind!r} with per_class {conditioning.per_class}"
        if data.attribute_names:
            shown = len(np.unique(np.asarray(data.train.attributes), axis=0))
            raise InputError(
                f"{need} needs classes, and the {len(data.train)} training examples of {data.name} "
                f"show {shown} combinations of attributes, which are classes only where there are "
                f"{EXAMPLES_A_COMBINATION} examples of each on average; use more examples, fewer "
                "data.attributes, or kind attributes."
            )
        raise InputError(
            f"{need} needs labels, and {data.name} has none; use kind gmm with per_class False, or "
            "none."
        )
    # Also where one mixture is of all: a class is asked for by the mean of its examples' weights.
    if needs_labels or (own is not None and data.num_classes and not data.attribute_names):
        labels = np.unique(np.asarray(data.train.label))
        missing = set(range(data.num_classes)) - set(labels.tolist())
        if missing:
            raise InputError(
                f"Class {min(missing)} of {data.name} has no training example; "
                "every class needs at least one."
            )
    shared_out = own is not None and own.fitted and needs_labels
    if shared_out and conditioning.num_components % data.num_classes:
        raise InputError(
            f"conditioning.num_components is {conditioning.num_components}; with per_class it "
            f"must be a multiple of the {data.num_classes} classes."
        )
    exact.check(config, data)
    if len(data.shape) == 3:
        factor = 2 ** (len(config.network.channel_mult) - 1)
        height, width, _ = data.shape
        if height % factor or width % factor:
            raise InputError(
                f"network.channel_mult has {len(config.network.channel_mult)} entries; images of "
                f"{height}x{width} can be halved that often only if divisible by {factor}."
            )
