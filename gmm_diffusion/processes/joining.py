"""How the processes of one run come together, and leave."""

import contextlib
import logging
import os
import re
import threading
from collections.abc import Iterator
from typing import Any

import jax

from gmm_diffusion.errors import InputError, RunError
from gmm_diffusion.process_group import ProcessGroup
from gmm_diffusion.processes import agreeing, ending

# After so long without a sign of life a process counts as lost; loaded machines are slow to answer.
_LOST_SECONDS = 30
# All come to the end together, see `joined`.
_SHUTDOWN_SECONDS = 60


@contextlib.contextmanager
def joined(group: ProcessGroup, late: str = "", quiet: bool = True) -> Iterator[None]:
    """Within the block this process is one of a group, if there is one; before any use of JAX.

    All leave it together. One that fails tells the others why, and they end, too.

    Args:
      group: may be this process alone.
      late: where it is bad input that the others do not come in time, what to say of it.
      quiet: whether the first process speaks for all.

    Raises:
      RunError: the others do not answer, or one is lost.
      InputError: the others do not answer, and that is bad input.
    """
    if group.alone:
        yield
        return
    with _patience(group, late):
        _connect(group, InputError if late else RunError)
    with ending.together(), _quiet() if quiet else contextlib.nullcontext():
        yield
        agreeing.meet()


def _connect(group, kind):
    # It would take SIGTERM for itself.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **_who(group),
            initialization_timeout=group.wait + 60,  # `_patience` ends before: JAX aborts.
            heartbeat_timeout_seconds=_LOST_SECONDS,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ending.at_once(
            kind(f"The other processes cannot be found: {cause.rstrip('.')}.")
        ) from error


def _who(group) -> dict[str, Any]:
    """Arguments of `jax.distributed.initialize`."""
    if group.coordinator:
        return {
            "coordinator_address": group.coordinator,
            "num_processes": group.count,
            "process_id": group.index,
            "cluster_detection_method": "deactivate",
        }
    # JAX gives each task of SLURM one device; the only task of a node has them all.
    environment = os.environ
    per_node = environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    devices = environment.get("SLURM_GPUS_ON_NODE", "")
    if re.fullmatch(r"1(\(x\d+\))?", per_node) and devices.isdigit() and int(devices):
        return {"local_device_ids": list(range(int(devices)))}
    return {}


@contextlib.contextmanager
def _patience(group, late):
    """Ends the process if the others have not come in time."""
    where = f" at {group.coordinator}" if group.coordinator else ""
    what = (
        f"not all of {group.count} processes have come to the coordinator{where}"
        if group.index == 0
        else f"the coordinator{where} does not answer, or waits for other processes"
    )
    message = f"Failed: After {group.wait} seconds {what}."
    end = (f"Error: {late}", 2) if late else (message, 1)
    timer = threading.Timer(group.wait, ending.end, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _quiet():
    """The first process speaks for all; the others say only why they end."""
    if agreeing.is_first():
        yield
        return
    logging.disable(logging.WARNING)
    try:
        with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
            yield
    finally:
        logging.disable(logging.NOTSET)
