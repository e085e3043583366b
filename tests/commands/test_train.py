"""The training loop: compiled once, stopped by what is not finite, callable from Python."""

import contextlib
import dataclasses
import itertools
import json
import logging
import sys

import jax
import numpy as np
import pytest

from gmm_diffusion import assembly
from gmm_diffusion import config as config_lib
from gmm_diffusion.assembly import load as load_lib
from gmm_diffusion.commands import loop, step_batches, train
from gmm_diffusion.commands.log_window import LogWindow
from gmm_diffusion.commands.training_clock import TrainingClock
from gmm_diffusion.conditioning import KINDS
from gmm_diffusion.data import batches
from gmm_diffusion.errors import InputError, RunError
from gmm_diffusion.evaluation import report as evaluation_report
from gmm_diffusion.runs import snapshots, storage


@pytest.fixture
def config(make_config):
    config = make_config("toy")
    config.conditioning.kind = "none"
    config.training.num_steps = 6
    config.training.steps_per_call = 2
    config.training.log_every = 2
    config.training.heldout_every = 0
    config.checkpoint.every = 2
    return config


@pytest.fixture
def no_evaluation(monkeypatch):
    monkeypatch.setattr(evaluation_report, "evaluate_and_report", lambda *args: {})


def lines(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def stored_params(config, path, step):
    data = assembly.dataset(config)
    stored = storage.restore_fitted_and_meta(path / "checkpoints", step)
    fitted = train.from_arrays(stored.fitted, stored.meta["settings"])
    target = {"params": jax.eval_shape(lambda: assembly.init_params(config, data.shape, fitted))}
    state = storage.restore_step(path / "checkpoints", step, target, partial=True).state
    return jax.tree.leaves(state["params"])


def poisoned(monkeypatch, steps):
    """Puts a NaN into the batches of these steps (from 0)."""
    original = step_batches.source

    def source(parts):
        clean = original(parts)

        def draw(step, num_steps):
            batch = clean(step, num_steps)
            if batch is not None:
                for i in range(len(batch.x)):
                    if step + i in steps:
                        batch.x[i, 0] = np.nan
            return batch

        return draw

    monkeypatch.setattr(step_batches, "source", source)


def test_the_step_is_traced_and_compiled_once(config, tmp_path, monkeypatch, no_evaluation, caplog):
    traces = []
    original = assembly.train_step_fn

    def counting(*args):
        step = original(*args)

        def traced(*args, **kwargs):
            traces.append(1)
            return step(*args, **kwargs)

        return traced

    monkeypatch.setattr(assembly, "train_step_fn", counting)
    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
        train.train(config, tmp_path / "run")
    assert len(traces) == 1
    # The batch of two steps on four devices. Lowering is logged, so the persistent cache of
    # compiled programs hides nothing.
    size = config.training.batch_size // 4
    shape = f"float32[4,2,{size},2]"
    compiled = [m for m in caplog.messages if m.startswith("Compiling") and shape in m]
    assert len(compiled) == 1


def test_each_line_of_metrics_is_the_mean_since_the_last(
    config, tmp_path, monkeypatch, no_evaluation
):
    losses = []
    original = LogWindow.add

    def add(self, metrics):
        losses.extend(float(x) for x in metrics["loss"])
        original(self, metrics)

    monkeypatch.setattr(LogWindow, "add", add)
    config.training.log_every = 4
    config.optimizer.schedule, config.optimizer.warmup_steps = "cosine", 0
    train.train(config, tmp_path / "run")
    rows = lines(tmp_path / "run")
    assert [row["step"] for row in rows] == [4, 6]
    np.testing.assert_allclose(rows[0]["loss"], np.mean(losses[:4]), rtol=1e-5)
    np.testing.assert_allclose(rows[1]["loss"], np.mean(losses[4:]), rtol=1e-5)
    assert {"denoising_loss", "gradient_norm", "nonfinite", "images_per_second"} <= rows[0].keys()
    assert rows[0]["images_per_second"] > 0
    for row in rows:
        examples = row["steps_per_second"] * config.training.batch_size
        assert examples == pytest.approx(row["images_per_second"])
        # Half a cosine from 0.01 to 0 in six updates.
        rate = 0.005 * (1 + np.cos(np.pi * row["step"] / 6))
        for part in ("network", "log_variance"):
            assert row[f"learning_rate/{part}"] == pytest.approx(rate, abs=1e-9)
    if jax.default_backend() == "cpu":
        assert not any("memory" in name for name in rows[0])


def test_the_rate_is_of_training_alone_and_devices_memory_is_logged(
    config, tmp_path, monkeypatch, no_evaluation
):
    """By a clock that moves by 1 whenever it is read, and by 1000 for a checkpoint or snapshot."""
    now = [0.0]

    def monotonic():
        now[0] += 1
        return now[0]

    original = loop._on_host

    def on_host(*args):
        now[0] += 1000
        return original(*args)

    monkeypatch.setattr(loop, "TrainingClock", lambda: TrainingClock(monotonic))
    monkeypatch.setattr(loop, "_on_host", on_host)
    monkeypatch.setattr(train.devices, "memory", lambda: {"bytes_in_use": 5})
    train.train(config, tmp_path / "run")
    rows = lines(tmp_path / "run")
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert now[0] > 5000  # Three checkpoints and two snapshots.
    for row in rows:
        assert row["steps_per_second"] > 2 / 100
        assert row["device_memory/bytes_in_use"] == 5


def test_a_microbatch_that_does_not_divide_a_devices_share_is_refused(config, tmp_path):
    config.training.microbatch = 16
    message = r"training\.microbatch is 16; it must divide the 8 examples that each of the 4"
    with pytest.raises(InputError, match=message):
        train.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_that_is_not_finite_stops_the_run(config, tmp_path, monkeypatch, no_evaluation):
    with monkeypatch.context() as patch:
        poisoned(patch, {3})
        with pytest.raises(RunError, match=r"in 1 updates in a row before step 4; .* allows 0"):
            train.train(config, tmp_path / "run")
    assert storage.steps(tmp_path / "run" / "checkpoints") == [2]
    assert [row["step"] for row in lines(tmp_path / "run")] == [2]
    # With the cause gone, the run is the one that never saw it.
    train.train(config, tmp_path / "run")
    train.train(config, tmp_path / "straight")
    pairs = zip(
        stored_params(config, tmp_path / "run", 6),
        stored_params(config, tmp_path / "straight", 6),
        strict=True,
    )
    assert all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("steps", "stops"), [({1, 3}, False), ({2, 3}, True)])
def test_some_may_be_allowed_but_not_in_a_row(
    config, tmp_path, monkeypatch, no_evaluation, steps, stops
):
    config.training.max_nonfinite = 1
    poisoned(monkeypatch, steps)
    if stops:
        with pytest.raises(RunError, match="in 2 updates in a row"):
            train.train(config, tmp_path / "run")
        return
    train.train(config, tmp_path / "run")
    rows = lines(tmp_path / "run")
    assert [row["nonfinite"] for row in rows] == [1, 2, 2]
    assert [row["loss"] == "NaN" for row in rows] == [True, True, False]
    assert all(np.isfinite(leaf).all() for leaf in stored_params(config, tmp_path / "run", 6))


def test_it_is_a_plain_function(config, tmp_path, monkeypatch):
    # As in a notebook, whose flags are none of ours.
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "/tmp/kernel.json", "--x"])
    config.training.num_steps = 2
    config.evaluation.blocks = 1
    result = train.train(config, str(tmp_path / "run"))
    assert result == json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert result["step"] == 2


def test_another_model_is_refused_before_anything_changes(config, tmp_path, no_evaluation):
    train.train(config, tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    other = config_lib.from_dict(json.loads(config.to_json_best_effort()))
    other.network.width = 16
    with pytest.raises(InputError, match=r"network\.width: 8 -> 16"):
        train.train(other, tmp_path / "run")
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_what_happens_every_so_often():
    def at(every, previous, step, num_steps=100):
        return bool(loop._crossed(every, previous, step, num_steps))

    assert [at(10, s - 4, s) for s in (4, 8, 12, 16, 20)] == [False, False, True, False, True]
    assert at(10, 98, 100)
    assert at(7, 98, 100), "always at the end"
    assert not at(0, 98, 100), "never"
    assert not at(10, -4, 0)


def test_what_is_on_disk_at_the_end(config, tmp_path, no_evaluation):
    """By a run: 7 steps, 2 a call, a checkpoint each 3 of which two stay, a snapshot each 4."""
    config.training.num_steps = 7
    config.checkpoint.every, config.checkpoint.keep, config.checkpoint.snapshot_every = 3, 2, 4
    train.train(config, tmp_path / "run")
    loadable = {0.05: set(), 0.0: set(), 0.2: set()}
    for width, steps in loadable.items():
        for step in range(1, 9):
            with contextlib.suppress(InputError):
                load_lib.load_run(tmp_path / "run", step, width)
                steps.add(step)
    assert loadable[0.0] == {6, 7}
    for width, steps in loadable.items():
        assert {s for s in range(-1, 10) if loop.keeps(config, s, width)} == steps, width


@pytest.mark.parametrize("calls", [1, 2, 3, 5])
@pytest.mark.parametrize("num_steps", [5, 6, 12, 17])
def test_checkpoints_on_disk_at_the_end(config, calls, num_steps):
    """Every interval, beside a loop that counts."""
    config.training.steps_per_call, config.training.num_steps = calls, num_steps
    for every in (1, 2, 3, 4, 7, 20):
        config.checkpoint.every = every
        steps = [*range(0, num_steps, calls), num_steps]
        pairs = itertools.pairwise(steps)
        saved = [s for before, s in pairs if s // every > before // every or s == num_steps]
        for config.checkpoint.keep in (1, 2, 3):
            found = [s for s in range(-1, num_steps + 3) if loop.keeps(config, s, 0.0)]
            assert found == saved[-config.checkpoint.keep :]


def test_a_guide_that_will_not_have_been_kept_is_refused(config, tmp_path, no_evaluation):
    config.guidance.update({"kind": "auto", "scale": 2.0, "guide_step": 3})
    with pytest.raises(InputError, match=r"guidance\.guide_step is 3; a run of 6 steps, 2 a call"):
        train.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    config.guidance.scale = 1.0  # It has no say, and is not loaded.
    train.train(config, tmp_path / "silent")
    config.guidance.scale, config.evaluation.at_end = 2.0, False
    train.train(config, tmp_path / "run")


def test_an_evaluation_at_the_end_is_of_the_step_that_is_asked_for(config, tmp_path, monkeypatch):
    seen = []

    def keep(model, *_):
        seen.append(model)
        return {}

    monkeypatch.setattr(evaluation_report, "evaluate_and_report", keep)
    config.sample.step = 3
    with pytest.raises(InputError, match=r"sample\.step is 3; a run of 6 steps, 2 a call"):
        train.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    config.sample.step = 4
    config.checkpoint.snapshot_every = 2
    train.train(config, tmp_path / "run")
    config.sample.step = 6
    train.train(config, tmp_path / "run")
    assert [model.step for model in seen] == [4, 6]
    for model in seen:
        same(model.params, load_lib.load_run(tmp_path / "run", model.step).params)


def test_a_third_width_is_the_one_that_was_tracked(config, tmp_path, monkeypatch):
    """Through disk: what training tracked, and what two other widths' snapshots give."""
    chosen = []

    def keep(model, *_):
        chosen.append(model.params)
        return {}

    monkeypatch.setattr(evaluation_report, "evaluate_and_report", keep)
    config.training.ema_widths = (0.05, 0.1, 0.15)
    config.training.num_steps = 60
    config.checkpoint.every = 60
    config.checkpoint.snapshot_every = 2
    train.train(config, tmp_path / "run")
    folder = tmp_path / "run" / "snapshots"
    assert snapshots.steps(folder) == list(range(2, 61, 2))
    tracked = load_lib.load_run(tmp_path / "run", ema=0.15).params
    same(load_lib.load_params(folder / "width_0.15_step_60.npz"), tracked)
    for file in folder.glob("width_0.15_*"):
        file.unlink()
    made = snapshots.reconstruct(folder, 60, 0.15)
    assert made.num_snapshots == 60
    raw = load_lib.load_run(tmp_path / "run", ema=0).params

    def distance(a, b):
        leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        return np.sqrt(sum(np.sum((x - y) ** 2) for x, y in leaves))

    assert distance(made.params, tracked) < 0.01 * distance(raw, tracked)
    # The last evaluation of a run takes it from there, too.
    config.sample.ema = 0.12
    train.train(config, tmp_path / "run")
    same(chosen[1], snapshots.reconstruct(folder, 60, 0.12).params)


def test_snapshots_can_be_left_out(config, tmp_path, no_evaluation):
    config.checkpoint.snapshot_every = 0
    train.train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "snapshots").exists()
    config.sample.ema = 0.12
    with pytest.raises(InputError, match="snapshot_every 0 it must be one of 0, "):
        train.train(config, tmp_path / "run")


def same(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


class _Started(BaseException):
    """The first update would come now."""


@pytest.mark.parametrize("kind", ["class", "gmm"])
def test_weights_of_the_training_split_are_made_once(kind, config, tmp_path, monkeypatch):
    config.conditioning.kind = kind
    weighed, batch = [], []
    own = KINDS[kind]

    def weigh(layout, examples):
        weighed.append(len(examples.x))
        return own.weigh(layout, examples)

    def steps(state, upcoming, key):
        batch.append(upcoming)
        raise _Started

    monkeypatch.setitem(KINDS, kind, dataclasses.replace(own, weigh=weigh))
    monkeypatch.setattr(train.devices, "make_train_steps", lambda _: steps)
    with pytest.raises(_Started):
        train.train(config, tmp_path / "run")
    data = assembly.dataset(config)
    assert weighed.count(len(data.train)) == 1
    # They are those that the statistics give.
    index, _ = batches.indices(config.training.seed, 0, config.training.batch_size, len(data.train))
    fitted = assembly.fit_statistics(config, data)
    expected = assembly.split_weights(config, fitted, data.train)[0][index]
    np.testing.assert_array_equal(batch[0].weights[0], expected)
