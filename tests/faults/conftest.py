"""The run that nothing happened to, as a process and within this one."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import jax
import runs

from gmm_diffusion.commands import train


@pytest.fixture(scope="session")
def straight(tmp_path_factory):
    """Directory of a run, as a process, from start to end. Copy it before changing it."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    result = runs.finish(runs.command(workdir))
    assert result.returncode == 0, result.stderr
    return workdir


@pytest.fixture
def config(make_config, monkeypatch):
    present = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: present)
    return runs.configure(make_config("tiny"))


@pytest.fixture
def whole(config, tmp_path):
    """The run of `config` that nothing happened to."""
    train.train(config, tmp_path / "whole")
    return tmp_path / "whole"
