"""A trace of one call of the training loop."""

import pathlib

import jax
import pytest

from gmm_diffusion.commands import train
from gmm_diffusion.commands.profile import Profile


@pytest.fixture
def traced(make_config, tmp_path):
    def run(step):
        config = make_config("toy")
        config.conditioning.kind = "none"
        config.training.profile = step
        config.training.heldout_every = 0
        config.evaluation.at_end = False
        train.train(config, tmp_path / "run")
        return list((tmp_path / "run").glob("plugins/profile/*/*.xplane.pb"))

    return run


def test_one_call_is_traced(traced, monkeypatch):
    calls = []
    start = jax.profiler.start_trace
    monkeypatch.setattr(jax.profiler, "start_trace", lambda p: (calls.append(p), start(p)))
    (trace,) = traced(6)
    assert len(calls) == 1
    assert trace.stat().st_size > 1000


def test_the_call_is_that_of_the_update(monkeypatch):
    made = []
    monkeypatch.setattr(jax.profiler, "start_trace", made.append)
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: made.append("stop"))
    profile = Profile(pathlib.Path("x"), 8)
    for step, wanted in ((0, []), (4, ["x", "stop"]), (8, ["x", "stop"])):
        profile.begin(step, 4)
        profile.end()
        assert made == wanted
    none = Profile(pathlib.Path("x"), 0)
    none.begin(0, 4)
    none.end()
    assert made == ["x", "stop"]


def test_a_trace_that_fails_ends_no_run(traced, monkeypatch, caplog):
    def full(*args):
        raise RuntimeError("no space left")

    monkeypatch.setattr(jax.profiler, "start_trace", full)
    assert traced(6) == []
    assert "No trace of step 6: no space left" in caplog.text
