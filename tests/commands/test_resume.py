"""A run that is stopped and goes on is the run that was never stopped, bit for bit."""

import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest

from gmm_diffusion import assembly, signals
from gmm_diffusion.assembly import conditioners
from gmm_diffusion.commands import evaluate, loop, train
from gmm_diffusion.evaluation import report as evaluation_report
from gmm_diffusion.runs import storage
from gmm_diffusion.training import state

STEPS = 4


def stopping_at(monkeypatch, step, signum=signal.SIGTERM):
    """Sends this process a signal once `step` updates are done."""

    class Progress(loop.Progress):
        def update(self, done, loss, examples):
            super().update(done, loss, examples)
            if done == step:
                os.kill(os.getpid(), signum)

    monkeypatch.setattr(loop, "Progress", Progress)


@pytest.fixture
def no_evaluation(monkeypatch):
    monkeypatch.setattr(evaluation_report, "evaluate_and_report", lambda *args: {})


def short(config):
    config.training.num_steps = STEPS
    config.training.steps_per_call = 2
    config.training.log_every = 2
    config.training.heldout_every = 0
    config.checkpoint.every = 100
    config.checkpoint.snapshot_every = 1
    return config


def toy_mixture(make_config):
    config = short(make_config("toy"))
    config.conditioning.dropout = 0.3
    config.network.dropout = 0.2
    # Large enough that the loss's noise is not all that there is to learn.
    config.optimizer.clip_norm = 1.0
    return config


def mirrored_images(make_config):
    config = short(make_config("tiny"))
    config.data.flip = True
    config.conditioning.kind = "class"
    config.training.steps_per_call = 1
    config.network.dropout = 0.1
    return config


def last_state(config, path):
    """Everything in the newest checkpoint."""
    stored = storage.restore_fitted_and_meta(path / "checkpoints")
    data = assembly.dataset(config)
    fitted = train.from_arrays(stored.fitted, stored.meta["settings"])

    def make():
        params = assembly.init_params(config, data.shape, fitted)
        return state.create(params, assembly.optimizer(config), len(config.training.ema_widths))

    target = jax.eval_shape(make)
    return storage.restore_step(path / "checkpoints", stored.step, target), stored


def lines(path):
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("images_per_second", None)
        row.pop("steps_per_second", None)
    return rows


def snapshot_files(path):
    found = {file.name: file.read_bytes() for file in (path / "snapshots").iterdir()}
    assert len(found) >= STEPS  # Two widths, at least every other step.
    return found


def same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.tobytes() == b.tobytes()
        assert (a.dtype, a.shape) == (b.dtype, b.shape)


@pytest.mark.parametrize(
    ("make", "num_devices"), [(toy_mixture, 1), (toy_mixture, 4), (mirrored_images, 4)]
)
def test_two_halves_are_bit_identical_to_the_whole(
    make, num_devices, make_config, tmp_path, monkeypatch, no_evaluation
):
    present = jax.local_devices()[:num_devices]
    monkeypatch.setattr(jax, "local_devices", lambda: present)
    monkeypatch.setattr(jax, "device_count", lambda: num_devices)
    config = make(make_config)
    train.train(config, tmp_path / "whole")

    with monkeypatch.context() as patch:
        stopping_at(patch, 2)
        with pytest.raises(signals.Interrupted):
            train.train(config, tmp_path / "halves")
    assert storage.steps(tmp_path / "halves" / "checkpoints") == [2]
    middle, _ = last_state(config, tmp_path / "halves")
    train.train(config, tmp_path / "halves")

    whole, whole_fitted = last_state(config, tmp_path / "whole")
    halves, halves_fitted = last_state(config, tmp_path / "halves")
    assert whole.step == halves.step == STEPS
    same(halves.state, whole.state)
    same(halves_fitted.fitted, whole_fitted.fitted)
    assert halves_fitted.meta["settings"] == whole_fitted.meta["settings"]
    moved = jax.tree.map(lambda a, b: np.any(a != b), middle.state.params, halves.state.params)
    # A resumed run that learns nothing would be like the whole if that learned nothing, either.
    assert np.mean(jax.tree.leaves(moved["network"])) > 0.9
    assert lines(tmp_path / "halves") == lines(tmp_path / "whole")
    assert snapshot_files(tmp_path / "halves") == snapshot_files(tmp_path / "whole")
    steps = [row["step"] for row in lines(tmp_path / "halves")]
    assert steps == sorted(set(steps))


def test_statistics_are_never_refitted(make_config, tmp_path, monkeypatch, no_evaluation):
    config = toy_mixture(make_config)
    stopping_at(monkeypatch, 2)
    with pytest.raises(signals.Interrupted):
        train.train(config, tmp_path / "run")
    monkeypatch.setattr(conditioners, "fit_with_weights", None)
    train.train(config, tmp_path / "run")
    assert storage.steps(tmp_path / "run" / "checkpoints") == [2, 4]


def unconditional(make_config):
    config = short(make_config("toy"))
    config.conditioning.kind = "none"
    config.sample.num = 8
    config.evaluation.blocks = 1
    return config


def test_a_signal_before_training_ends_the_fit_at_once(make_config, tmp_path, monkeypatch):
    config, ended = unconditional(make_config), []

    def work(*args):
        ended.append(args)

    def signalled(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return work(*args)

    # While data are read, and while conditions are fitted to them.
    for place, name in (
        (train.assembly, "dataset"),
        (train.initialisation, "fit_with_weights"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, signalled)
            with pytest.raises(signals.Interrupted):
                train.train(config, tmp_path / "run")
        assert not ended
        assert not (tmp_path / "run" / "config.json").exists()


def test_a_run_stopped_before_its_first_checkpoint_starts_again(
    make_config, tmp_path, monkeypatch, no_evaluation
):
    config = unconditional(make_config)
    with monkeypatch.context() as patch:
        patch.setattr(train, "_prepare", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train.train(config, tmp_path / "run")
    assert (tmp_path / "run" / "config.json").exists()
    train.train(config, tmp_path / "run")
    train.train(config, tmp_path / "straight")
    same(
        last_state(config, tmp_path / "run")[0].state,
        last_state(config, tmp_path / "straight")[0].state,
    )


def damage(path):
    largest = max((path / "state").rglob("d/*"), key=lambda p: p.stat().st_size)
    octets = bytearray(largest.read_bytes())
    octets[len(octets) // 2] ^= 0xFF
    largest.write_bytes(octets)


def test_a_damaged_newest_checkpoint_costs_only_its_steps(
    make_config, tmp_path, no_evaluation, caplog
):
    config = unconditional(make_config)
    config.checkpoint.every = 2
    train.train(config, tmp_path / "run")
    intact, _ = last_state(config, tmp_path / "run")
    before = lines(tmp_path / "run")
    snapshots_before = snapshot_files(tmp_path / "run")
    # Of a future that the run does not have.
    (tmp_path / "run" / "snapshots" / "width_0.05_step_3.npz").write_bytes(b"")
    damage(tmp_path / "run" / "checkpoints" / "4")
    caplog.clear()
    train.train(config, tmp_path / "run")
    assert "Skipping checkpoint 4" in caplog.text
    again, _ = last_state(config, tmp_path / "run")
    assert again.step == 4
    same(again.state, intact.state)
    assert lines(tmp_path / "run") == before
    assert snapshot_files(tmp_path / "run") == snapshots_before


def test_a_longer_run_goes_on_from_a_finished_one(make_config, tmp_path, no_evaluation):
    config = unconditional(make_config)
    config.optimizer.warmup_steps = 1
    train.train(config, tmp_path / "run")
    config.training.num_steps = 6
    train.train(config, tmp_path / "run")
    assert storage.steps(tmp_path / "run" / "checkpoints") == [4, 6]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["training"]["num_steps"] == 6
    # Fewer than are done: nothing to do.
    config.training.num_steps = 4
    train.train(config, tmp_path / "run")
    assert storage.steps(tmp_path / "run" / "checkpoints") == [4, 6]
    config.training.num_steps = 6
    train.train(config, tmp_path / "straight")
    same(
        last_state(config, tmp_path / "run")[0].state,
        last_state(config, tmp_path / "straight")[0].state,
    )


def test_a_signal_at_the_sheet_delays_it(make_config, tmp_path, monkeypatch, no_evaluation):
    config = unconditional(make_config)
    config.training.heldout_every = 2
    with monkeypatch.context() as patch:
        # Arrives when the updates are done and before the sheet of their step.
        stopping_at(patch, STEPS)
        with pytest.raises(signals.Interrupted):
            train.train(config, tmp_path / "run")
    sheets = tmp_path / "run" / "samples"
    assert [p.name for p in sheets.iterdir()] == ["step_2.png"]
    train.train(config, tmp_path / "run")
    assert sorted(p.name for p in sheets.iterdir()) == ["step_2.png", "step_4.png"]
    heldout = [row["step"] for row in lines(tmp_path / "run") if "heldout_loss/mean" in row]
    assert heldout == [2, 4]
    drawn = (sheets / "step_4.png").stat().st_mtime_ns
    train.train(config, tmp_path / "run")
    assert (sheets / "step_4.png").stat().st_mtime_ns == drawn


def test_a_signal_during_the_evaluation_loses_no_training(make_config, tmp_path, monkeypatch):
    config = unconditional(make_config)
    original = assembly.sample

    def interrupted(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(assembly, "sample", interrupted)
        with pytest.raises(signals.Interrupted) as caught:
            train.train(config, tmp_path / "run")
    assert caught.value.exit_status == 143
    assert storage.steps(tmp_path / "run" / "checkpoints") == [STEPS]
    assert not (tmp_path / "run" / "evaluation.json").exists()
    monkeypatch.setattr(train.devices, "make_train_steps", None)
    result = train.train(config, tmp_path / "run")
    assert result["step"] == STEPS
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text()) == result


def test_an_evaluation_stopped_half_way_ends_as_the_whole(make_config, tmp_path, monkeypatch):
    config = unconditional(make_config)
    config.evaluation.blocks, config.sample.batch_size = 2, 20  # Each of five portions.
    whole = train.train(config, tmp_path / "run")
    folder = tmp_path / "run" / "evaluation.partial"
    assert not folder.exists()
    calls, stops, original = [], [True], assembly.sample

    def interrupted(*args, **kwargs):
        calls.append(args)
        if stops and len(calls) == 8:  # In the second block.
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args, **kwargs)

    monkeypatch.setattr(assembly, "sample", interrupted)
    (tmp_path / "run" / "evaluation.json").unlink()
    with pytest.raises(signals.Interrupted):
        evaluate.evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run" / "evaluation.json").exists()
    stops.clear()
    kept = sorted(folder.iterdir())
    assert len(kept) == 7
    # One of them is damaged, and drawn again.
    kept[0].write_bytes(kept[0].read_bytes()[:-200])
    shutil.copytree(folder, tmp_path / "kept")
    assert evaluate.evaluate(config, tmp_path / "run") == whole
    assert len(calls) == 8 + 10 - (7 - 1)
    assert not folder.exists()
    # With another sampler none of them is taken.
    shutil.copytree(tmp_path / "kept", folder)
    calls.clear()
    config.sample.steps = 3
    assert evaluate.evaluate(config, tmp_path / "run")["metrics"] != whole["metrics"]
    assert len(calls) == 10
