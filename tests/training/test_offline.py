"""Sampling from models without conditions, and stopping in the middle of it."""

import json
import os
import signal

import numpy as np
import pytest

from gmm_diffusion import build, evaluation
from gmm_diffusion.errors import InputError
from gmm_diffusion.training import loop, offline, signals


@pytest.fixture(scope="module")
def run(make_config, tmp_path_factory):
    """A model of points without conditions, trained for two steps."""
    config = make_config("toy")
    config.conditioning.kind = "none"
    config.training.num_steps = 2
    config.training.heldout_every = 0
    config.sample.num = 7
    config.evaluation.blocks = 1
    path = tmp_path_factory.mktemp("offline") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "evaluate_and_report", lambda *args: {})
        loop.train(config, path)
    return config, path


def test_points_without_conditions(run):
    config, path = run
    offline.sample(config, path)
    with np.load(path / "samples" / "samples.npz") as file:
        assert file.files == ["x"]
        assert (file["x"].dtype, file["x"].shape) == (np.float32, (7, 2))
    assert (path / "samples" / "samples.png").stat().st_size > 0


@pytest.mark.parametrize("condition", ["3", "component:0"])
def test_a_model_without_conditions_is_asked_for_none(run, condition):
    config, path = run
    config = config.copy_and_resolve_references()
    config.sample.condition = condition
    with pytest.raises(InputError, match="absent: this model has none"):
        offline.sample(config, path)


def test_a_signal_while_sampling_leaves_the_old_samples(run, monkeypatch):
    config, path = run
    offline.sample(config, path)
    before = {p.name: p.read_bytes() for p in (path / "samples").iterdir()}
    original = build.generator

    def interrupted(*args):
        generate = original(*args)

        def signalled(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGTERM)
            return generate(*args, **kwargs)

        return signalled

    monkeypatch.setattr(build, "generator", interrupted)
    for work in (offline.sample, offline.evaluate):
        with pytest.raises(signals.Interrupted):
            work(config, path)
    assert {p.name: p.read_bytes() for p in (path / "samples").iterdir()} == before
    assert not (path / "evaluation.json").exists()


def test_settings_that_cannot_be_evaluated_are_refused_first(run, monkeypatch):
    config, path = run

    def refuse(config, data):
        raise InputError("not like this.")

    monkeypatch.setattr(evaluation, "check", refuse)
    monkeypatch.setattr(build, "generator", None)
    with pytest.raises(InputError, match="not like this"):
        offline.evaluate(config, path)


def test_parallel_sampling_is_reported(make_config, tmp_path, capsys):
    config = make_config("toy")
    config.sample.update(sampler="euler", steps=12, parallel_window=12)
    loop.train(config, tmp_path / "run")
    text = capsys.readouterr().out
    cost = json.loads((tmp_path / "run" / "evaluation.json").read_text())["cost"]
    assert 1 <= cost["rounds"] <= cost["most_rounds"] <= 12
    assert 12 <= cost["evaluations"] <= 12 * cost["rounds"]
    assert cost["sequential_evaluations"] == 12
    assert f"12 steps in {cost['rounds']:.1f} rounds (at most {cost['most_rounds']})" in text
    offline.sample(config, tmp_path / "run")
    assert "12 steps in" in capsys.readouterr().out
