"""Hours of training, and many calls, in one process, whose memory, files and threads stay as many.

`GMM_DIFFUSION_SOAK=10800 python -m pytest -n 0 -s tests/faults/test_soak.py`: so many seconds, and
a tenth as many calls of `Model.sample`. It prints the figures of docs/reliability.md.
"""

import gc
import os
import pathlib
import signal
import time

import pytest
import runs

from gmm_diffusion import signals
from gmm_diffusion.assembly import load as load_lib
from gmm_diffusion.commands import loop, train

NUMBER = int(os.environ.get("GMM_DIFFUSION_SOAK", "0"))
pytestmark = pytest.mark.skipif(not NUMBER, reason="GMM_DIFFUSION_SOAK is not set")
PARTS = 10


def measure():
    """Megabytes of memory, open files and threads."""
    gc.collect()
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    counts = [len(list(pathlib.Path("/proc/self", name).iterdir())) for name in ("fd", "task")]
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, *counts


def assert_flat(what, seen):
    # Caches fill and pools start in the first parts.
    print(f"\n{what}: memory, files and threads after each tenth")
    for memory, files, threads in seen:
        print(f"{memory:.1f} MiB, {files}, {threads}")
    memory, files, threads = zip(*seen[PARTS // 3 :], strict=True)
    assert max(memory) < 1.02 * memory[0]
    # A save under way has files and threads of its own.
    for counts in (files, threads):
        half = len(counts) // 2
        assert min(counts[half:]) <= max(counts[:half])


def test_training(config, tmp_path, monkeypatch):
    config.training.num_steps = 10**8
    config.training.log_every = 2000
    # About one a minute. tensorstore 0.1.86 keeps four objects of each `KvStore.Spec.to_json`, of
    # which orbax asks one an array and save: 18 KiB a checkpoint here.
    config.training.heldout_every = config.checkpoint.every = 20_000
    config.checkpoint.snapshot_every = 10**6
    config.sample.num, config.sample.steps = 16, 2
    seen, start = [], []

    class Progress(loop.Progress):
        def update(self, done, loss, examples):
            super().update(done, loss, examples)
            if not start:
                start.append(time.monotonic())
            if time.monotonic() > start[0] + NUMBER * (len(seen) + 1) / PARTS:
                seen.append(measure())
                if len(seen) == PARTS:
                    os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "Progress", Progress)
    with pytest.raises(signals.Interrupted):
        train.train(config, tmp_path / "run")
    done = runs.newest(tmp_path / "run")[0]
    assert_flat(f"{NUMBER} s of training, {done} updates", seen)


def test_samples(config, tmp_path):
    train.train(config, tmp_path / "run")
    model = load_lib.load_run(tmp_path / "run")
    seen, calls = [], -(-NUMBER // 10 // PARTS)
    for part in range(PARTS):
        for call in range(calls):
            model.sample(4 + call % 3, seed=part * calls + call, steps=2)
        seen.append(measure())
    assert_flat(f"{calls * PARTS} calls", seen)
