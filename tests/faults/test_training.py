"""Faults while training, within this process: what was good is saved, what is bad is not."""

import json
import os
import re
import shutil
import signal

import jax.numpy as jnp
import numpy as np
import pytest
import runs

from gmm_diffusion import pictures, signals
from gmm_diffusion.commands import loop, train
from gmm_diffusion.errors import InputError, RunError
from gmm_diffusion.model.model import Model
from gmm_diffusion.runs import metrics_log, storage


def at_step(monkeypatch, step, act):
    """Does `act()` once `step` updates are done."""

    class Progress(loop.Progress):
        def update(self, done, loss, examples):
            super().update(done, loss, examples)
            if done == step:
                act()

    monkeypatch.setattr(loop, "Progress", Progress)


def test_stops_at_awkward_steps_leave_no_trace_in_the_log(config, tmp_path, monkeypatch, whole):
    for step in (2, 10, 14, 22):
        with monkeypatch.context() as patch:
            at_step(patch, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
            with pytest.raises(signals.Interrupted):
                train.train(config, tmp_path / "run")
    train.train(config, tmp_path / "run")
    runs.assert_same(tmp_path / "run", whole)


def no_memory_in_jax():
    jnp.zeros(2**46).block_until_ready()  # 256 TiB are in no address space.


def no_memory_in_numpy():
    np.zeros(2**46)


@pytest.mark.parametrize("ask", [no_memory_in_jax, no_memory_in_numpy])
def test_memory_that_is_refused(config, tmp_path, monkeypatch, whole, ask):
    with monkeypatch.context() as patch:
        at_step(patch, 14, ask)
        refused = r"not enough memory \(.*allocat.*less\. The last checkpoint is that of step 14\."
        with pytest.raises(RunError, match=refused):
            train.train(config, tmp_path / "run")
    train.train(config, tmp_path / "run")
    runs.assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize("mode", ["sample", "evaluate"])
@pytest.mark.parametrize("ask", [no_memory_in_jax, no_memory_in_numpy])
def test_memory_that_is_refused_after_training(straight, monkeypatch, run_main, mode, ask):
    before = {p: p.read_bytes() for p in straight.rglob("*") if p.is_file()}
    monkeypatch.setattr(Model, "sample", lambda *args, **kwargs: ask())
    status, _, errors = run_main(f"--workdir={straight}", f"--mode={mode}")
    assert status == 1
    last = errors.splitlines()[-1]
    assert re.fullmatch(r"Failed: There is not enough memory \(.*\); smaller batches.*", last), last
    assert {p: p.read_bytes() for p in straight.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("part", ["line", "sheet"])
def test_a_kill_between_a_sheet_and_its_line(config, tmp_path, monkeypatch, part):
    config.training.heldout_every = 12
    config.training.num_steps = 12
    config.sample.num = 4
    config.sample.steps = 2
    train.train(config, tmp_path / "whole")

    def die(*args, **kwargs):
        raise KeyboardInterrupt  # Nothing is saved after it.

    with monkeypatch.context() as patch:
        if part == "line":
            original = metrics_log.MetricsLog.write

            def write(self, step, scalars):
                return die() if "heldout_loss/mean" in scalars else original(self, step, scalars)

            patch.setattr(metrics_log.MetricsLog, "write", write)
        else:
            patch.setattr(pictures, "scatter", die)
        with pytest.raises(KeyboardInterrupt):
            train.train(config, tmp_path / "run")
    train.train(config, tmp_path / "run")
    runs.assert_same(tmp_path / "run", tmp_path / "whole")
    assert (tmp_path / "run" / "samples" / "step_12.png").exists()


def test_an_error_in_the_loop_saves_what_was_good(config, tmp_path, monkeypatch, whole):
    with monkeypatch.context() as patch:
        at_step(patch, 14, lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train.train(config, tmp_path / "run")
    assert storage.steps(tmp_path / "run" / "checkpoints") == [8, 14]
    train.train(config, tmp_path / "run")
    runs.assert_same(tmp_path / "run", whole)


def test_a_checkpoint_that_cannot_be_read_is_kept(config, tmp_path, whole):
    directory = whole / "checkpoints"
    file = max((directory / "24" / "state" / "d").iterdir(), key=lambda p: p.stat().st_size)
    shutil.move(file, tmp_path / "file")
    file.symlink_to("/proc/self/mem")  # Input/output error, whoever reads.
    before = sorted(whole.rglob("*"))
    with pytest.raises(RunError, match="nothing was touched: Input/output error"):
        train.train(config, whole)
    assert sorted(whole.rglob("*")) == before
    file.unlink()
    shutil.move(tmp_path / "file", file)
    assert runs.newest(whole)[0] == 24


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("checkpoints", "File exists|Not a directory"),
        ("snapshots", "File exists|Not a directory"),
        ("metrics.jsonl", "Is a directory"),
        ("samples", "File exists|Not a directory"),
    ],
)
def test_what_stands_in_the_way_of_a_write(config, tmp_path, monkeypatch, name, cause):
    config.training.heldout_every = 12
    config.sample.num = 4
    config.sample.steps = 2
    run = tmp_path / "run"

    def block():
        if (run / name).exists():
            shutil.move(run / name, tmp_path / "aside")
        if name.endswith(".jsonl"):
            (run / name).mkdir()
        else:
            (run / name).write_text("")

    with monkeypatch.context() as patch:
        at_step(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(signals.Interrupted):
            train.train(config, run)
    with monkeypatch.context() as patch:
        at_step(patch, 4, block)
        with pytest.raises(RunError, match=cause) as caught:
            train.train(config, run)
    assert "\n" not in str(caught.value)
    if name != "checkpoints":
        assert "The last checkpoint is that of step" in str(caught.value)
    # From the start it is refused.
    with pytest.raises(InputError, match=rf"holds a (file|folder) {name} where a run has"):
        train.train(config, run)


BAD_LINES = [
    b"\xff\xfe\n",
    b'{"step": null, "loss": 1}\n',
    b'{"step": "8"}\n',
    b"5\n",
    b"[" * 100_000 + b"\n",
    b'{"step": 6, "images_per_second": 0}\n',
    b'{"step": 6, "images_per_second": "fast"}\n',
    b'{"step": true}\n',
    b'{"step": 1e400}\n',
    b"\n",
    b'{"step": 6',
]


@pytest.mark.parametrize("bad", BAD_LINES, ids=lambda line: repr(line[:20]))
def test_a_damaged_log(tmp_path, bad, caplog):
    good = json.dumps({"step": 10, "images_per_second": 50.0}).encode() + b"\n"
    (tmp_path / "metrics.jsonl").write_bytes(good + bad)
    assert metrics_log.training_seconds(tmp_path, 5) == 1.0
    assert len(caplog.messages) == 1
    caplog.clear()
    metrics_log.truncate(tmp_path, 20)
    text = (tmp_path / "metrics.jsonl").read_bytes()
    assert text.startswith(good)
    # A number that is no rate is still a line of ours.
    assert text == good or b"images_per_second" in bad
    assert len(caplog.messages) <= 1
