"""Attributes from data to samples and scores, through the command line."""

import json
import pathlib

import numpy as np
import pytest

REPOSITORY = pathlib.Path(__file__).parents[1]
NAMES = ("Smiling", "Eyeglasses", "Bald")
FACES = [
    f"--config={REPOSITORY / 'configs' / 'tiny.py'}",
    "--config.data.name=faces",
    "--config.data.resolution=16",
    "--config.data.num_train=1000",
    "--config.data.num_heldout=50",
    f"--config.data.attributes={NAMES}",
    "--config.data.held_out=('Eyeglasses=1,Bald=1',)",
    "--config.conditioning.kind=attributes",
    "--config.training.num_steps=4",
    "--config.training.heldout_every=0",
    "--config.training.tensorboard=false",
    "--config.sample.steps=2",
    "--config.evaluation.blocks=1",
    "--config.evaluation.judge_epochs=1",
    "--config.evaluation.judge_dir=..",
]


@pytest.fixture(scope="module")
def run(run_main, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("faces") / "run"
    status, out, err = run_main(*FACES, f"--workdir={workdir}")
    assert status == 0, err
    return workdir, out


def test_seen_and_unseen_combinations_are_scored_beside_real_ones(run):
    workdir, out = run
    metrics = json.loads((workdir / "evaluation.json").read_text())["metrics"]
    for name in ("attribute_agreement_50", "unseen_attribute_defects_50"):
        assert name in out
        assert 0 <= metrics[name]["value"] <= 1
    # Classes are combinations here: what is right is told by attributes.
    assert not any(name.startswith("agreement") for name in metrics)
    # A judge of one pass reads some of the real faces right, and one judge serves several runs.
    assert metrics["attribute_agreement_50"]["floor"] > 0.5
    assert (workdir.parent / "judge.npz").exists()
    assert not (workdir / "judge.npz").exists()


@pytest.mark.parametrize("request_text", ["Smiling=1,Bald=0", "Eyeglasses=1,Bald=1"])
def test_samples_are_asked_for_by_attributes(run, run_main, request_text):
    workdir, _ = run
    mode = (f"--workdir={workdir}", "--mode=sample", f"--config.sample.condition={request_text}")
    mode += ("--config.sample.name=samples",)
    status, _, err = run_main(*mode)
    assert status == 0, err
    with np.load(workdir / "samples" / "samples.npz") as made:
        asked = dict(zip(NAMES, made["attributes"].T, strict=True))
        weights = made["weights"]
    for part in request_text.split(","):
        name, value = part.split("=")
        assert (asked[name] == int(value)).all()
        column = 2 * NAMES.index(name) + int(value)
        np.testing.assert_allclose(weights[:, column], 1 / 3, rtol=1e-6)


def test_a_misspelt_attribute_is_refused(run, run_main):
    status, _, err = run_main(
        f"--workdir={run[0]}", "--mode=sample", "--config.sample.condition=Smilng=1"
    )
    assert status == 2
    assert "did you mean Smiling?" in err


def test_a_classifier_reads_attributes(run_main, tmp_path):
    alone = ("--config.training.task=classifier", "--config.classifier.name=mlp")
    status, _, err = run_main(
        *FACES, *alone, "--config.classifier.width=8", f"--workdir={tmp_path / 'run'}"
    )
    assert status == 0, err
    metrics = json.loads((tmp_path / "run" / "evaluation.json").read_text())["metrics"]
    assert 0.2 < metrics["accuracy_50"]["value"] < 1


def test_data_without_attributes_are_refused(run_main, tmp_path):
    status, _, err = run_main(
        FACES[0], "--config.conditioning.kind=attributes", f"--workdir={tmp_path / 'run'}"
    )
    assert status == 2
    assert "digits (validation 0.1 of train, seed 0) has none" in err
    assert not (tmp_path / "run").exists()
