"""Samples: what a request writes, and that a sample is the same however it is computed."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from gmm_diffusion import assembly, main
from gmm_diffusion import config as config_lib
from gmm_diffusion.commands import sample
from gmm_diffusion.conditioning import requests
from gmm_diffusion.errors import RunError
from gmm_diffusion.evaluation import denoiser as denoiser_evaluation
from gmm_diffusion.evaluation import heldout
from gmm_diffusion.model import model as model_lib
from gmm_diffusion.sampling import settings as settings_lib

# Parameters of a model of the toy data whose every part has an effect, as after training.


@pytest.fixture(scope="module")
def toy(make_config):
    config = make_config("toy")
    config.conditioning.embedding = "draws"
    config.conditioning.num_draws = 8
    data = assembly.dataset(config)
    fitted = assembly.fit_statistics(config, data)
    params = assembly.init_params(config, data.shape, fitted)
    params = jax.tree.map(lambda x: x + 0.1 if x.ndim == 0 else x, params)
    return config, data, fitted, params


def model_of(toy):
    config, data, fitted, params = toy
    return assembly.model(config, data.shape, fitted, params)


def draw(toy, batch_size, num, seed=0, first=0, churn=0.0, condition="train", **sample):
    return drawn(toy, batch_size, num, seed, first, churn, condition, **sample).x


def drawn(toy, batch_size, num, seed=0, first=0, churn=0.0, condition="train", **sample):
    config, data, fitted, params = toy
    config = config.copy_and_resolve_references()
    config.sample.update(sample)
    config.sample.batch_size = batch_size
    config.sample.churn = churn
    weights = requests.weights(fitted.conditioner, condition, first + num, 0).weights[first:]
    return model_of((config, data, fitted, params)).sample(
        num,
        weights,
        seed,
        sampler=assembly.sampler(config),
        steps=config.sample.steps,
        batch_size=batch_size,
        first=first,
    )


def test_a_sample_is_the_same_in_any_batch(toy):
    reference = draw(toy, 16, 16, churn=10.0)
    assert reference.shape == (16, 2)
    for batch_size in (4, 7):
        other = draw(toy, batch_size, 16, churn=10.0)
        assert np.abs(other - reference).max() < 1e-4, batch_size
    np.testing.assert_array_equal(draw(toy, 16, 16, churn=10.0), reference)
    assert np.abs(draw(toy, 16, 16, seed=1, churn=10.0) - reference).min() > 1e-6
    assert np.unique(reference, axis=0).shape == (16, 2)


@pytest.mark.parametrize("sampler", ["heun", "ancestral"])
def test_parallel_sampling_draws_what_the_sampler_draws(toy, sampler):
    settings = {"sampler": sampler, "steps": 10, "churn": 5.0}
    reference = draw(toy, 16, 7, **settings)
    parallel = {"parallel_window": 6, "parallel_tolerance": 0.0}
    ours = drawn(toy, 4, 7, **settings, **parallel)
    np.testing.assert_allclose(ours.x, reference, atol=1e-4)
    info = ours.info
    assert info.rounds.shape == info.evaluations.shape == (7,)
    assert set(info.rounds) <= set(range(2, 11))
    cost = assembly.parallel_cost(model_of(toy), [info, info])
    assert cost["rounds"] == pytest.approx(info.rounds.mean())
    assert (cost["most_rounds"], cost["guide_evaluations"]) == (info.rounds.max(), 0)


def test_devices_that_outnumber_the_samples_share_their_steps(toy, monkeypatch):
    settings = {"sampler": "euler", "steps": 10}
    parallel = {"parallel_window": 6, "parallel_tolerance": 0.0}
    reference = draw(toy, 16, 4, **settings)
    asked = []
    picard = settings_lib.picard
    monkeypatch.setattr(
        settings_lib, "picard", lambda *args, **more: asked.append(more) or picard(*args, **more)
    )
    ours = drawn(toy, 3, 4, **settings, **parallel)
    np.testing.assert_allclose(ours.x, reference, atol=1e-4)
    assert ours.info.rounds.shape == (4,)
    assert [more["axis_name"] for more in asked] == ["devices"]
    draw(toy, 4, 4, **settings, **parallel)
    assert asked[-1]["axis_name"] is None


def test_a_parallel_trajectory_that_is_not_finite_is_named(toy):
    config, data, fitted, params = toy
    broken = jax.tree.map(lambda x: x * np.nan, params)
    with pytest.raises(
        RunError, match=r"Sample 0 is not finite from step 0 of 4 on \(noise level 8"
    ):
        draw((config, data, fitted, broken), 4, 4, parallel_window=3)


def test_a_sample_is_the_same_in_any_set(toy):
    reference = draw(toy, 16, 16, condition="class:1")
    fewer = draw(toy, 16, 5, condition="class:1")
    assert np.abs(fewer - reference[:5]).max() < 1e-4
    later = draw(toy, 16, 4, first=9, condition="class:1")
    assert np.abs(later - reference[9:13]).max() < 1e-4


def test_one_device_draws_what_four_draw(toy, monkeypatch):
    reference = draw(toy, 16, 16, churn=10.0)
    one = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: one)
    assert np.abs(draw(toy, 16, 16, churn=10.0) - reference).max() < 1e-4


def test_the_condition_matters(toy):
    assert np.abs(draw(toy, 16, 16, condition="0") - draw(toy, 16, 16, condition="1")).max() > 1e-2


def test_samples_come_back_in_the_units_of_the_data(toy):
    config, data, fitted, params = toy
    shifted = fitted.replace(transform=fitted.transform.replace(mean=np.float32([5.0, -7.0])))
    there = draw((config, data, shifted, params), 16, 8)
    mean = np.asarray(fitted.transform.mean)
    np.testing.assert_allclose(there - draw(toy, 16, 8), [[5.0, -7.0] - mean] * 8, atol=1e-5)


# The command.


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("generation") / "run"
    shutil.copytree(tiny_run[0], path)
    return path


def one_hot(*labels):
    return np.eye(10, dtype=np.float32)[list(labels)]


REQUESTS = {
    # One component a class, so that the weights of a class are one-hot.
    "train": (one_hot(0, 1, 2, 3, 4, 5), [0, 1, 2, 3, 4, 5]),
    "7": (one_hot(*[7] * 6), [7] * 6),
    "class:3": (one_hot(*[3] * 6), [3] * 6),
    "component:2": (one_hot(*[2] * 6), [2] * 6),
    "0.5*class:3+0.5*class:8": (0.5 * one_hot(*[3] * 6) + 0.5 * one_hot(*[8] * 6), [-1] * 6),
    "0.25*component:1 + 0.75*9": (0.25 * one_hot(*[1] * 6) + 0.75 * one_hot(*[9] * 6), [-1] * 6),
}


@pytest.fixture(scope="module")
def sampled(run_main, run):
    """`(condition, *flags) -> samples.npz` of six samples."""

    def sample(condition, *flags):
        status, out, err = run_main(
            "--mode=sample",
            f"--workdir={run}",
            "--config.sample.num=6",
            f"--config.sample.condition={condition}",
            "--config.sample.name=samples",
            *flags,
        )
        assert status == 0, err
        assert str(run / "samples" / "samples.npz") in out
        with np.load(run / "samples" / "samples.npz") as file:
            return dict(file)

    return sample


@pytest.mark.parametrize("condition", REQUESTS)
def test_what_a_request_writes(sampled, run, condition):
    weights, labels = REQUESTS[condition]
    arrays = sampled(condition)
    assert arrays.keys() == {"x", "weights", "label"}
    assert (arrays["x"].dtype, arrays["x"].shape) == (np.uint8, (6, 8, 8, 1))
    assert arrays["weights"].dtype == np.float32
    np.testing.assert_allclose(arrays["weights"], weights, atol=1e-6)
    np.testing.assert_array_equal(arrays["label"], labels)
    assert Image.open(run / "samples" / "samples.png").size == (3 * 33 + 1, 2 * 33 + 1)
    assert len(np.unique(arrays["x"], axis=0)) == 6


def test_the_command_repeats_itself(sampled):
    first = sampled("train")["x"]
    np.testing.assert_array_equal(sampled("train")["x"], first)
    in_threes = sampled("train", "--config.sample.batch_size=3")["x"].astype(int)
    assert np.abs(in_threes - first).max() <= 1
    assert np.any(sampled("train", "--config.sample.seed=1")["x"] != first)
    assert np.any(sampled("train", "--config.sample.sampler=euler")["x"] != first)
    assert np.any(sampled("train", "--config.sample.step=4")["x"] != first)
    assert np.any(sampled("train", "--config.sample.ema=0")["x"] != first)


def test_a_config_file_gives_settings_of_sampling_and_no_model(run_main, run, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from gmm_diffusion import config as config_lib\n"
        "def get_config():\n"
        "    config = config_lib.default()\n"
        "    config.sample.num, config.sample.condition = 3, '4'\n"
        "    config.sample.steps = 4\n"
        "    config.network.channels = 64\n"
        "    return config\n"
    )
    stored = (run / "config.json").read_text()
    status, _, err = run_main(
        "--mode=sample", f"--config={tmp_path / 'mine.py'}", f"--workdir={run}"
    )
    assert status == 0, err
    with np.load(run / "samples" / "class-4.npz") as file:
        assert file["label"].tolist() == [4, 4, 4]
    assert (run / "config.json").read_text() == stored
    # A flag stands above the file.
    status, _, err = run_main(
        "--mode=sample",
        f"--config={tmp_path / 'mine.py'}",
        f"--workdir={run}",
        "--config.sample.num=2",
    )
    assert status == 0, err
    with np.load(run / "samples" / "class-4.npz") as file:
        assert file["label"].tolist() == [4, 4]


def test_a_run_from_before_components_were_drawn_is_asked_as_it_was(tmp_path):
    """With and without a config file; a flag says otherwise."""
    stored = json.loads(config_lib.default().to_json_best_effort())
    del stored["sample"]["component"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    (tmp_path / "mine.py").write_text(
        "from gmm_diffusion import config as config_lib\nget_config = config_lib.default\n"
    )

    def asked(*arguments):
        arguments = ["main", "--mode=sample", f"--workdir={tmp_path}", *arguments]
        return main.parse(arguments)[2].sample.component

    assert asked() == "literal"
    assert asked(f"--config={tmp_path / 'mine.py'}") == "literal"
    assert asked("--config.sample.component=drawn") == "drawn"


@pytest.mark.parametrize("component", ["drawn", "literal"])
def test_all_that_asks_tells_the_network_what_the_config_says(
    component, make_config, tmp_path, monkeypatch
):
    """Sheets, evaluations and samples of two components a class."""
    config = make_config("toy")
    config.conditioning.semantics = "mixture"
    config.conditioning.num_components = 8
    config.sample.component = component
    data = assembly.dataset(config)
    fitted = assembly.fit_statistics(config, data)
    told = []

    def generate(model, guidance, weights, seed, num, *_):
        told.append(weights)
        return data.heldout.x[:num], None

    params = {"network": {}}
    model = assembly.model(config, data.shape, fitted, params)
    monkeypatch.setattr(model_lib.generation, "generate", generate)
    monkeypatch.setattr(sample.loading, "load", lambda *_: model)
    heldout.make_sheet(config, data, fitted)(params)
    denoiser_evaluation.evaluate(model, data, tmp_path)
    sample.sample(config, tmp_path)
    assert len(told) == 1 + config.evaluation.blocks + 1
    for weights in told:
        assert (weights.max(axis=1) == 1).all() == (component == "drawn")
    with np.load(tmp_path / "samples" / "train.npz") as file:
        np.testing.assert_array_equal(file["weights"], told[-1])


def test_evaluation_repeats_its_numbers(run_main, run):
    before = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").unlink()
    status, out, err = run_main("--mode=evaluate", f"--workdir={run}")
    assert status == 0, err
    assert json.loads((run / "evaluation.json").read_text()) == before
    assert f"{run / 'evaluation.json'}" in out
    status, _, err = run_main(
        "--mode=evaluate", f"--workdir={run}", "--config.evaluation.max_samples=50"
    )
    assert status == 0, err
    other = json.loads((run / "evaluation.json").read_text())
    assert "precision_50" in other["metrics"]
