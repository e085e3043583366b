"""A run in a bucket, killed while it saves: the run that nothing happened to, bit for bit."""

import json
import shutil
import subprocess
import threading

import jax
import numpy as np
import pytest
import runs

import gmm_diffusion as gd
from gmm_diffusion import paths
from gmm_diffusion.report import __main__ as report
from gmm_diffusion.runs import lock, storage


@pytest.fixture
def killed(bucket):
    """The directory of a run that was killed before its second checkpoint was whole."""
    service, name = bucket
    workdir, saving = f"gs://{name}/runs/toy", threading.Event()
    started = subprocess.Popen(
        runs.command(workdir, evaluation__at_end=True, sample__steps=2),
        cwd=runs.REPOSITORY,
        env=runs.environment(),
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


def test_a_run_that_is_killed_goes_on(killed, straight, run_main, monkeypatch, tmp_path):
    assert storage.last_complete_step(killed / "checkpoints") == 8
    assert (killed / lock.NAME).exists()
    # What a checkpoint needs of the log was there before it.
    assert {row["step"] for row in runs.rows(killed)} >= {6}
    present = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: present)
    monkeypatch.setattr(lock, "_WATCH_SECONDS", 0.3)
    settings = runs.command(killed, evaluation__at_end=True, sample__steps=2)[3:]
    status, out, err = run_main(*settings)
    assert status == 0, err
    assert f"Resumed {killed} from step 8." in err
    runs.assert_same(killed, straight)
    assert f"  {killed}/evaluation.json\n" in out
    assert not (killed / lock.NAME).exists()

    shutil.copytree(straight, tmp_path / "run")
    drawn = []
    for root in (killed, tmp_path / "run"):
        few = [f"--config.sample.{setting}" for setting in ("num=5", "steps=2", "ema=0.07")]
        status, _, err = run_main(f"--workdir={root}", "--mode=sample", *few)
        assert status == 0, err
        with (root / "samples" / "samples.npz").open("rb") as file:
            drawn.append(np.load(file)["x"])
    np.testing.assert_array_equal(*drawn)
    assert (killed / "samples" / "samples.png").read_bytes().startswith(b"\x89PNG")

    status, _, err = run_main(
        f"--workdir={killed}", "--mode=evaluate", "--config.evaluation.name=again"
    )
    assert status == 0, err
    first, again = (
        json.loads((killed / name).read_text())
        for name in ("evaluation.json", "evaluations/again.json")
    )
    assert first["metrics"] == again["metrics"]
    assert run_main(f"--workdir={killed}", "--mode=ema", "--config.sample.ema=0.07")[0] == 0
    model = gd.load(str(killed))
    there = gd.load(straight)
    jax.tree.map(np.testing.assert_array_equal, model.params, there.params)

    assert report.run([str(killed.parent), "--out", str(killed.parent / "report")]) == 0
    text = (killed.parent / "report" / "report.md").read_text()
    name, metric = next(iter(first["metrics"].items()))
    assert name.rpartition("_")[0] in text
    assert f"{metric['value']:.3f}"[:5] in text
    assert (killed.parent / "report" / f"bars_{name}.png").is_file()
