"""A run that an earlier version wrote loads, samples as it did then, and goes on as it did then."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest

from gmm_diffusion import assembly
from gmm_diffusion.assembly import load as load_lib
from gmm_diffusion.commands import train
from gmm_diffusion.runs import snapshots, workdir

FIXTURE = pathlib.Path(__file__).parent / "fixtures" / "earlier_run"


@pytest.fixture
def run_dir(tmp_path):
    path = tmp_path / "run"
    shutil.copytree(FIXTURE, path)
    return path


def test_it_samples_what_it_sampled_then(run_dir):
    run = load_lib.load_run(run_dir)
    assert run.step == 100
    then = np.load(run_dir / "samples.npz")
    drawn = assembly.sample(run, len(then["x"]), "train", 0)
    np.testing.assert_array_equal(drawn.weights, then["weights"])
    # Pixels of about 1 after 11 calls in float32, whose sums other processors and versions of the
    # compiler add in another order: some 1e-6 a call. Any change of what is computed shows.
    np.testing.assert_allclose(drawn.x, then["x"], atol=1e-4)
    # The network does something, so the comparison means something.
    silent = run.params | {"network": run.params["network"] | {"out_gain": np.float32(0)}}
    other = assembly.sample(dataclasses.replace(run, params=silent), len(then["x"]), "train", 0)
    assert np.abs(other.x - then["x"]).max() > 0.1


def test_its_snapshot_is_its_average(run_dir):
    made = snapshots.reconstruct(run_dir / "snapshots", None, 0.05)
    stored = load_lib.load_run(run_dir, ema=0.05).params
    assert made.step == 100
    for part, name in (("network", "out_gain"), ("log_variance", "gain")):
        assert made.params[part][name] == stored[part][name]


def test_it_goes_on_as_it_did_then(run_dir):
    config = workdir.read_config(run_dir)
    config.training.num_steps = 104
    train.train(config, run_dir)
    now = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
    then = json.loads((run_dir / "resumed.jsonl").read_text())
    # Later versions log more.
    assert then.keys() < now.keys()
    for name in then.keys() - {"images_per_second"}:
        # Rounding, as above, through four updates.
        assert now[name] == pytest.approx(then[name], rel=1e-3), name
