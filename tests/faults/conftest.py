"""The run that nothing happened to."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import runs


@pytest.fixture(scope="session")
def straight(tmp_path_factory):
    """Directory of a run, as a process, from start to end. Copy it before changing it."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    result = runs.finish(runs.command(workdir))
    assert result.returncode == 0, result.stderr
    return workdir
