"""The classifier in a run: off without a trace, beside the denoiser, frozen, or trained alone."""

import dataclasses
import importlib.util
import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion import assembly, devices, signals
from gmm_diffusion.assembly import initialisation
from gmm_diffusion.assembly import load as load_lib
from gmm_diffusion.commands import loop, sample, train
from gmm_diffusion.data import Split, batches, to_float
from gmm_diffusion.data.dataset import evenly_spaced
from gmm_diffusion.errors import InputError
from gmm_diffusion.evaluation import classifier as classifier_evaluation
from gmm_diffusion.evaluation import judge as judge_lib
from gmm_diffusion.evaluation import report as evaluation_report
from gmm_diffusion.metrics import features
from gmm_diffusion.metrics import judge as judges
from gmm_diffusion.model.fitted import FittedStatistics
from gmm_diffusion.model.guidance import ClassifierGuidance
from gmm_diffusion.model.model import Model
from gmm_diffusion.runs import storage
from gmm_diffusion.sampling import samplers
from gmm_diffusion.sampling.settings import SamplerSettings
from gmm_diffusion.training import state as state_lib
from gmm_diffusion.types import Batch

STEPS = 4


@pytest.fixture
def no_evaluation(monkeypatch):
    monkeypatch.setattr(evaluation_report, "evaluate_and_report", lambda *args: {})


def toy(make_config, **changes):
    config = make_config("toy")
    config.training.num_steps = STEPS
    config.training.steps_per_call = 2
    config.training.log_every = 2
    config.training.heldout_every = 0
    config.checkpoint.every = 100
    config.classifier.name = "mlp"
    config.classifier.width = 8
    config.classifier.embedding_dim = 8
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def alone(make_config, **changes):
    return toy(make_config, training__task="classifier", **changes)


def same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def near(left, right, tolerance=1e-6):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)


def steps(config, fitted=None, num_devices=1):
    """State and metrics after three steps."""
    data = assembly.dataset(config)
    fitted = assembly.fit_statistics(config, data) if fitted is None else fitted
    params = assembly.init_params(config, data.shape, fitted)
    widths = config.training.ema_widths
    state = state_lib.create(params, assembly.optimizer(config), len(widths))
    weights = assembly.split_weights(config, fitted, data.train)[0]
    batch = Batch(
        x=np.stack([to_float(data.train.x[16 * i : 16 * i + 16]) for i in range(3)]),
        index=np.tile(np.arange(16, dtype=np.int32), (3, 1)),
        mask=np.ones((3, 16), np.float32),
        weights=np.stack([weights[16 * i : 16 * i + 16] for i in range(3)]),
    )
    run = devices.make_train_steps(assembly.train_step_fn(config, fitted), num_devices)
    state, metrics = run(devices.replicate(state, num_devices), batch, jax.random.key(3))
    return devices.unreplicate(state), jax.device_get(metrics)


def newest(config, path):
    """Everything in the newest checkpoint."""
    data = assembly.dataset(config)
    stored = storage.restore_fitted_and_meta(path / "checkpoints")
    fitted = train.from_arrays(stored.fitted, stored.meta["settings"])

    def make():
        params = assembly.init_params(config, data.shape, fitted)
        return state_lib.create(params, assembly.optimizer(config), len(config.training.ema_widths))

    restored = storage.restore_step(path / "checkpoints", stored.step, jax.eval_shape(make))
    return restored.state, stored.fitted


@pytest.fixture(scope="module")
def plain(make_config):
    return steps(toy(make_config))


def test_weight_zero_leaves_no_trace(make_config, plain):
    state, metrics = steps(
        toy(
            make_config,
            ngmg__workdir="nowhere",
            ngmg__teach_denoiser=False,
            classifier__loss="cross_entropy",
            classifier__learning_rate=3.0,
        )
    )
    assert set(state.params) == {"network", "log_variance"}
    same((state, metrics), plain)


@pytest.fixture(scope="module")
def beside(make_config):
    return steps(toy(make_config, ngmg__weight=1.0))


def test_the_term_changes_what_is_learned_and_no_random_number(beside, plain):
    state, metrics = beside
    assert set(state.params) == {"network", "log_variance", "classifier"}
    assert set(state.opt_state) == set(state.params)
    # The first losses are of equal networks under equal noise.
    assert metrics["denoising_loss"][0] == pytest.approx(plain[1]["denoising_loss"][0], rel=1e-6)
    moved = [
        np.abs(a - b).max()
        for part in ("network", "log_variance")
        for a, b in zip(
            jax.tree.leaves(state.params[part]), jax.tree.leaves(plain[0].params[part]), strict=True
        )
    ]
    assert max(moved) > 1e-4
    assert np.all(metrics["classifier_gradient_norm"] > 0)
    assert np.all(metrics["classifier_gradient_norm"] < metrics["gradient_norm"])
    assert "classifier_gradient_norm" not in plain[1]


def test_a_term_that_teaches_no_denoiser_leaves_it_as_it_is(make_config, plain):
    config = toy(make_config, ngmg__weight=1.0, ngmg__teach_denoiser=False)
    state, metrics = steps(config)
    for part in ("network", "log_variance"):
        near(state.params[part], plain[0].params[part])
    np.testing.assert_allclose(metrics["denoising_loss"], plain[1]["denoising_loss"], rtol=1e-5)
    fitted = assembly.fit_statistics(config, assembly.dataset(config))
    start = assembly.init_params(config, (2,), fitted)
    start, end = (p["classifier"]["hidden_0"]["weight"] for p in (start, state.params))
    assert np.abs(end - start).max() > 1e-3


def test_microbatches_and_four_devices_agree(make_config, beside):
    config = toy(make_config, ngmg__weight=1.0, training__microbatch=2)
    four = steps(config, num_devices=4)
    near(beside[0].params, four[0].params, 1e-5)
    near(beside[1], four[1], 1e-4)


def test_two_halves_are_bit_identical_to_the_whole(
    make_config, tmp_path, monkeypatch, no_evaluation
):
    config = toy(make_config, ngmg__weight=0.5, classifier__noisy=True)
    config.classifier.optimizer = "sgd"
    train.train(config, tmp_path / "whole")

    class Progress(loop.Progress):
        def update(self, done, loss, examples):
            super().update(done, loss, examples)
            if done == 2:
                raise signals.Interrupted(15)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "Progress", Progress)
        with pytest.raises(signals.Interrupted):
            train.train(config, tmp_path / "halves")
    assert storage.steps(tmp_path / "halves" / "checkpoints") == [2]
    train.train(config, tmp_path / "halves")
    whole, halves = (newest(config, tmp_path / name) for name in ("whole", "halves"))
    assert whole[0].step == STEPS
    assert "classifier" in whole[0].params
    same(halves, whole)


@pytest.fixture(scope="module")
def classifier_run(make_config, tmp_path_factory):
    """A finished run of a classifier of toy points."""
    path = tmp_path_factory.mktemp("classifier") / "run"
    config = alone(make_config)
    config.evaluation.at_end = False
    train.train(config, path)
    return path


def test_a_frozen_classifier_is_a_constant_of_the_run(
    make_config, classifier_run, tmp_path, no_evaluation
):
    away = tmp_path / "classifier"
    shutil.copytree(classifier_run, away)
    config = toy(make_config, ngmg__weight=0.5, ngmg__workdir=str(away))
    train.train(config, tmp_path / "run")
    state, fitted = newest(config, tmp_path / "run")
    assert set(state.params) == {"network", "log_variance"}
    theirs = load_lib.load_run(away).params["classifier"]
    ours = train.from_arrays(fitted, {}).frozen_classifier
    same(jax.device_get(ours), jax.device_get(theirs))
    # The other directory is not needed any more.
    shutil.rmtree(away)
    config.training.num_steps = STEPS + 2
    train.train(config, tmp_path / "run")
    assert storage.steps(tmp_path / "run" / "checkpoints")[-1] == STEPS + 2


def test_a_frozen_classifier_teaches(make_config, classifier_run, plain):
    config = toy(make_config, ngmg__weight=1.0, ngmg__workdir=str(classifier_run))
    fitted = initialisation.fit_statistics(config, assembly.dataset(config))
    state, metrics = steps(config, fitted)
    assert np.isfinite(metrics["ngmg_term"]).all()
    differences = [
        np.abs(a - b).max()
        for a, b in zip(
            jax.tree.leaves(state.params), jax.tree.leaves(plain[0].params), strict=True
        )
    ]
    assert max(differences) > 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ngmg__workdir": "/nowhere"}, r"ngmg\.workdir is '/nowhere'; it must be the directory"),
        ({"classifier__width": 16}, r"classifier\.width is 16; ngmg\.workdir is .* where it is 8"),
        ({"classifier__loss": "cross_entropy"}, r"classifier\.loss is 'cross_entropy'"),
        ({"data__toy_name": "moons"}, "trained on other data|another mixture"),
        ({"conditioning__num_components": 8}, "4 components where this run has 8"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_a_classifier_that_does_not_fit_is_refused(make_config, classifier_run, changes, message):
    changes = {"ngmg__workdir": str(classifier_run), "ngmg__weight": 1.0} | changes
    config = toy(make_config, **changes)
    with pytest.raises(InputError, match=message):
        initialisation.fit_statistics(config, assembly.dataset(config))


def test_a_run_without_a_classifier_and_a_judge_are_refused(make_config, tmp_path, monkeypatch):
    config = toy(make_config, ngmg__weight=1.0, ngmg__workdir=str(tmp_path))
    data = assembly.dataset(config)
    denoiser = types.SimpleNamespace(params={"network": {}})
    monkeypatch.setattr(load_lib, "load_run", lambda path: denoiser)
    with pytest.raises(InputError, match="a run without a classifier"):
        initialisation.fit_statistics(config, data)
    panel = judges.fit_judges(data, 2, num_epochs=1)
    judges.save(panel, tmp_path / "judge.npz")
    config.ngmg.workdir = str(tmp_path / "judge.npz")
    with pytest.raises(InputError, match="A judge takes no part in training or guidance"):
        initialisation.fit_statistics(config, data)
    other = jax.tree.map(lambda leaf: leaf + 1, panel[0].params)
    judge_lib.refuse_judge(panel, None, other, other["network"])
    for params in (judge.params for judge in panel):
        for forbidden in (params, params["network"]):
            with pytest.raises(InputError, match="the judge must be another one"):
                judge_lib.refuse_judge(panel, None, other, forbidden)


def test_a_classifier_of_images_from_the_command_line(
    make_config, run_main, tmp_path, monkeypatch, caplog
):
    path = tmp_path / "run"
    settings = {
        "training.task": "classifier",
        "conditioning.kind": "class",
        "training.num_steps": 24,
        "training.batch_size": 64,
        "training.heldout_every": 24,
        "training.tensorboard": "false",
        "classifier.width": 8,
        "classifier.learning_rate": 0.05,
        "data.split_seed": 1,
    }
    flags = [f"--config.{field}={value}" for field, value in settings.items()]
    status, out, err = run_main("--config=configs/tiny.py", f"--workdir={path}", *flags)
    assert status == 0, err
    result = json.loads((path / "evaluation.json").read_text())
    accuracy = result["metrics"]["accuracy_100"]
    assert "accuracy_100" in out
    # Three times what guessing gets.
    assert accuracy["value"] > 0.3
    logged = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert (path / "samples" / "step_24.png").stat().st_size > 100

    # The same by hand: the nearest centre to what the network says.
    run = load_lib.load_run(path)
    data = assembly.dataset(run.config)
    centers = np.asarray(run.conditioner.mixture.means)
    # While training it is validation that is read, and at the end the test split.
    for split, value in (
        (data.validation, logged[-1]["heldout_accuracy"]),
        (data.heldout, accuracy["value"]),
    ):
        read = split.take(np.linspace(0, len(split) - 1, 100).astype(int))
        x = to_float(read.x) - np.asarray(run.fitted.transform.mean)
        point, embedding = assembly.classify(run.config, run.fitted)(run.params["classifier"], x)
        nearest = ((np.asarray(point)[:, None] - centers) ** 2).sum(axis=-1).argmin(axis=1)
        assert np.mean(nearest == read.label) == pytest.approx(value)
    space = features.make_extractor(f"file:{path / 'embedding.jaxexport'}", data)
    np.testing.assert_allclose(space.extract(read.x), embedding, atol=1e-4)

    # Without the extra that writes it the scores are the same.
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        alone = classifier_evaluation.evaluate(run.config, data, run.fitted, run.params, path)
    assert alone["metrics"] == result["metrics"]
    assert alone["features"] == {"embedding": None}
    assert "needs flatbuffers; install it with `pip install" in caplog.text

    with pytest.raises(InputError, match="needs the run of a denoiser"):
        sample.sample(run.config, path)


@dataclasses.dataclass(frozen=True)
class Shrink:
    """`D(x) = a x`, whatever it is told."""

    factor: float
    sigma_data: float = 1.0

    def __call__(self, params, x, sigma, cond=None, keys=None):
        return self.factor * x


def test_the_pull_of_a_classifier_by_hand(make_conditioner):
    # One Euler step to noise level 0 is one evaluation: the denoised data themselves.
    a, b, strength, highest = 0.6, 1.5, 0.3, 4.0
    centers = np.array([[1.0, 2.0], [-3.0, 0.5]], np.float32)

    class Squares:
        """Half the squared distance of `b x` from the centre asked for."""

        def cost(self, params, x, weights):
            return jnp.sum((params * x - weights @ centers) ** 2, axis=1) / 2

    weights = np.eye(2, dtype=np.float32)[[0, 1, 1, 0, 1]]
    conditioner = make_conditioner([0, 1, 1, 0, 1])
    transform = batches.Transform(np.zeros(2, np.float32))
    fitted = FittedStatistics(transform, np.float32(1), conditioner)
    classifier = Squares()

    def model(params):
        parts = {"network": {}} | params
        return Model(parts, fitted, Shrink(a), (2,), classifier)

    def draw(interval, other, params):
        pull = ClassifierGuidance(other, strength, interval)
        settings = SamplerSettings("euler", sigma_max=highest)
        return (
            model(params)
            .sample(5, weights, 3, sampler=settings, steps=1, guidance=pull, batch_size=8)
            .x
        )

    x = samplers.initial_noise(devices.example_keys(3, 5), (2,), highest)
    slope = a * b * (a * b * x - weights @ centers)
    expected = a * x - strength * highest**2 * slope
    # Another run's classifier, then this run's own, then a level outside the interval.
    other = model({"classifier": jnp.float32(b)})
    another = draw((0.0, 10.0), other, {})
    np.testing.assert_allclose(another, expected, rtol=1e-4, atol=1e-4)
    own = draw((0.0, 10.0), None, {"classifier": jnp.float32(b)})
    np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(draw((5.0, 10.0), other, {}), a * x, rtol=1e-5)


def test_samples_are_pulled_to_where_the_classifier_sees_their_condition(
    make_config, classifier_run, tmp_path, no_evaluation
):
    config = toy(make_config, sample__num=24, sample__condition="class:1")
    train.train(config, tmp_path / "run")
    judged = load_lib.load_run(classifier_run)
    costs = []
    for energy in (0.0, 30.0):
        config.guidance.energy = energy
        config.guidance.classifier = str(classifier_run)
        config.sample.name = "samples"
        sample.sample(config, str(tmp_path / "run"))
        drawn = np.load(tmp_path / "run" / "samples" / "samples.npz")
        x = drawn["x"] - np.asarray(judged.fitted.transform.mean)
        cost = judged.classifier.cost(judged.params["classifier"], x, drawn["weights"])
        costs.append(float(cost.mean()))
    assert costs[1] < costs[0] - 1e-3
    config.guidance.classifier = str(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"guidance\.classifier is .*nowhere'; it must be"):
        sample.sample(config, str(tmp_path / "run"))


def test_components_stand_for_classes_where_there_are_none(make_config):
    config = alone(make_config, conditioning__per_class=False, classifier__loss="cross_entropy")
    data = assembly.dataset(config)
    fitted = assembly.fit_statistics(config, data)
    params = {"classifier": assembly.init_params(config, data.shape, fitted)["classifier"]}
    reader = classifier_evaluation.make_reader(config, fitted)
    cost, seen, true = reader(Split(data.train.x[:70]), 50)(params)
    assert cost.shape == seen.shape == true.shape == (50,)
    assert set(true) <= set(range(4))
    weights = assembly.split_weights(config, fitted, data.train)[0, :70]
    np.testing.assert_array_equal(true, weights[evenly_spaced(70, 50)].argmax(axis=1))


def test_a_confusion_is_counted_by_rows():
    read, true = np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1])
    expected = [[0.5, 0.5, 0], [0, 0.5, 0.5], [0, 0, 0]]
    np.testing.assert_allclose(classifier_evaluation.confusion(read, true), expected)
