"""The guide of autoguidance: what is loaded, what is refused, and what it does to samples."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion.assembly import guides
from gmm_diffusion.assembly import load as load_lib
from gmm_diffusion.commands import evaluate, sample, train
from gmm_diffusion.errors import InputError
from gmm_diffusion.model.guidance import Autoguidance, Calls, ClassifierFree, MixtureGuidance


@pytest.fixture(scope="module")
def runs(make_config, tmp_path_factory):
    """Two runs of the same mixture: the main one, and a narrower one trained for less time."""
    folder = tmp_path_factory.mktemp("guides")
    main = make_config("toy")
    main.conditioning.dropout = 0.2
    main.training.steps_per_call = 4
    main.training.num_steps = 8
    main.checkpoint.every = 4
    main.optimizer.learning_rate = 0.05
    worse = main.copy_and_resolve_references()
    worse.network.width = 4
    worse.training.num_steps = 4
    worse.evaluation.at_end = False
    train.train(main, str(folder / "main"))
    train.train(worse, str(folder / "worse"))
    return main, folder


def guided(config, kind="auto", scale=2.0, **fields):
    config = config.copy_and_resolve_references()
    config.guidance.update({"kind": kind, "scale": scale, **fields})
    return config


def load(config, folder):
    model = load_lib.load_run(folder / "main", config=config)
    return guides.guidance(model, folder / "main")


def test_a_guide_is_another_run_or_an_earlier_step_of_this_one(runs):
    config, folder = runs
    (other,) = load(guided(config, guide=str(folder / "worse")), folder)
    expected = load_lib.load_run(folder / "worse", ema=0.05)
    np.testing.assert_array_equal(
        other.guide.params["network"]["linear_in"]["weight"],
        expected.params["network"]["linear_in"]["weight"],
    )
    (early,) = load(guided(config, guide_step=4, guide_ema=0.1), folder)
    expected = load_lib.load_run(folder / "main", 4, 0.1)
    np.testing.assert_array_equal(
        early.guide.params["network"]["linear_in"]["weight"],
        expected.params["network"]["linear_in"]["weight"],
    )
    assert load(guided(config, guide="nowhere", scale=1.0), folder) == ()


def test_settings_become_values(runs):
    config, folder = runs
    (free,) = load(guided(config, "classifier_free", 2.5, interval=(0.1, 3.0), limit=0.7), folder)
    assert free == ClassifierFree(2.5, (0.1, 3.0), 0.7)
    (blurred,) = load(guided(config, "mixture", blur="weights", blur_amount=0.25), folder)
    assert blurred == MixtureGuidance(2.0, "weights", 0.25, (0.0, 1e9), None)
    # Those of data whose values are thousands are guided, too.
    levels = np.array([0.01, 80.0, 4e5])
    none = Calls(*np.zeros((3, len(levels)), int))
    np.testing.assert_array_equal(blurred.calls(none, levels).guide, 1)
    assert load(guided(config, kind="none"), folder) == ()


def draw(config, folder, num=32):
    model = load_lib.load_run(folder / "main", config=config)
    guidance = guides.guidance(model, folder / "main")
    weights = np.asarray(model.conditioner.bank_weights)[:num]
    return model.sample(num, weights, 0, steps=config.sample.steps, guidance=guidance).x


@pytest.mark.parametrize("kind", ["auto", "classifier_free", "mixture"])
def test_every_kind_changes_samples_and_scale_one_does_not(runs, kind):
    config, folder = runs
    fields = {"guide": str(folder / "worse")} if kind == "auto" else {}
    plain = draw(guided(config, kind="none"), folder)
    one = draw(guided(config, kind, 1.0, **fields), folder)
    np.testing.assert_array_equal(one, plain)
    stronger = draw(guided(config, kind, 3.0, **fields), folder)
    assert np.isfinite(stronger).all()
    assert np.abs(stronger - plain).max() > 1e-3
    nowhere = draw(guided(config, kind, 3.0, interval=(500.0, 600.0), **fields), folder)
    np.testing.assert_allclose(nowhere, plain, atol=1e-4)
    bounded = draw(guided(config, kind, 3.0, limit=1e-6, **fields), folder)
    np.testing.assert_allclose(bounded, plain, atol=1e-3)


def test_a_guide_that_is_the_model_itself_changes_nothing(runs):
    config, folder = runs
    fields = {"guide": str(folder / "main"), "guide_ema": config.sample.ema}
    plain = draw(guided(config, kind="none"), folder)
    np.testing.assert_allclose(draw(guided(config, **fields), folder), plain, atol=1e-4)


def test_blurred_weights_guide(runs):
    config, folder = runs
    fields = {"kind": "mixture", "blur": "weights", "scale": 3.0}
    plain = draw(guided(config, kind="none"), folder)
    assert np.abs(draw(guided(config, blur_amount=0.5, **fields), folder) - plain).max() > 1e-3
    same = draw(guided(config, blur_amount=0.0, **fields), folder)
    np.testing.assert_allclose(same, plain, atol=1e-4)


def test_samples_and_evaluations_are_guided(runs, tmp_path):
    config, folder = runs
    shutil.copytree(folder / "main", tmp_path / "run")
    asked = guided(config, guide=str(folder / "worse"), scale=3.0)
    sample.sample(asked, tmp_path / "run")
    with np.load(tmp_path / "run" / "samples" / "train_auto-3.npz") as file:
        ours = file["x"]
    sample.sample(guided(config, kind="none"), tmp_path / "run")
    with np.load(tmp_path / "run" / "samples" / "train.npz") as file:
        assert np.abs(file["x"] - ours).max() > 1e-3
    asked.evaluation.name = "guided"
    evaluate.evaluate(asked, tmp_path / "run")
    plain = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    scores = json.loads((tmp_path / "run" / "evaluations" / "guided.json").read_text())
    assert scores["settings"]["guidance.scale"] == 3.0
    calls = plain["cost"]["evaluations"]
    assert (scores["cost"]["evaluations"], scores["cost"]["guide_evaluations"]) == (calls, calls)
    assert plain["cost"]["guide_evaluations"] == 0
    assert plain["metrics"] != scores["metrics"]


def other_mixture(run, field, change):
    mix = run.conditioner.mixture
    return run.conditioner.replace(mixture=mix.replace(**{field: change(getattr(mix, field))}))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda run: {"conditioner": None}, "whose conditioning has no mixture"),
        (
            lambda run: {"conditioner": other_mixture(run, "means", lambda v: v + 0.5)},
            "another mixture",
        ),
        (
            lambda run: {"conditioner": other_mixture(run, "variances", lambda v: 2 * v)},
            "another mixture",
        ),
        (
            lambda run: {"conditioner": other_mixture(run, "log_weights", lambda v: v * 2)},
            "another mixture",
        ),
        (
            lambda run: {"conditioner": run.conditioner.replace(base=run.conditioner.base + 0.1)},
            "another mixture",
        ),
        (
            lambda run: {"conditioner": run.conditioner.replace(base=jnp.ones(8))},
            "8 components where this run has 4",
        ),
        (
            lambda run: {"conditioner": run.conditioner.replace(semantics="mixture")},
            "semantics mixture where this run has example",
        ),
        (
            lambda run: {
                "transform": run.fitted.transform.replace(mean=run.fitted.transform.mean + 1)
            },
            "trained on other data",
        ),
    ],
)
def test_a_guide_of_something_else_is_refused(runs, monkeypatch, change, text):
    config, folder = runs
    config = guided(config, guide="elsewhere")
    model = load_lib.load_run(folder / "main", config=config)
    other = dataclasses.replace(model, fitted=model.fitted.replace(**change(model)))
    monkeypatch.setattr(load_lib, "load_run", lambda *arguments: other)
    with pytest.raises(InputError, match=rf"guidance\.guide is .*{text}"):
        guides.guidance(model, folder / "main")
    with pytest.raises(InputError, match=rf"Autoguidance\.guide is .*{text}"):
        model.sample(4, guidance=Autoguidance(other, 2.0))


def test_a_guide_of_another_shape_is_refused(runs, tiny_run):
    config, folder = runs
    with pytest.raises(InputError, match=r"of shape \(8, 8, 1\); it must be of \(2,\)"):
        load(guided(config, guide=str(tiny_run[0])), folder)


def test_missing_guides_are_refused(runs, tmp_path, run_main):
    config, folder = runs
    with pytest.raises(InputError, match="nowhere"):
        load(guided(config, guide=str(tmp_path / "nowhere")), folder)
    with pytest.raises(InputError, match="3"):
        load(guided(config, guide_step=3), folder)
    status, _, err = run_main(
        f"--workdir={folder / 'main'}", "--mode=sample", "--config.guidance.kind=auto"
    )
    assert status == 2
    assert "kind auto needs the workdir of a guide" in err
