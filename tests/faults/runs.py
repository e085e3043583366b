"""A run of two seconds on points in the plane, as a process or within this one."""

import json
import multiprocessing
import os
import pathlib
import subprocess
import sys

import numpy as np
import quick_compiling

from gmm_diffusion.runs import checkpoint_reading, storage

REPOSITORY = pathlib.Path(__file__).parents[2]
STEPS = 24
# At most, a process; the long set may share its machine.
SECONDS = 3600 if "GMM_DIFFUSION_FAULTS" in os.environ else 240
SETTINGS = {
    "data.name": "toy",
    "data.num_train": 1000,
    "data.num_heldout": 100,
    "conditioning.kind": "none",
    "network.name": "mlp",
    "network.width": 8,
    "training.tensorboard": False,
    "training.num_steps": STEPS,
    "training.steps_per_call": 2,
    "training.log_every": 6,
    "training.heldout_every": 0,
    "checkpoint.every": 8,
    "checkpoint.snapshot_every": 8,
    "evaluation.at_end": False,
}


def configure(config, **changes):
    """A config with these settings; `group__field=value` changes one."""
    settings = SETTINGS | {name.replace("__", "."): value for name, value in changes.items()}
    for name, value in settings.items():
        group, field = name.split(".")
        config[group][field] = value
    return config


def command(workdir, *more, **changes):
    """The command line of such a run."""
    settings = SETTINGS | {name.replace("__", "."): value for name, value in changes.items()}
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    config = f"--config={REPOSITORY / 'configs' / 'tiny.py'}"
    program = [sys.executable, "-m", "gmm_diffusion.main", config, f"--workdir={workdir}"]
    return [*program, *flags, *more]


def environment():
    # No pretended devices, and no program compiled well or again: each takes longer than to train.
    fast = {
        "XLA_FLAGS": quick_compiling.FLAGS,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return os.environ | fast | {"JAX_PLATFORMS": "cpu"}


def finish(arguments, **options):
    """The finished process; its output is text unless `options` say where it goes."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.run(arguments, cwd=REPOSITORY, env=environment(), timeout=SECONDS, **options)


_forks = multiprocessing.get_context("forkserver")
# Half of a run is imports, in which nothing can be lost. It is forked from a process that has them.
_forks.set_forkserver_preload(["gmm_diffusion.main", "gmm_diffusion.commands.train", "pytest"])


def fork(workdir, before=None):
    """Such a run as a `Process` that has imported everything; it writes to `workdir`.log.

    Needs `environment()` as that of this process. In the run `before()` is called first.
    """
    process = _forks.Process(target=_run, args=(command(workdir)[3:], f"{workdir}.log", before))
    process.start()
    return process


def _run(flags, log, before):
    from gmm_diffusion import command_line, main

    with open(log, "w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    if before is not None:
        before()
    command_line.leave(main.run(["main", *flags]))


def rows(workdir):
    """The lines of the log without what is a time."""
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    times = ("images_per_second", "steps_per_second")
    return [{k: v for k, v in row.items() if k not in times} for row in found]


def newest(workdir):
    """Step, arrays by name of the state and the statistics of the newest good checkpoint."""
    directory = workdir / "checkpoints"
    step = storage.restore_fitted_and_meta(directory).step
    state, fitted, _ = checkpoint_reading.read(directory, step)
    return step, state, fitted


def assert_same(left, right):
    """Two runs came to the same end, bit for bit, and say the same in their logs."""
    (step, *trees), (other, *others) = newest(left), newest(right)
    assert step == other
    for a, b in zip(trees, others, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert rows(left) == rows(right)
    assert snapshot_files(left) == snapshot_files(right)


def snapshot_files(workdir):
    return {file.name: file.read_bytes() for file in (workdir / "snapshots").iterdir()}
