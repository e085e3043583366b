"""The face of the package: lazy, whole, and enough to train a model without a config."""

import dataclasses
import inspect
import json
import subprocess
import sys

import numpy as np
import pytest

import gmm_diffusion as gd
from gmm_diffusion import assembly
from gmm_diffusion import config as config_lib
from gmm_diffusion.commands import fit as fit_lib
from gmm_diffusion.conditioning.settings import KINDS
from gmm_diffusion.errors import InputError
from gmm_diffusion.evaluation import checks


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, gmm_diffusion as gd;"
        "heavy = {'jax', 'numpy', 'flax', 'optax', 'tensorflow', 'ml_collections'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "assert {'load', 'fit', 'Model', 'Autoguidance'} <= set(dir(gd));"
        "gd.Autoguidance;"
        "assert 'jax' in sys.modules and 'orbax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_every_name_of_the_face_is_there():
    for name in gd.__all__:
        assert getattr(gd, name) is not None, name
    assert set(gd.__all__) == set(gd._FACE)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        gd.nothing  # noqa: B018


def test_parts_have_the_fields_and_defaults_of_the_config():
    config = config_lib.default()
    for kind in KINDS:
        for field in dataclasses.fields(kind):
            assert config.conditioning[field.name] == field.default, (kind, field.name)
    for kind in (gd.networks.UNetSettings, gd.networks.MLPSettings):
        for field in dataclasses.fields(kind):
            assert config.network[field.name] == field.default, (kind, field.name)
    check, _ = config_lib.RULES["conditioning.kind"]
    assert all(map(check, KINDS.values()))
    assert assembly.sampler(config) == gd.SamplerSettings()


def test_functions_have_the_defaults_of_the_config():
    config = config_lib.default()
    wanted = {
        gd.fit: {
            "steps": config.training.num_steps,
            "batch_size": config.training.batch_size,
            "learning_rate": config.optimizer.learning_rate,
            "seed": config.training.seed,
            "flip": config.data.flip,
        },
        gd.Model.sample: {
            "condition": config.sample.condition,
            "seed": config.sample.seed,
            "sampler": config.sample.sampler,
            "steps": config.sample.steps,
            "batch_size": config.sample.batch_size,
        },
    }
    for function, defaults in wanted.items():
        parameters = inspect.signature(function).parameters
        assert {name: parameters[name].default for name in defaults} == defaults, function


SMALL = {"steps": 4, "batch_size": 16, "network": gd.networks.MLPSettings(8)}


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1, 2], 100)
    x = rng.normal(size=(300, 2)) + 4.0 * np.stack([label, label == 1], axis=1)
    return gd.data.from_arrays(x, label)


def test_a_model_of_arrays_learns_and_is_asked(vectors):
    fitted = gd.conditioning.Fitted(3, feature_dim=2)
    settings = {"network": gd.networks.MLPSettings(32), "batch_size": 64, "learning_rate": 0.02}
    model = gd.fit(vectors, conditioning=fitted, steps=150, **settings)
    assert (model.step, model.shape) == (150, (2,))
    for label, center in ((0, (0, 0)), (1, (4, 4)), (2, (8, 0))):
        x = model.sample(64, f"class:{label}").x
        np.testing.assert_allclose(x.mean(axis=0), center, atol=1)
        # As wide as the data of one class, and not of all.
        assert (x.std(axis=0) < 2).all()
    scores = gd.evaluate(model, vectors)
    assert scores["condition"] == "train"
    assert scores["metrics"]


def test_a_run_that_is_kept_goes_on(vectors, tmp_path):
    made = gd.fit(vectors, conditioning=gd.conditioning.Classes(), workdir=tmp_path / "a", **SMALL)
    again = gd.load(tmp_path / "a")
    np.testing.assert_array_equal(made.sample(4, steps=2).x, again.sample(4, steps=2).x)
    longer = SMALL | {"steps": 8}
    more = gd.fit(vectors, conditioning=gd.conditioning.Classes(), workdir=tmp_path / "a", **longer)
    assert (made.step, more.step) == (4, 8)
    lines = (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 8
    # The same parts in memory are the same model.
    memory = gd.fit(vectors, conditioning=gd.conditioning.Classes(), **SMALL)
    np.testing.assert_array_equal(memory.sample(4, steps=2).x, made.sample(4, steps=2).x)
    other = gd.data.from_arrays(vectors.train.x + 1, vectors.train.label)
    with pytest.raises(InputError, match="began with other data"):
        gd.fit(other, conditioning=gd.conditioning.Classes(), workdir=tmp_path / "a", **longer)
    with pytest.raises(InputError, match=r"data\.data_dir is empty, and arrays that were given"):
        assembly.dataset(made.config)


def test_the_law_of_noise_follows_the_data(vectors, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(fit_lib, "_fit", lambda config, *_: asked.append(config.diffusion.law))
    gd.fit(vectors)
    gd.fit(gd.data.from_arrays(np.zeros((20, 4, 4, 1), np.uint8)))
    gd.fit(vectors, law="given")
    # A run of an earlier version goes on as it was.
    (tmp_path / "config.json").write_text(config_lib.default().to_json_best_effort())
    gd.fit(vectors, workdir=tmp_path)
    assert asked == ["auto", "given", "given", "given"]


def test_parts_that_do_not_fit_are_refused(vectors):
    with pytest.raises(InputError, match=r"network\.name is 'unet'; data of shape \(2,\) need mlp"):
        gd.fit(vectors, network=gd.networks.UNetSettings(8), steps=2)
    with pytest.raises(InputError, match="'attributes' needs attributes"):
        gd.fit(vectors, conditioning=gd.conditioning.Attributes(), **SMALL)
    with pytest.raises(InputError, match=r"network\.width is 0"):
        gd.fit(vectors, network=gd.networks.MLPSettings(0), steps=2)
    with pytest.raises(InputError, match=r"data\.name is 'digits'; data that are given"):
        assembly.dataset(config_lib.default(), vectors)
    with pytest.raises(InputError, match="only images can be mirrored"):
        gd.fit(vectors, flip=True, **SMALL)


def test_the_usual_condition_follows_the_data(vectors):
    assert fit_lib._usual_conditioning(vectors) == gd.conditioning.Fitted(24, feature_dim=2)
    few = gd.data.from_arrays(np.zeros((5, 3)))
    assert fit_lib._usual_conditioning(few) == gd.conditioning.Unconditional()
    plain = gd.data.from_arrays(np.zeros((1000, 3)))
    expected = gd.conditioning.Fitted(40, per_class=False, feature_dim=3)
    assert fit_lib._usual_conditioning(plain) == expected


@pytest.mark.parametrize("num", [8, 14, 20])
def test_few_images_are_enough(num, monkeypatch):
    rng = np.random.default_rng(0)
    data = gd.data.from_arrays(rng.integers(0, 256, (num, 8, 8, 1), dtype=np.uint8))
    asked = []
    monkeypatch.setattr(fit_lib, "_fit", lambda config, *_: asked.append(config))
    gd.fit(data, steps=1, batch_size=4)
    checks.check(asked[0], data)
    assert (assembly.fit_statistics(asked[0], data).conditioner is None) == (num < 13)


def test_arrays_become_a_dataset():
    x = np.arange(80, dtype=np.uint8).reshape(20, 2, 2, 1)
    data = gd.data.from_arrays(x, np.arange(20) % 2, heldout_fraction=0.25, seed=1)
    assert (len(data.train), len(data.heldout), data.num_classes) == (15, 5, 2)
    both = np.concatenate([data.train.x, data.heldout.x])
    assert sorted(both[:, 0, 0, 0]) == list(range(0, 80, 4))
    np.testing.assert_array_equal(data.train.x[:, 0, 0, 0] // 4 % 2, data.train.label)
    assert gd.data.from_arrays(np.ones((10, 2))).train.x.dtype == np.float32
    for arguments, text in (
        ((x.astype(np.int32),), "valid are uint8 images"),
        ((np.full((10, 2), np.nan),), "not finite"),
        ((x, np.arange(20) - 1), "integers from 0"),
        ((x, np.arange(20) / 2), "integers from 0"),
        ((x, np.arange(19)), "labels have shape"),
    ):
        with pytest.raises(InputError, match=text):
            gd.data.from_arrays(*arguments)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 2.5}, "steps is 2.5; it must be a whole number"),
        (
            {"conditioning": "gmm"},
            "conditioning is 'gmm'; it must be one of Unconditional",
        ),
        ({"network": "mlp"}, "network is 'mlp'; it must be one of UNetSettings, MLPSettings"),
        ({"workdir": ""}, "workdir is empty"),
    ],
)
def test_parts_that_are_none_are_refused(wrong, message, vectors):
    with pytest.raises(InputError, match=message):
        gd.fit(vectors, **wrong)
