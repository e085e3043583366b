"""A training run from a config: data, steps, logs, checkpoints, evaluation."""

import contextlib
import dataclasses
import logging
import time

import jax
from clu.parameter_overview import get_parameter_overview
from flax import traverse_util
from ml_collections import ConfigDict

from gmm_diffusion import (
    assembly,
    cpu_devices,
    devices,
    paths,
    processes,
    signals,
    standard_streams,
)
from gmm_diffusion import config as config_lib
from gmm_diffusion.assembly import averages, guides, initialisation
from gmm_diffusion.commands import loading, loop
from gmm_diffusion.commands.parts import Parts
from gmm_diffusion.conditioning import requests
from gmm_diffusion.data import Dataset
from gmm_diffusion.errors import InputError, RunError, out_of_memory
from gmm_diffusion.evaluation import checks
from gmm_diffusion.evaluation import report as evaluation_report
from gmm_diffusion.model.fitted import from_arrays, to_arrays
from gmm_diffusion.runs import (
    data_fingerprint,
    saving_probe,
    snapshots,
    storage,
    wandb_writer,
    workdir,
)
from gmm_diffusion.runs import lock as lock_lib
from gmm_diffusion.runs.metrics_log import MetricsLog, NoLog
from gmm_diffusion.training import state as state_lib

log = logging.getLogger(__name__)


def train(config: ConfigDict, run_dir: str, data: Dataset | None = None) -> dict | None:
    """Trains, or goes on with, the run in `run_dir`, and ends with an evaluation.

    Of several processes, all of which must call this, the first one writes the files.

    Args:
      config: see `config.default`.
      run_dir: created if absent; resumed if it holds a run with the same model.
      data: of `data.name` arrays, and of no other.

    Returns:
      The evaluation, as written to `evaluation.json`; None without `evaluation.at_end`.

    Raises:
      InputError: bad input, before training; nothing on disk is lost.
      RunError: the run itself failed; the last good checkpoint stands.
      signals.Interrupted: stopped by Ctrl-C or SIGTERM, saved.
    """
    config_lib.validate(config)
    started = time.monotonic()
    with standard_streams.unfailing() as streams:
        try:
            return _train(config, run_dir, data, started, streams)
        except RunError as error:
            raise RunError(f"{error} {_standing(run_dir)}") from error
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            cause = f"{error.strerror or error}{where}"
            raise RunError(
                f"The run was stopped by an error: {cause}. {_standing(run_dir)}"
            ) from error
        except KeyboardInterrupt:
            log.warning("Stopped at once, without saving. %s", _standing(run_dir))
            raise
        except Exception as error:
            if (refused := out_of_memory(error)) is None:
                raise
            raise RunError(f"{refused} {_standing(run_dir)}") from error


def _standing(run_dir):
    """What a run that failed can go on from, in a sentence."""
    try:
        step = storage.last_complete_step(paths.of(run_dir) / workdir.CHECKPOINTS)
    except (RunError, OSError):
        return "The checkpoints cannot be read now."
    if step is None:
        return "There is no checkpoint yet."
    return f"The last checkpoint is that of step {step}."


def _train(config, run_dir, given, started, streams):
    _check_devices(config)
    if config.logging.wandb and processes.is_first():
        wandb_writer.check()
    requests.parse(config.sample.condition)
    config = workdir.as_written(config, run_dir)
    resumed = workdir.check(config, run_dir)
    if not resumed:
        config_lib.check_splits(config)
    path, first = paths.of(run_dir), processes.is_first()
    _check_steps(config, path if resumed else None)
    # All have looked before the first one writes.
    processes.same(f"What --workdir {path} holds", lambda: {"whether a run is there": resumed})
    with _hold(path) as lock, signals.graceful(devices.highest) as interrupt:
        # Nothing is trained yet.
        with interrupt.at_once(jax.process_count() == 1):
            data = processes.in_turn(lambda: assembly.dataset(config, given))
        processes.same("The data", lambda: data_fingerprint.checksums(data))
        log.info("%s, read in %.1f s.", _described(data), time.monotonic() - started)
        checks.check(config, data, path)
        fresh = None
        if first:
            saving_probe.check_saving(path / workdir.CHECKPOINTS)
        if not resumed:
            # Before the directory changes: data that cannot be fitted are bad input, too.
            begun = time.monotonic()
            interrupt.check()
            # It may take minutes, and nothing is saved yet.
            with interrupt.at_once(jax.process_count() == 1):
                fresh = _fit_with_weights(config, data)
            log.info("Fitted what conditions are made of in %.1f s.", time.monotonic() - begun)
            interrupt.check()
            if first:
                workdir.write_config(config, path)
        if first:
            data_fingerprint.keep(config, data, path)
        with _open_store(config, path) as store:
            parts, state, window = _prepare(config, path, data, fresh, store)
            _compare(parts, state)
            model = assembly.model(config, data.shape, parts.fitted, {})
            guidance = None
            if guides.needs_other_runs(config):
                # Loaded before training, so that a wrong one is refused before training.
                guidance = guides.guidance(model, path)
            if resumed and first:
                workdir.write_config(config, path)
            with _open_log(config, path) as metrics_log:
                around = loop.Around(store, metrics_log, lock, interrupt, streams)
                state = loop.run(parts, state, around, started, window)
        if not config.evaluation.at_end:
            print(f"Trained to step {int(state.step)} in {path}, and not evaluated.")
            return None
        if _is_earlier(config, int(state.step)):
            model = loading.load(config, path)
        else:
            params = averages.final(config, path, state)
            model = dataclasses.replace(model, params=params, step=int(state.step))
        if guidance is None:
            guidance = guides.guidance(model, path)
        interrupt.check()
        with interrupt.at_once(jax.process_count() == 1):
            return evaluation_report.evaluate_and_report(
                model, data, path, guidance, interrupt.check
            )


@contextlib.contextmanager
def _hold(path):
    """The first process holds the lock for all; None in the others, once they see it."""
    if processes.is_first():
        with lock_lib.hold(path) as lock:
            processes.of_first(lambda: lock.token)
            yield lock
    else:
        lock_lib.see(path, processes.of_first(lambda: ""))
        yield None


def _open_store(config, path):
    if processes.is_first():
        return storage.open(path / workdir.CHECKPOINTS, keep=config.checkpoint.keep)
    return contextlib.nullcontext()


def _open_log(config, path):
    if processes.is_first():
        shown = config if config.logging.wandb else None
        return MetricsLog(path, tensorboard=config.training.tensorboard, wandb=shown)
    return NoLog()


def _fit_with_weights(config, data):
    """As `initialisation`'s; of several processes, which may round otherwise, the first one's."""
    fitted, weights = initialisation.fit_with_weights(config, data)
    if jax.process_count() == 1:
        return fitted, weights
    arrays, settings = to_arrays(fitted)
    return from_arrays(devices.of_first(arrays), settings), None


def _described(data):
    """The data in a few words."""
    shape = "x".join(map(str, data.shape))
    # Whose pictures are floats would not know it otherwise.
    latent = ", latents as floats are (images are uint8)," if data.is_latent else ""
    counts = [f"{len(data.train):,} examples of {shape}{latent} to train on"]
    if data.validation is not None:
        counts.append(f"{len(data.validation):,} for validation")
    return f"{data.name}: {', '.join(counts)}, {len(data.heldout):,} held out"


def _blocks(params):
    """How many parameters there are, and where: the first two levels of their names."""
    blocks: dict[str, int] = {}
    for name, leaf in traverse_util.flatten_dict(params, sep="/").items():
        block = "/".join(name.split("/")[:2])
        blocks[block] = blocks.get(block, 0) + leaf.size
    width = max(map(len, blocks))
    lines = [f"  {block:<{width}}  {size:>11,}" for block, size in blocks.items()]
    return "\n".join([f"{sum(blocks.values()):,} parameters:", *lines])


def _compare(parts, state):
    """Refuses processes that would start from other values."""

    def values():
        return {"their checksum": processes.checksum((to_arrays(parts.fitted)[0], state))}

    processes.same("The parameters", values)


def _check_devices(config):
    count = len(devices.found())
    if config.training.batch_size % count:
        raise InputError(
            f"training.batch_size is {config.training.batch_size}; it must be a multiple of the "
            f"{count} devices."
        )
    share = config.training.batch_size // count
    if config.training.microbatch and share % config.training.microbatch:
        raise InputError(
            f"training.microbatch is {config.training.microbatch}; it must divide the {share} "
            f"examples that each of the {count} devices has of training.batch_size."
        )
    if config.contrastive.weight and config.contrastive.points % count:
        raise InputError(
            f"contrastive.points is {config.contrastive.points}; it must be a multiple of the "
            f"{count} devices."
        )


def _check_steps(config, path):
    """Refuses an evaluation at the end of, or guided by, a step that will not be on disk."""
    group, wanted = config.guidance, []
    if guides.is_own_step(config):
        wanted.append(("guidance.guide_step", group.guide_step, group.guide_ema))
    if _is_earlier(config, config.training.num_steps):
        wanted.append(("sample.step", config.sample.step, config.sample.ema))
    for field, step, width in wanted if config.evaluation.at_end else ():
        kept = loop.keeps(config, step, width)
        if not kept and path is not None and width:
            kept = step in snapshots.steps(path / workdir.SNAPSHOTS)
        if not kept:
            other = "guidance.kind none" if field.startswith("guidance") else "0 for the last"
            raise InputError(
                f"{field} is {step}; a run of {config.training.num_steps} steps, "
                f"{config.training.steps_per_call} a call, with checkpoint.snapshot_every "
                f"{config.checkpoint.snapshot_every} keeps no average of width {width:g} of that "
                f"step, which the evaluation at its end needs; take one that is kept, or {other}."
            )


def _is_earlier(config, last):
    """Whether `sample.step` is another one than that at which training ends."""
    return config.sample.step not in (0, last)


def _prepare(config, path, data, fresh, store):
    """Parts and state of a run: new ones of what was fitted just now, or the newest checkpoint's.

    Beside them the window of metrics since the last line of the log, as it was saved.
    """
    stored, directory = None, path / workdir.CHECKPOINTS
    if fresh is None:
        stored = processes.same_step(
            lambda: store.restore_fitted_and_meta(),
            lambda step: storage.restore_fitted_and_meta(directory, step),
        )
    if stored is not None:
        fitted, weights = from_arrays(stored.fitted, stored.meta["settings"]), None
    else:
        # Without either the run was stopped before its first checkpoint.
        fitted, weights = fresh or _fit_with_weights(config, data)
    make = assembly.init_params if stored is not None else initialisation.params
    params = make(config, data.shape, fitted)
    optimizer = assembly.optimizer(config)
    state = state_lib.create(params, optimizer, len(config.training.ema_widths))
    if said := cpu_devices.describe():
        log.info("%s", said)
    if config.training.list_parameters:
        log.info("\n%s", get_parameter_overview(params, include_stats=False))
    else:
        log.info("%s", _blocks(params))
    window = None
    if stored is not None:
        target = jax.device_get(state)
        restored = processes.same_step(
            lambda: store.restore(target),
            lambda step: storage.restore_step(directory, step, target),
        )
        state = restored.state
        window = restored.meta.get("window")  # Absent from older runs.
        log.info("Resumed %s from step %d.", path, restored.step)
    return Parts(config, path, data, fitted, weights), state, window
