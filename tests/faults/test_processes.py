"""What a user sees when something happens to a run: exit status, one sentence, nothing lost."""

import os
import re
import resource
import signal
import subprocess
import time

import pytest
import runs

from gmm_diffusion.assembly import load as load_lib
from gmm_diffusion.runs import storage


def wait_for(path):
    end = time.monotonic() + 200
    while not path.exists():
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.02)


def test_a_reader_that_leaves(straight, tmp_path):
    read, write = os.pipe()
    os.close(read)
    result = runs.finish(runs.command(tmp_path / "run"), stdout=write, stderr=write)
    os.close(write)
    assert result.returncode == 0
    logged = runs.rows(tmp_path / "run")
    assert [row for row in logged if "output_failed" in row] == [{"step": 2, "output_failed": 1}]
    assert [row for row in logged if "output_failed" not in row] == runs.rows(straight)
    assert runs.newest(tmp_path / "run")[0] == runs.STEPS


def test_standard_error_that_is_closed(tmp_path):
    arguments = ["sh", "-c", '"$@" 2>&- <&-', "sh", *runs.command(tmp_path / "run")]
    result = runs.finish(arguments)
    assert result.returncode == 0
    assert "Trained to step 24" in result.stdout
    assert runs.newest(tmp_path / "run")[0] == runs.STEPS


def test_a_disk_that_takes_no_more(tmp_path):
    workdir = tmp_path / "run"
    process = subprocess.Popen(
        runs.command(workdir, training__num_steps=10**6),
        cwd=runs.REPOSITORY,
        env=runs.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(workdir / "checkpoints" / "8")
    process.send_signal(signal.SIGSTOP)
    # As on a full disk, but for the word: no file can grow over 100 bytes.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100, 100))
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 1
    last = errors.splitlines()[-1]
    assert last.startswith("Failed: ")
    assert "File too large" in last
    assert "Traceback" not in errors
    assert "absl" not in errors
    step, _, _ = runs.newest(workdir)
    assert last.endswith(f"The last checkpoint is that of step {step}.")
    again = runs.finish(runs.command(workdir, training__num_steps=step + 8))
    assert again.returncode == 0, again.stderr
    assert runs.newest(workdir)[0] == step + 8


def test_two_runs_a_stop_a_kill_and_samples_beside(straight, tmp_path):
    workdir = tmp_path / "run"
    # Far more steps than will be done.
    first = subprocess.Popen(
        runs.command(workdir, training__num_steps=10**6),
        cwd=runs.REPOSITORY,
        env=runs.environment(),
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(workdir / "checkpoints" / "8")
        first.send_signal(signal.SIGSTOP)
        second = runs.finish(runs.command(workdir))
        assert second.returncode == 2
        (error,) = second.stderr.splitlines()
        assert f"is in use: process {first.pid} on " in error
        sample = ("--mode=sample", "--config.sample.num=4", "--config.sample.steps=2")
        beside = runs.finish(runs.command(workdir, *sample, training__num_steps=10**6))
        assert beside.returncode == 0, beside.stderr
        assert (workdir / "samples" / "train.npz").exists()
    finally:
        first.kill()
        first.wait()
    reached = max(storage.steps(workdir / "checkpoints"))
    end = reached + 24 - reached % 24
    for directory in (workdir, tmp_path / "straight"):
        result = runs.finish(runs.command(directory, training__num_steps=end))
        assert result.returncode == 0, result.stderr
    (step, state, _), (_, other, _) = (runs.newest(p) for p in (workdir, tmp_path / "straight"))
    assert step == end
    assert all((state[name] == other[name]).all() for name in state)
    assert runs.rows(workdir) == runs.rows(tmp_path / "straight")


def test_a_second_ctrl_c(tmp_path):
    workdir = tmp_path / "run"
    process = subprocess.Popen(
        runs.command(workdir, training__num_steps=10**6, training__steps_per_call=2000),
        cwd=runs.REPOSITORY,
        env=runs.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(workdir / "checkpoints" / "2000")
    process.send_signal(signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "Interrupted at step" in errors or "The last checkpoint is that of step" in errors
    assert not (workdir / "training.lock").exists()


@pytest.mark.parametrize("name", ["a[1] ü*"])
def test_an_odd_place(straight, tmp_path, name):
    """Nowhere to put what is temporary, and what was compiled, either."""
    workdir = tmp_path / name
    missing = ("TMPDIR=/missing", "JAX_COMPILATION_CACHE_DIR=/proc/missing")
    result = runs.finish(["env", *missing, *runs.command(workdir)])
    assert result.returncode == 0, result.stderr
    runs.assert_same(workdir, straight)
    assert load_lib.load_run(workdir).step == runs.STEPS


def test_a_platform_that_is_not_there(straight, tmp_path):
    arguments = ["env", "JAX_PLATFORMS=tpu", *runs.command(straight)]
    before = {p: p.stat().st_mtime_ns for p in straight.rglob("*")}
    result = runs.finish(arguments)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("Error: JAX_PLATFORMS is 'tpu'")
    assert "Traceback" not in result.stderr
    assert {p: p.stat().st_mtime_ns for p in straight.rglob("*")} == before


def test_an_address_space_in_which_nothing_starts(tmp_path):
    # Left alone, OpenBLAS asks for its buffers for ever.
    arguments = ["sh", "-c", 'ulimit -v 819200; exec "$@"', "sh", *runs.command(tmp_path / "run")]
    result = runs.finish(arguments)
    assert result.returncode == 1
    assert re.fullmatch(r"Failed: .*limited to 0\.78 GiB \(ulimit -v\).*\.\n", result.stderr)
    assert not (tmp_path / "run").exists()
