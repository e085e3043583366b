"""Whether a run that goes on, or is evaluated, sees the data that it began with, wherever they are.

A folder may move between two commands, and its content may change while its name stays. So each run
keeps `data.json`: counts, shape, names, checksums of labels, attributes and features, and mean and
deviation of evenly spaced examples. These two, and not bytes, tell images apart: another version of
a library decodes and resizes with other rounding. The checksum of all bytes is kept for a warning;
that of streamed data is of those examples alone.
"""

import json
import logging
import os
import zlib

import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion import paths
from gmm_diffusion.data import Dataset, Split
from gmm_diffusion.errors import InputError
from gmm_diffusion.runs.workdir import DATA, write_json

log = logging.getLogger(__name__)

_SPLITS = ("train", "validation", "heldout", "unseen", "judges_only")
_EXAMPLES = 256  # of each split
# How far a mean or deviation may be off: in grey levels, or for vectors in deviations of all.
_ROUNDING = {"uint8": 0.5, "float32": 1e-3}


def fingerprint(data: Dataset) -> dict:
    """What `data.json` holds of data, as plain values."""
    splits = {name: getattr(data, name) for name in _SPLITS}
    return {
        "shape": list(data.shape),
        "kind": str(data.train.x.dtype),
        "classes": list(data.class_names),
        "attributes": list(data.attribute_names),
        "splits": {name: _of(split) for name, split in splits.items() if split is not None},
    }


def _of(split: Split) -> dict:
    rows = np.unique(np.linspace(0, len(split) - 1, min(len(split), _EXAMPLES)).astype(int))
    some = split.x[rows]
    # One at a time: as float64 a few hundred large images are memory that a run may not have.
    means, deviations = np.transpose([_moments(example) for example in some])
    return {
        "examples": len(split),
        "labels": _checksum(split.label),
        "attributes": _checksum(split.attributes),
        "features": _checksum(split.features),
        "means": means.round(5).tolist(),
        "deviations": deviations.round(5).tolist(),
        "deviation": float(np.sqrt(np.mean(deviations**2) + np.var(means))),
        "bytes": None if split.streamed else _checksum(split.x),
        "sample": _checksum(some),
    }


def _moments(example):
    x = np.asarray(example, np.float64)
    return x.mean(), x.std()


def _checksum(array):
    if array is None:
        return None
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def checksums(data: Dataset) -> dict:
    """What tells two copies of data apart, to the last bit, by names for a message."""
    found = fingerprint(data)
    named = {"their shape": found["shape"], "their type": found["kind"]}
    for name, split in found["splits"].items():
        named[f"the number of examples of the split {name}"] = split["examples"]
        named[f"whether the split {name} is streamed (data.in_memory)"] = split["bytes"] is None
        for field in ("labels", "attributes", "features", "bytes", "sample"):
            named[f"the checksum of the {field} of the split {name}"] = split[field]
    return named


def check(config: ConfigDict, data: Dataset, workdir: str | os.PathLike) -> None:
    """Compares data with those that the run in `workdir` began with, if that is known.

    Raises:
      InputError: they are others.
    """
    path = paths.of(workdir)
    stored = _read(path)
    if stored is None:
        return
    found = fingerprint(data)
    difference = _difference(stored, found)
    if difference:
        where = f"data.data_dir {config.data.data_dir}" if config.data.data_dir else "the data"
        raise InputError(
            f"--workdir {path} began with other data, and now {difference}; {where} must be what "
            "it was at the start, wherever it is now (--config.data.data_dir=PATH)."
        )
    for name, split in found["splits"].items():
        if _changed(stored["splits"][name], split):
            log.warning(
                "The split %s is not byte for byte what %s began with: single examples changed, or "
                "a library of another version reads them with other rounding.",
                name,
                path,
            )


def _changed(old, new):
    """Whether what both know of the bytes of a split differs."""
    return any(
        old.get(field) is not None and new[field] is not None and old[field] != new[field]
        for field in ("bytes", "sample")
    )


def keep(config: ConfigDict, data: Dataset, workdir: str | os.PathLike) -> None:
    """`check`, and for a new run, or one of an earlier version, stores what the data are.

    Raises:
      InputError: as `check`, or `workdir` cannot be written.
    """
    path = paths.of(workdir)
    if _read(path) is not None:
        check(config, data, path)
        return
    try:
        write_json(path / DATA, fingerprint(data))
    except OSError as error:
        raise InputError(f"--workdir {path} cannot be written: {error.strerror}.") from error


def _read(path):
    """What is stored; None where there is nothing, or a file that is damaged."""
    try:
        stored = json.loads((path / DATA).read_text())
        _difference(stored, stored)  # Has every field.
        return stored
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        log.warning("%s is damaged (%s); the data are not compared.", path / DATA, error)
        return None


def _difference(old, new):
    """What differs, in words, or nothing."""
    for field, what in (("shape", "examples have the shape"), ("kind", "examples have the type")):
        if old[field] != new[field]:
            return f"{what} {_text(new[field])} where it was {_text(old[field])}"
    for field in ("classes", "attributes"):
        if old[field] != new[field]:
            return f"the {field} are {_text(new[field])} where they were {_text(old[field])}"
    for name in _SPLITS:
        sizes = [side["splits"].get(name, {"examples": 0})["examples"] for side in (old, new)]
        if sizes[0] != sizes[1]:
            return f"the split {name} has {sizes[1]} examples where it had {sizes[0]}"
    for name, split in old["splits"].items():
        other = new["splits"][name]
        for field in ("labels", "attributes"):
            if split[field] != other[field]:
                return f"the {field} of the split {name} are others"
        # A run that began without features reads none, whether some have come since or not.
        if split.get("features") not in (None, other.get("features")):
            return f"the features of the split {name} are others"
        tolerance = _ROUNDING[old["kind"]]
        if old["kind"] != "uint8":
            tolerance *= split["deviation"]
        moved = [
            np.abs(np.subtract(split[field], other[field])) for field in ("means", "deviations")
        ]
        changed = np.sum(np.maximum(*moved) > tolerance)
        if changed:
            return f"{changed} of {len(moved[0])} examples compared in the split {name} are others"
    return ""


def _text(value):
    if not isinstance(value, list):
        return str(value)
    text = ", ".join(map(str, value)) or "none"
    return text if len(text) <= 100 else f"{text[:100]}... ({len(value)})"
