"""A run whose images stay in files is the run that holds them in memory, bit for bit."""

import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from gmm_diffusion import assembly, devices
from gmm_diffusion.assembly import initialisation
from gmm_diffusion.assembly import load as load_lib
from gmm_diffusion.commands import step_batches, train
from gmm_diffusion.commands.parts import Parts
from gmm_diffusion.data import dataset
from gmm_diffusion.errors import InputError
from gmm_diffusion.evaluation.images import ImageScores
from gmm_diffusion.runs import data_fingerprint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Grey images of five classes, 40 of each; those of a class are alike."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("images")
    for label in range(5):
        (root / str(label)).mkdir()
        pattern = rng.integers(0, 200, (8, 8))
        for i in range(40):
            image = (pattern + rng.integers(0, 56, (8, 8))).astype(np.uint8)
            Image.fromarray(image).save(root / str(label) / f"{i:02}.png")
    return root


@pytest.fixture
def config(make_config, folder):
    config = make_config("tiny")
    config.data.name, config.data.data_dir = "image_folder", str(folder)
    config.data.flip = True
    config.training.num_steps = 8
    config.training.heldout_every = 0
    config.evaluation.at_end = False
    return config


def test_a_streamed_run_that_resumes_is_the_run_in_memory(config, tmp_path):
    for choice, stops in (("always", (8,)), ("never", (4, 8))):
        config.data.in_memory = choice
        for config.training.num_steps in stops:
            train.train(config, str(tmp_path / choice))
    held, streamed = (
        load_lib.load_run(tmp_path / choice, ema=0.0) for choice in ("always", "never")
    )
    assert held.step == streamed.step == 8
    for ours, theirs in zip(*map(jax.tree.leaves, (streamed.params, held.params)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(*map(jax.tree.leaves, (streamed.fitted, held.fitted)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_scores_are_those_of_data_in_memory(config):
    scores = []
    for choice in ("always", "never"):
        config.data.in_memory = choice
        data = assembly.dataset(config)
        real = data.heldout.read(slice(0, 20))
        made = ImageScores(config, data, (), real.x)
        scores.append((made.features, made(real.x, None), made.coverage_ceiling(20)))
    assert scores[1] == scores[0]


def test_two_shares_are_the_batch_of_one_process(config, monkeypatch, tmp_path):
    config.data.in_memory = "never"
    data = assembly.dataset(config)
    fitted, weights = initialisation.fit_with_weights(config, data)
    parts = Parts(config, tmp_path, data, fitted, weights)

    def drawn(own):
        monkeypatch.setattr(devices, "own", lambda size: own)
        source = step_batches.source(parts)
        return [source(step, 8) for step in (0, 4)]

    whole = drawn(slice(None))
    shares = [drawn(slice(0, 12)), drawn(slice(12, None))]
    for both, batch in zip(zip(*shares, strict=True), whole, strict=True):
        joined = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *both)
        jax.tree.map(np.testing.assert_array_equal, joined, batch)


def test_more_than_a_sample_is_fitted_to_it(config, monkeypatch):
    config.data.in_memory = "always"
    held = assembly.dataset(config)
    config.data.in_memory = "never"
    monkeypatch.setattr(dataset, "_SAMPLE_BYTES", 50 * 64)
    data = assembly.dataset(config)
    fitted = assembly.fit_statistics(config, data)
    few = held.train.x[dataset.evenly_spaced(len(held.train), 50)].astype(np.float64)
    mean = (few / 127.5 - 1).mean()
    np.testing.assert_allclose(np.asarray(fitted.transform.mean), mean, atol=1e-6)
    # The mixture sees all, and every example has its weights.
    assert assembly.split_weights(config, fitted, data.train).shape == (2, len(held.train), 10)


def test_data_that_changed_are_refused(config, folder, tmp_path, caplog):
    copy = shutil.copytree(folder, tmp_path / "images")
    config.data.data_dir = str(copy)
    for choice in ("always", "never"):
        config.data.in_memory = choice
        run = tmp_path / choice
        run.mkdir()
        data_fingerprint.keep(config, assembly.dataset(config), run)
    # They wait in another place, and are the same.
    data_fingerprint.check(config, assembly.dataset(config), tmp_path / "always")
    assert "byte for byte" not in caplog.text
    image = copy / "0" / "00.png"
    Image.fromarray(np.asarray(Image.open(image)) ^ 1).save(image)
    data_fingerprint.check(config, assembly.dataset(config), tmp_path / "never")
    assert "byte for byte" in caplog.text
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(image)
    for choice in ("always", "never"):
        with pytest.raises(InputError, match=r"1 of \d+ examples compared in .* are others"):
            data_fingerprint.check(config, assembly.dataset(config), tmp_path / choice)
    image.unlink()
    with pytest.raises(InputError, match="examples where it had"):
        data_fingerprint.check(config, assembly.dataset(config), tmp_path / "never")
