"""A run in a bucket, killed while it saves: the run that nothing happened to, bit for bit."""

import json
import os
import re
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
import runs

import gmm_diffusion as gd
from gmm_diffusion import paths
from gmm_diffusion.report import __main__ as report
from gmm_diffusion.runs import lock, storage

# One device, of as many as this process has: others would add in another order.
DRIVER = """
import sys, jax
present = jax.local_devices()[:1]
jax.local_devices = lambda: present
from gmm_diffusion import main
sys.exit(main.run(["main", *sys.argv[1:]]))
"""


def command(workdir):
    return runs.command(workdir, evaluation__at_end=True, sample__steps=2)[3:]


@pytest.fixture
def killed(bucket):
    """The directory of a run that was killed before its second checkpoint was whole."""
    service, name = bucket
    workdir, saving = f"gs://{name}/runs/toy", threading.Event()
    started = subprocess.Popen(
        [sys.executable, "-c", DRIVER, *command(workdir)],
        cwd=runs.REPOSITORY,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def kill(bucket, key):
        if key.startswith("runs/toy/checkpoints/16/") and key.endswith("commit_success.txt"):
            started.kill()
            saving.set()

    service.before_put = kill
    try:
        output, _ = started.communicate(timeout=240)
    finally:
        service.before_put = lambda bucket, key: None
    assert saving.is_set(), output
    assert started.returncode == -9
    return paths.of(workdir)


def test_a_run_that_is_killed_goes_on(killed, run_main, monkeypatch, tmp_path):
    assert storage.last_complete_step(killed / "checkpoints") == 8
    assert (killed / lock.NAME).exists()
    # What a checkpoint needs of the log was there before it.
    assert {row["step"] for row in runs.rows(killed)} >= {6}
    present = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: present)
    monkeypatch.setattr(lock, "_WATCH_SECONDS", 0.3)
    straight = tmp_path / "run"
    assert run_main(*command(straight))[0] == 0
    status, out, err = run_main(*command(killed))
    assert status == 0, err
    assert f"Resumed {killed} from step 8." in err
    runs.assert_same(killed, straight)
    assert f"  {killed}/evaluation.json\n" in out
    assert not (killed / lock.NAME).exists()

    drawn = []
    for root in (killed, straight):
        few = [f"--config.sample.{setting}" for setting in ("num=5", "steps=2", "ema=0.07")]
        command_line = [f"--workdir={root}", "--mode=sample", "--config.sample.name=few", *few]
        status, _, err = run_main(*command_line)
        assert status == 0, err
        with (root / "samples" / "few.npz").open("rb") as file:
            drawn.append(np.load(file)["x"])
    np.testing.assert_array_equal(*drawn)
    assert (killed / "samples" / "few.png").read_bytes().startswith(b"\x89PNG")
    assert run_main(*command_line[1:], f"--workdir={killed}", "--config.sample.num=3")[0] == 0
    assert len(np.load((killed / "samples" / "few.npz").open("rb"))["x"]) == 3
    assert len(np.load((killed / "samples" / "few-1.npz").open("rb"))["x"]) == 5

    status, _, err = run_main(
        f"--workdir={killed}", "--mode=evaluate", "--config.evaluation.name=again"
    )
    assert status == 0, err
    first, again, there = (
        json.loads(file.read_text())["metrics"]
        for file in (
            killed / "evaluation.json",
            killed / "evaluations" / "again.json",
            straight / "evaluation.json",
        )
    )
    assert first == again == there
    assert run_main(f"--workdir={killed}", "--mode=ema", "--config.sample.ema=0.07")[0] == 0
    models = [gd.load(root) for root in (str(killed), straight)]
    jax.tree.map(np.testing.assert_array_equal, *(model.params for model in models))

    assert report.run([str(killed.parent), "--out", str(killed.parent / "report")]) == 0
    text = (killed.parent / "report" / "report.md").read_text()
    name, metric = next(iter(first.items()))
    assert float(re.search(r"^\| 1 \| (\S+)", text, re.M)[1]) == pytest.approx(
        metric["value"], rel=1e-3
    )
    assert (killed.parent / "report" / f"bars_{name}.png").is_file()
