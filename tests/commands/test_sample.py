"""Sampling from models without conditions, and stopping in the middle of it."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from gmm_diffusion import assembly, paths, signals
from gmm_diffusion.commands import ema, evaluate, sample, train
from gmm_diffusion.errors import InputError, RunError
from gmm_diffusion.evaluation import checks
from gmm_diffusion.evaluation import report as evaluation_report
from gmm_diffusion.runs import storage


@pytest.fixture(scope="module")
def run(make_config, tmp_path_factory):
    """A model of points without conditions, trained for two steps."""
    config = make_config("toy")
    config.conditioning.kind = "none"
    config.training.num_steps = 2
    config.training.heldout_every = 0
    config.sample.num = 7
    config.evaluation.blocks = 1
    path = tmp_path_factory.mktemp("sample") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation_report, "evaluate_and_report", lambda *args: {})
        train.train(config, path)
    return config, path


def test_points_without_conditions(run):
    config, path = run
    sample.sample(config, path)
    with np.load(path / "samples" / "train.npz") as file:
        assert file.files == ["x"]
        assert (file["x"].dtype, file["x"].shape) == (np.float32, (7, 2))
    assert (path / "samples" / "train.png").stat().st_size > 0


@pytest.mark.parametrize("condition", ["3", "component:0"])
def test_a_model_without_conditions_is_asked_for_none(run, condition):
    config, path = run
    config = config.copy_and_resolve_references()
    config.sample.condition = condition
    with pytest.raises(InputError, match="absent: this model has none"):
        sample.sample(config, path)


def test_a_signal_while_sampling_leaves_the_old_samples(run, monkeypatch):
    config, path = run
    sample.sample(config, path)
    before = {p.name: p.read_bytes() for p in (path / "samples").iterdir()}
    original = assembly.sample

    def interrupted(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*args, **kwargs)

    monkeypatch.setattr(assembly, "sample", interrupted)
    for work in (sample.sample, evaluate.evaluate):
        with pytest.raises(signals.Interrupted):
            work(config, path)
    assert {p.name: p.read_bytes() for p in (path / "samples").iterdir()} == before
    assert not (path / "evaluation.json").exists()


def test_settings_that_cannot_be_evaluated_are_refused_first(run, monkeypatch):
    config, path = run

    def refuse(config, data, path):
        raise InputError("not like this.")

    monkeypatch.setattr(checks, "check", refuse)
    monkeypatch.setattr(assembly, "sample", None)
    with pytest.raises(InputError, match="not like this"):
        evaluate.evaluate(config, path)


def test_parallel_sampling_is_reported(make_config, tmp_path, capsys):
    config = make_config("toy")
    config.sample.update(sampler="euler", steps=12, parallel_window=12)
    train.train(config, tmp_path / "run")
    text = capsys.readouterr().out
    cost = json.loads((tmp_path / "run" / "evaluation.json").read_text())["cost"]
    assert 1 <= cost["rounds"] <= cost["most_rounds"] <= 12
    assert 12 <= cost["evaluations"] <= 12 * cost["rounds"]
    assert cost["sequential_evaluations"] == 12
    assert f"12 steps in {cost['rounds']:.1f} rounds (at most {cost['most_rounds']})" in text
    sample.sample(config, tmp_path / "run")
    assert "12 steps in" in capsys.readouterr().out


def never(*_, **__):
    raise AssertionError("sampled before the place was tried")


def full(*_, **__):
    raise OSError(28, "No space left on device")


def test_places_that_cannot_be_written_are_refused_before_sampling(run, monkeypatch, tmp_path):
    config, path = run
    sample.sample(config, path)
    before = {p.name: p.read_bytes() for p in (path / "samples").iterdir()}
    monkeypatch.setattr(assembly, "sample", never)
    monkeypatch.setattr(evaluation_report, "evaluate_and_report", never)
    # As on a disk that is full or read-only, or in the directory of someone else.
    for error in (OSError(28, "full"), OSError(30, "read-only"), PermissionError(13, "not yours")):
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "NamedTemporaryFile", _raising(error))
            for work in (sample.sample, evaluate.evaluate):
                with pytest.raises(RunError, match=f"{path}.* cannot be written: {error.strerror}"):
                    work(config, path)
    assert {p.name: p.read_bytes() for p in (path / "samples").iterdir()} == before

    copy = shutil.copytree(path, tmp_path / "run")
    shutil.rmtree(copy / "samples")
    (copy / "samples").touch()
    with pytest.raises(InputError, match="holds a file samples where a run has a folder"):
        sample.sample(config, copy)
    (copy / "samples").unlink()
    (copy / "evaluation.json").mkdir()
    with pytest.raises(InputError, match=r"holds a folder evaluation\.json"):
        evaluate.evaluate(config, copy)
    (copy / "evaluation.json").rmdir()
    (copy / "samples" / "train.png").mkdir(parents=True)
    with pytest.raises(RunError, match=r"train\.png cannot be written: Is a directory"):
        sample.sample(config, copy)


def _raising(error):
    def act(*_, **__):
        raise error

    return act


def test_nothing_is_overwritten(run, tmp_path, capsys):
    config, path = run
    shutil.copytree(path, tmp_path / "run", ignore=shutil.ignore_patterns("samples"))
    config = config.copy_and_resolve_references()
    for seed in range(3):
        config.sample.seed = seed
        sample.sample(config, tmp_path / "run")
    folder = tmp_path / "run" / "samples"
    x = [np.load(folder / f"train{number}.npz")["x"] for number in ("-1", "-2", "")]
    assert not any(np.array_equal(a, b) for a, b in ((x[0], x[1]), (x[1], x[2]), (x[0], x[2])))
    assert f"are now {folder}/train-2.npz and {folder}/train-2.png" in capsys.readouterr().out
    assert {p.suffix for p in folder.glob("train-*")} == {".npz", ".png"}
    config.sample.name = "mine"
    sample.sample(config, tmp_path / "run")
    np.testing.assert_array_equal(np.load(folder / "mine.npz")["x"], x[2])


@pytest.mark.parametrize(
    ("condition", "guidance", "name"),
    [
        ("class:7", {}, "class-7"),
        ("7", {}, "class-7"),
        ("0.5*class:3 + 0.5*class:8", {}, "0.5-class-3-0.5-class-8"),
        ("Smiling=1,Bald=0", {"kind": "auto", "scale": 2.0}, "Smiling=1-Bald=0_auto-2"),
        ("train", {"energy": 0.3}, "train_energy-0.3"),
        ("train", {"kind": "auto", "scale": 1e6}, "train_auto-1e06"),
        ("train", {"kind": "auto", "scale": 1e-6}, "train_auto-1e-06"),
    ],
)
def test_files_are_named_after_what_was_asked_for(condition, guidance, name, run):
    config = run[0].copy_and_resolve_references()
    config.sample.condition = condition
    config.guidance.update(guidance)
    assert sample.name_of(config) == name
    config.sample.condition = ",".join(f"Attribute_{i}=1" for i in range(99))
    assert len(sample.name_of(config)) < 120


def test_a_disk_that_fills_while_writing_leaves_the_old_samples(run, monkeypatch):
    config, path = run
    sample.sample(config, path)
    before = (path / "samples" / "train.npz").read_bytes()
    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(RunError, match=r"train\.npz cannot be written: No space left"):
        sample.sample(config, path)
    assert (path / "samples" / "train.npz").read_bytes() == before
    config = config.copy_and_resolve_references()
    config.sample.ema = 0.06
    with pytest.raises(RunError, match=r"width_0\.06_step_2\.npz cannot be written: No space left"):
        ema.ema(config, path)
    assert not (path / "ema" / "width_0.06_step_2.npz").exists()


WRITING = """
import pathlib, sys
from gmm_diffusion import paths
from gmm_diffusion.errors import InputError, RunError
try:
    paths.check_writable(pathlib.Path(sys.argv[1]) / "samples" / "train.npz")
except RunError as error:
    print(error)
try:
    paths.folder(pathlib.Path(sys.argv[1]) / "closed" / "run", "--workdir")
except InputError as error:
    print(error)
"""


def test_another_user(tmp_path):
    """The system's own answers, which root alone can ask for on behalf of another."""
    if os.getuid() or shutil.which("setpriv") is None:
        pytest.skip("only root becomes another user; the tests above need nobody")
    parent = pathlib.Path(tempfile.mkdtemp())  # pytest's own directories are closed to others.
    try:
        parent.chmod(0o755)
        (parent / "closed").mkdir(mode=0o700)
        shutil.copytree(pathlib.Path(paths.__file__).parent, parent / "gmm_diffusion")
        done = subprocess.run(
            ["setpriv", "--reuid=54321", "--clear-groups", sys.executable, "-c", WRITING, parent],
            cwd=parent,
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        shutil.rmtree(parent)
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first == f"{parent}/samples/train.npz cannot be written: Permission denied."
    assert "which may not be read (permission denied)" in second


def test_it_imports_neither_scikit_learn_nor_metrics():
    code = (
        "import sys, gmm_diffusion.commands.sample;"
        "slow = {'sklearn', 'scipy.stats', 'tensorflow', 'matplotlib', 'clu',"
        " 'gmm_diffusion.metrics', 'gmm_diffusion.commands.train'};"
        "assert not slow & set(sys.modules), slow & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_checkpoint_is_read_once(run, monkeypatch):
    read = []
    real = storage.read
    monkeypatch.setattr(storage, "read", lambda *where: read.append(where) or real(*where))
    config, path = run
    sample.sample(config, path)
    assert len(read) == 1
