"""What training costs beside its updates: the loop, the monitor, and the start.

    python benchmarks/loop.py [--cases digits16,digits128,digits512,faces,images] [--steps 400]
    python benchmarks/loop.py --start [--config configs/digits_gmm.py]
    python benchmarks/loop.py --compile [--config configs/digits_gmm.py]

loop     milliseconds an update of the whole loop (data, log, averages, checkpoints) beside those of
         the bare update on one batch that is there already, in turns, and the share of the monitor
         (held-out losses and sheets) in a run of the config's own length
--start  seconds from the command to its first updates, with nothing compiled and with all of it
         compiled before, and of --help and of a flag that is refused
--compile  what the first call of the step, of the held-out losses and of the sampler takes beyond
         the next one, and how many programs it compiles; nothing is kept from before

`images` are 60,000 of 32x32x3, made here. The networks are that of configs/digits_gmm.py, with 8
channels at 32x32: updates are short, and the loop has no place to hide.
"""

import argparse
import contextlib
import os
import pathlib
import re
import runpy
import statistics
import subprocess
import sys
import tempfile
import time

# A clone that is not installed works, too.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import numpy as np

from gmm_diffusion import assembly, cpu_devices, devices
from gmm_diffusion import config as config_lib
from gmm_diffusion.assembly import initialisation
from gmm_diffusion.commands import loop, step_batches, train
from gmm_diffusion.commands import monitor as monitor_lib
from gmm_diffusion.commands.parts import Parts
from gmm_diffusion.data import from_arrays
from gmm_diffusion.evaluation import heldout
from gmm_diffusion.training import state as state_lib

ROOT = pathlib.Path(__file__).resolve().parents[1]
CASES = ("digits16", "digits128", "digits512", "faces", "images")


def settings(case: str):
    """`(config, dataset or None for the config's own)`."""
    config = config_lib.default()
    config.training.tensorboard = config.evaluation.at_end = False
    if case == "faces":
        config.data.name = "faces"
        config.data.num_train = config.data.num_heldout = 2048
        config.conditioning.kind = "attributes"
        config.network.channels = 8
        return config, None
    if case == "images":
        images = np.random.default_rng(0).integers(0, 256, (60_000, 32, 32, 3), np.uint8)
        config.data.name = "arrays"
        config.conditioning.per_class = False
        config.conditioning.kind = "none"
        config.network.channels = 8
        return config, from_arrays(images)
    config.training.batch_size = int(case.removeprefix("digits"))
    return config, None


class Clock:
    """When training's loop comes by, and how long its monitor works."""

    def __init__(self):
        self.times, self.monitors = [], []

    @contextlib.contextmanager
    def watching(self):
        clock, progress, make_monitor = self, loop.Progress, monitor_lib.make_monitor

        class Watched(progress):
            def update(self, step, *rest):
                clock.times.append((step, time.perf_counter()))
                super().update(step, *rest)

        def timed(*parts):
            monitor = make_monitor(*parts)

            def run(*args, **kwargs):
                begin = time.perf_counter()
                monitor(*args, **kwargs)
                clock.monitors.append(time.perf_counter() - begin)

            return run

        loop.Progress, monitor_lib.make_monitor = Watched, timed
        try:
            yield self
        finally:
            loop.Progress, monitor_lib.make_monitor = progress, make_monitor


def bare_call(config, data):
    """`(call, params, fitted)`: each `call()` makes updates on one batch, and waits for them."""
    fitted, weights = initialisation.fit_with_weights(config, data)
    params = jax.device_get(assembly.init_params(config, data.shape, fitted))
    optimizer, widths = assembly.optimizer(config), len(config.training.ema_widths)
    state = devices.replicate(state_lib.create(params, optimizer, widths))
    run = devices.make_train_steps(assembly.train_step_fn(config, fitted))
    batch = step_batches.source(Parts(config, pathlib.Path(), data, fitted, weights))(0, 1 << 20)
    key = jax.random.key(0)

    def call():
        nonlocal state
        state, metrics = run(state, batch, key)
        jax.device_get(metrics)

    return call, params, fitted


def bare_updates(config, data, calls):
    """A function that makes updates on one batch, and returns milliseconds an update."""
    call, steps = bare_call(config, data)[0], config.training.steps_per_call

    def measure():
        taken = []
        for _ in range(calls):
            begin = time.perf_counter()
            call()
            taken.append((time.perf_counter() - begin) / steps * 1e3)
        return statistics.mean(taken)

    measure()
    return measure


def loop_updates(config, given, num_steps):
    """Milliseconds an update of a run of `num_steps`, after its first call; the monitor is off."""
    config = config.copy_and_resolve_references()
    config.training.num_steps, config.training.heldout_every = num_steps, 0
    # As often in these updates as in a run of the usual length.
    config.checkpoint.every = num_steps // 2
    with tempfile.TemporaryDirectory() as folder, Clock().watching() as clock:
        train.train(config, os.path.join(folder, "run"), given)
    (first, begin), (last, end) = clock.times[0], clock.times[-1]
    return (end - begin) / (last - first) * 1e3


def monitor_seconds(config, given):
    """Of one that has nothing to compile, in a run that meets three."""
    config = config.copy_and_resolve_references()
    config.training.num_steps, config.training.heldout_every = 48, 16
    config.training.log_every = config.checkpoint.every = 16
    with tempfile.TemporaryDirectory() as folder, Clock().watching() as clock:
        train.train(config, os.path.join(folder, "run"), given)
    return clock.monitors[0], statistics.median(clock.monitors[1:])


def measure_loop(cases, num_steps):
    print("| case | bare update ms | loop ms | bare/loop | first monitor s | a monitor s | share |")
    print("|---|---|---|---|---|---|---|")
    for case in cases:
        config, given = settings(case)
        data = given or assembly.dataset(config)
        measure = bare_updates(config, data, max(num_steps // config.training.steps_per_call, 1))
        bare, loop = [], []
        for _ in range(3):
            bare.append(measure())
            loop.append(loop_updates(config, given, num_steps))
        first, one = monitor_seconds(config, given)
        middle = statistics.median(loop)
        num = config.training.num_steps / config.training.heldout_every
        share = (first + one * (num - 1)) / (
            first + one * (num - 1) + middle / 1e3 * config.training.num_steps
        )
        print(
            f"| {case} | {statistics.median(bare):.2f} ({min(bare):.2f}-{max(bare):.2f}) | "
            f"{middle:.2f} ({min(loop):.2f}-{max(loop):.2f}) | "
            f"{100 * statistics.median(bare) / middle:.1f} % | {first:.1f} | {one:.2f} | "
            f"{100 * share:.1f} % |",
            flush=True,
        )


def seconds_to(pattern, command, environment):
    """From the start of a command to the line of its output that has `pattern`."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    found = None
    for line in process.stdout:
        if found is None and re.search(pattern, line):
            found = time.perf_counter() - begin
            process.terminate()
    process.wait()
    return found if found is not None else time.perf_counter() - begin


def measure_start(path, rounds=3):
    with tempfile.TemporaryDirectory() as folder:
        main = [sys.executable, "-m", "gmm_diffusion.main"]
        path_of_code = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
        environment = os.environ | {"PYTHONPATH": path_of_code}
        rows = {"--help": [], "a refused flag": [], "first updates": [], "again": []}
        for i in range(rounds):
            rows["--help"].append(seconds_to("$^", [*main, "--help"], environment))
            bad = [*main, f"--config={path}", "--config.no.such=1"]
            rows["a refused flag"].append(seconds_to("$^", bad, environment))
            environment["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/cache{i}"
            for name in ("first updates", "again"):
                line = [*main, f"--config={path}", f"--workdir={folder}/{i}-{name[0]}"]
                rows[name].append(seconds_to("First steps done", line, environment))
    print("| from the command | seconds |\n|---|---|")
    for name, values in rows.items():
        print(f"| {name} | {statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f}) |")


class Compiled:
    """Counts the programs that are compiled, or read from a cache, while it is watching."""

    def __init__(self):
        self.count = 0

    def __enter__(self):
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_):
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, name, seconds, **_):
        self.count += name == "/jax/core/compile/backend_compile_duration"


def first_calls(config, data):
    """`{program: function}`: each does one call of it on data that are there already."""
    step, params, fitted = bare_call(config, data)
    losses = heldout.make_heldout_losses(config, data, fitted)
    sheet = heldout.make_sheet(config, data, fitted)
    return {
        f"step, {config.training.steps_per_call} updates": step,
        "held-out losses": lambda: losses(params),
        f"sampler, {config.sample.num} samples": lambda: sheet(params),
    }


def measure_compile(config, data):
    print("| program | seconds | of processor | programs | a call, seconds |")
    print("|---|---|---|---|---|")
    for name, call in first_calls(config, data).items():
        taken = []
        for _ in range(2):
            begin, worked = time.perf_counter(), time.process_time()
            with Compiled() as compiled:
                call()
            seconds, processor = time.perf_counter() - begin, time.process_time() - worked
            taken.append((seconds, processor, compiled.count))
        (first, first_worked, count), (again, again_worked, more) = taken
        print(
            f"| {name} | {first - again:.1f} | {first_worked - again_worked:.1f} | "
            f"{count - more} | {again:.2f} |",
            flush=True,
        )


def main() -> None:
    """Prints Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--steps", type=int, default=400, help="updates of a run")
    parser.add_argument("--start", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--config", default=str(ROOT / "configs" / "digits_gmm.py"))
    arguments = parser.parse_args()
    if arguments.start:
        measure_start(arguments.config)
    elif arguments.compile:
        config = runpy.run_path(arguments.config)["get_config"]()
        jax.config.update("jax_enable_compilation_cache", False)
        cpu_devices.choose(None, True, config.training.batch_size)
        measure_compile(config, assembly.dataset(config))
    else:
        cpu_devices.choose(None, True, 128)
        measure_loop(arguments.cases.split(","), arguments.steps)
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
