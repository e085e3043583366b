"""The record of a checkpoint: its leaves by flat names, and a checksum of each."""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from gmm_diffusion.runs.faults import Damaged
from gmm_diffusion.types import PyTree

# "constants" are the fitted statistics.
ITEMS = ("state", "constants")


def flatten(tree: PyTree) -> dict[str, np.ndarray]:
    """The leaves on the host, by name."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {leaf_name(path): np.asarray(leaf) for path, leaf in leaves}


def leaf_name(path: tuple) -> str:
    """`params/network/kernel` for a path of `jax.tree_util`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def make(meta: Mapping[str, Any], items: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """What is saved beside `items`, item -> leaf -> array: `meta`, and a checksum of everything."""
    entries = json.loads(json.dumps(dict(meta)))
    return {
        "meta": entries,
        "meta_crc32": _text_checksum(entries),
        "leaves": {
            item: {name: _fingerprint(value) for name, value in leaves.items()}
            for item, leaves in items.items()
        },
    }


def stored_items(record: dict[str, Any]) -> list[str]:
    """The items that have an array with elements; the shapes of others are enough to make them."""
    return [
        item
        for item in ITEMS
        if any(0 not in leaf["shape"] for leaf in record["leaves"][item].values())
    ]


def verify(
    record: dict[str, Any], stored: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, Any]]:
    """Flat state, fitted statistics and meta, with the arrays that were read.

    Raises:
      Damaged: something differs from the record.
    """
    if _text_checksum(record["meta"]) != record["meta_crc32"]:
        raise Damaged("the checksum of meta differs")
    state, fitted = (_leaves(item, record["leaves"][item], stored.get(item, {})) for item in ITEMS)
    return state, fitted, record["meta"]


def _leaves(
    item: str, record: Mapping[str, dict], stored: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    leaves = {}
    for name, expected in record.items():
        if 0 in expected["shape"]:
            leaves[name] = np.zeros(expected["shape"], jax.numpy.dtype(expected["dtype"]))
            continue
        leaves[name] = np.asarray(stored[name])
        found = _fingerprint(leaves[name])
        for field in ("shape", "dtype", "crc32"):
            if found[field] != expected[field]:
                raise Damaged(
                    f"the {field} of {item} leaf {name} is {found[field]}, recorded was"
                    f" {expected[field]} (sums {found['sum']} and {expected['sum']})"
                )
    return leaves


def _fingerprint(array: np.ndarray) -> dict[str, Any]:
    """Shape, dtype, crc32 of the bytes, and the sum, which tells a person how far off they are."""
    array = np.asarray(array)
    octets = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    with np.errstate(all="ignore"):  # A damaged leaf may hold anything.
        total = float(array.astype(np.float64).sum())
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "crc32": zlib.crc32(octets.data),
        "sum": total if np.isfinite(total) else str(total),
    }


def _text_checksum(entries: dict) -> int:
    return zlib.crc32(json.dumps(entries, sort_keys=True).encode())
