"""One step read from disk by orbax and verified, and how it fits what a run expects."""

import os

import jax
import numpy as np
import orbax.checkpoint as ocp

from gmm_diffusion import paths
from gmm_diffusion.errors import InputError, RunError
from gmm_diffusion.runs import checkpoint_record
from gmm_diffusion.runs.checkpoint_files import is_complete, last_file, passable
from gmm_diffusion.runs.faults import WRONG_CONTENT, Damaged, cause, first_line, unreadable
from gmm_diffusion.types import PyTree


def read(directory: str | os.PathLike, step: int) -> tuple[dict, dict, dict]:
    """Flat state, fitted statistics and meta of one step, verified against its record.

    Raises:
      Damaged: what could be read is wrong.
      RunError: it could not be read.
    """
    path = paths.of(directory).absolute() / str(step)
    try:
        try:
            return _read_once(path)
        except (*WRONG_CONTENT, Damaged):
            # A fault that passes is no damage: only what is wrong twice is.
            return _read_once(path)
    except Exception as error:
        try:
            fault = unreadable(path, error)
        except OSError as listing:
            fault = listing
        if fault is None:
            if isinstance(error, Damaged):
                raise
            raise Damaged(f"{type(error).__name__}: {first_line(error)}") from error
        raise RunError(
            f"Checkpoint {step} in {directory} cannot be read, which need not be its fault; "
            f"nothing was touched: {cause(fault)}"
        ) from error


def alone() -> ocp.options.MultiprocessingOptions:
    """For orbax: this process saves and reads by itself, and waits for no other."""
    this = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=this, active_processes={this})


def _read_once(path):
    if not is_complete(path):
        raise Damaged(f"it is incomplete, without {last_file(path)}")
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone())
    )
    with (
        passable(path) as passable_path,
        ocp.Checkpointer(handler, multiprocessing_options=alone()) as reader,
    ):
        meta = ocp.args.Composite(meta=ocp.args.JsonRestore())
        record = reader.restore(passable_path, args=meta).meta
        stored = {}
        if names := checkpoint_record.stored_items(record):
            args = {item: ocp.args.StandardRestore() for item in names}
            stored = dict(reader.restore(passable_path, args=ocp.args.Composite(**args)).items())
    return checkpoint_record.verify(record, stored)


def fit(
    directory: str | os.PathLike, step: int, state: dict, target: PyTree, partial: bool
) -> PyTree:
    """The flat state in the target's structure; arguments as of `storage.restore_step`.

    Raises:
      InputError: it does not fit.
    """

    def refuse(reason):
        raise InputError(f"Checkpoint {step} in {directory} does not fit this model: {reason}.")

    paths, structure = jax.tree_util.tree_flatten_with_path(target)
    wanted = {checkpoint_record.leaf_name(path): leaf for path, leaf in paths}
    for name, leaf in wanted.items():
        leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        if name not in state:
            refuse(f"it has no leaf {name}")
        found = state[name]
        if found.shape != tuple(leaf.shape) or found.dtype != leaf.dtype:
            refuse(
                f"leaf {name} is {found.dtype} {list(found.shape)} in the checkpoint and"
                f" {leaf.dtype} {list(leaf.shape)} here{_precision(found.dtype, leaf.dtype)}"
            )
    extra = sorted(state.keys() - wanted.keys())
    if extra and not partial:
        refuse(f"its leaf {extra[0]} has no place here")
    return jax.tree.unflatten(structure, [state[name] for name in wanted])


def _precision(stored, here) -> str:
    """What to do where two types differ in their precision alone."""
    if stored.kind != here.kind or {stored.itemsize, here.itemsize} != {4, 8}:
        return ""
    value = 1 if stored.itemsize == 8 else 0
    return f" (it was made with JAX_ENABLE_X64={value} in the environment, and needs the same)"
