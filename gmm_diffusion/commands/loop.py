"""The loop over updates: what is logged, saved and looked at between them."""

import contextlib
import functools
import logging
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, TextIO, cast

import jax
import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion import __version__, assembly, devices, processes, signals, standard_streams
from gmm_diffusion.assembly import averages
from gmm_diffusion.commands import monitor as monitor_lib
from gmm_diffusion.commands import step_batches
from gmm_diffusion.commands.log_window import LogWindow
from gmm_diffusion.commands.parts import Parts
from gmm_diffusion.commands.profile import Profile
from gmm_diffusion.commands.progress import Progress
from gmm_diffusion.commands.training_clock import TrainingClock
from gmm_diffusion.errors import RunError
from gmm_diffusion.model.fitted import to_arrays
from gmm_diffusion.random_keys import Run
from gmm_diffusion.runs import snapshots, storage, workdir
from gmm_diffusion.runs.lock import Lock
from gmm_diffusion.runs.metrics_log import MetricsLog, NoLog
from gmm_diffusion.tasks import TASKS
from gmm_diffusion.types import PyTree

log = logging.getLogger(__name__)


class Around(NamedTuple):
    """What the loop writes to and listens to.

    Attributes:
      store: of checkpoints; None where another process writes them.
      metrics_log: where lines go.
      lock: of the run's directory; None where another process holds it.
      interrupt: whether to stop.
      streams: the standard ones.
    """

    store: storage.Store | None
    metrics_log: MetricsLog | NoLog
    lock: Lock | None
    interrupt: signals.Interrupt
    streams: Sequence[standard_streams.Unfailing]


def run(
    parts: Parts, state: PyTree, around: Around, started: float, stored_window: Any = None
) -> PyTree:
    """All remaining updates; returns the final state on the host.

    Args:
      parts: of the run.
      state: on the host, from which it goes on.
      around: what is written to and listened to.
      started: when the command began, by `time.monotonic`.
      stored_window: `LogWindow.stored` of the checkpoint that `state` is from.

    Raises:
      RunError: a loss, a gradient or a state is not finite; the last good checkpoint stands.
      signals.Interrupted: stopped, and saved.
    """
    config, interrupt = parts.config, around.interrupt
    store, metrics_log = around.store, around.metrics_log
    num_steps = config.training.num_steps
    step = int(state.step)
    first = processes.is_first()
    if first:
        metrics_log.truncate(step)
        snapshots.truncate(parts.path / workdir.SNAPSHOTS, step)
    # What stopped the run may have come between a checkpoint and the sheet of its step.
    every = config.training.heldout_every
    crossed = _crossed(every, step - config.training.steps_per_call, step, num_steps)
    if crossed and processes.of_first(lambda: not metrics_log.has(step, "heldout_loss/mean")):
        monitor_lib.make_monitor(parts, metrics_log)(step, state, poll=interrupt.check)
    if step >= num_steps:
        return jax.device_get(state)
    key = jax.random.fold_in(jax.random.key(config.training.seed), Run.STEPS)
    run_steps = devices.make_train_steps(assembly.train_step_fn(config, parts.fitted))
    # It holds held-out examples.
    monitor = monitor_lib.make_monitor(parts, metrics_log) if every else None
    next_batches = step_batches.source(parts)
    state = devices.replicate(state)
    silent = cast(TextIO, standard_streams.Unfailing(None))
    clock = TrainingClock()
    progress = Progress(num_steps, step, None if first else silent, clock=clock)
    window = LogWindow(step, stored_window, clock)
    save = functools.partial(_save, parts, around, window, clock)
    sound = step  # The newest step whose updates are known to have been good.
    noted = False
    profile = Profile(parts.path, config.training.profile)
    try:
        upcoming = next_batches(step, num_steps)
        while upcoming is not None:
            profile.begin(step, jax.tree.leaves(upcoming)[0].shape[0])
            state, metrics = run_steps(state, upcoming, key)
            previous, step = step, step + jax.tree.leaves(upcoming)[0].shape[0]
            # The host prepares the next call while the devices work on this one.
            upcoming = next_batches(step, num_steps)
            metrics = jax.device_get(metrics)
            profile.end()
            if previous == window.first_step:
                log.info("First steps done after %.1f s.", time.monotonic() - started)
            _check_finite(config, step, metrics)
            window.add(metrics)
            sound = step
            loss = float(metrics[TASKS[config.training.task].headline].mean())
            progress.update(step, loss, (step - previous) * config.training.batch_size)
            if not noted and any(stream.failed for stream in around.streams):
                noted = True
                metrics_log.write(step, {"output_failed": 1})
            crossed = functools.partial(_crossed, previous=previous, step=step, num_steps=num_steps)
            if crossed(config.training.log_every):
                # The loss tells nothing of averages, nor of moments too large to move anything.
                if not devices.is_finite(state):
                    raise _spoilt(step)
                metrics_log.write(step, window.flush(step, config))
            # Before the checkpoint: a run that resumes from it does not come by here again.
            if first and crossed(config.checkpoint.snapshot_every):
                with clock.paused():
                    _write_snapshot(parts, step, state)
            if crossed(config.checkpoint.every):
                save(step, state)
                processes.meet()
            interrupt.check()
            if monitor is not None and crossed(every):
                with clock.paused():
                    monitor(step, devices.unreplicate(state), poll=interrupt.check)
                    processes.meet()
    except signals.Interrupted:
        save(step, state)
        progress.note(f"Interrupted at step {step}; saved. The same command goes on from there.")
        raise
    except Exception:
        if sound == step:
            _rescue(store, save, step, state)
        raise
    finally:
        profile.end()
        progress.close()
    return devices.unreplicate(state)


def keeps(config: ConfigDict, step: int, width: float) -> bool:
    """Whether what `width` names at `step` is on disk after a run that nobody stops on its way."""
    calls, num_steps = config.training.steps_per_call, config.training.num_steps
    group = config.checkpoint
    if not 0 < step <= num_steps or (step % calls and step != num_steps):
        return False
    happens = functools.partial(
        _crossed, previous=(step - 1) // calls * calls, step=step, num_steps=num_steps
    )
    if width and happens(group.snapshot_every):
        return True
    # Several may fall into one call, and one comes at the end; as many as stay are enough.
    every = max(group.every, calls)
    due = range((step // every + 1) * every, num_steps + 1, every)[: group.keep]
    later = {num_steps, *(min(-(-s // calls) * calls, num_steps) for s in due)} - {step}
    return averages.is_tracked(config, width) and happens(group.every) and len(later) < group.keep


def _crossed(every, previous, step, num_steps):
    """Whether something that happens every so many steps, and at the end, happens at `step`."""
    if not every or step <= 0:
        return False
    return step // every > max(previous, 0) // every or step == num_steps


def _write_snapshot(parts, step, state):
    widths = parts.config.training.ema_widths
    snapshots.write(parts.path / workdir.SNAPSHOTS, step, widths, _on_host(step, state.ema))


def _rescue(store, save, step, state):
    """Saves the good state that a failure leaves; should that fail, too, the first is reported."""
    # A call that failed has taken its state with it.
    if store is None or any(leaf.is_deleted() for leaf in jax.tree.leaves(state)):
        return
    with contextlib.suppress(Exception):
        save(step, state)
        store.wait()


def _on_host(step, tree):
    """The first device's copy, which must be finite to be written anywhere."""
    tree = devices.unreplicate(tree)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)):
        raise _spoilt(step)
    return tree


def _spoilt(step):
    return RunError(
        f"The parameters or their averages are not finite at step {step}, and are not saved; "
        "a lower optimizer.learning_rate or a positive optimizer.clip_norm may help."
    )


def _save(parts, around, window, clock, step, state):
    """Saves unless this step is stored already, or another process does it."""
    store = around.store
    if store is None:
        return
    around.lock.check()
    if store.latest_step() == step:
        return
    around.metrics_log.flush()
    arrays, settings = to_arrays(parts.fitted)
    meta = {
        "settings": settings,
        "shape": parts.data.shape,
        "version": __version__,
        "jax": jax.__version__,
        "window": window.stored(),
    }
    with clock.paused():
        store.save(step, _on_host(step, state), arrays, meta)


def _check_finite(config, step, metrics):
    allowed = config.training.max_nonfinite
    worst = int(metrics["nonfinite_in_a_row"].max())
    if worst > allowed:
        raise RunError(
            f"The loss or its gradient was not finite in {worst} updates in a row before step "
            f"{step}; training.max_nonfinite allows {allowed}; a lower optimizer.learning_rate or "
            "a positive optimizer.clip_norm may help."
        )
