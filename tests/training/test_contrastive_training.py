"""The contrastive term in a run: off without a trace, by hand, on devices; and another start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gmm_diffusion import assembly, devices
from gmm_diffusion import config as config_lib
from gmm_diffusion.assembly import initialisation
from gmm_diffusion.assembly import load as load_lib
from gmm_diffusion.commands import train
from gmm_diffusion.errors import InputError
from gmm_diffusion.evaluation import report as evaluation_report
from gmm_diffusion.runs import storage
from gmm_diffusion.training import contrastive_term
from gmm_diffusion.training import state as state_lib
from gmm_diffusion.types import Batch


@pytest.fixture
def no_evaluation(monkeypatch):
    monkeypatch.setattr(evaluation_report, "evaluate_and_report", lambda *args: {})


def toy(make_config, **changes):
    config = make_config("toy")
    config.training.num_steps = 4
    config.training.steps_per_call = 2
    config.training.log_every = 2
    config.training.heldout_every = 0
    config.checkpoint.every = 100
    config.contrastive.points = 8
    config.contrastive.num_points = 8
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def steps(config, num_devices=1):
    """State and metrics after three steps."""
    data = assembly.dataset(config)
    fitted = assembly.fit_statistics(config, data)
    params = assembly.init_params(config, data.shape, fitted)
    state = state_lib.create(params, assembly.optimizer(config), len(config.training.ema_widths))
    weights = assembly.split_weights(config, fitted, data.train)[0]
    batch = Batch(
        x=np.stack([data.train.x[32 * i : 32 * i + 32] for i in range(3)]),
        index=np.tile(np.arange(32, dtype=np.int32), (3, 1)),
        mask=np.ones((3, 32), np.float32),
        weights=np.stack([weights[32 * i : 32 * i + 32] for i in range(3)]),
    )
    run = devices.make_train_steps(assembly.train_step_fn(config, fitted), num_devices)
    state, metrics = run(devices.replicate(state, num_devices), batch, jax.random.key(3))
    return devices.unreplicate(state), jax.device_get(metrics)


@pytest.fixture(scope="module")
def plain(make_config):
    return steps(toy(make_config))


@pytest.fixture(scope="module")
def contrasted(make_config):
    return steps(toy(make_config, contrastive__weight=0.5))


def test_weight_zero_leaves_no_trace(make_config, plain):
    other = {"points": 3, "num_points": 64, "chunk": 1, "zeta": (1.0, 2.0)}
    config = toy(make_config, **{f"contrastive__{name}": value for name, value in other.items()})
    same(steps(config), plain)


def test_the_term_changes_what_is_learned_and_no_random_number(contrasted, plain):
    state, metrics = contrasted
    assert metrics["denoising_loss"][0] == pytest.approx(plain[1]["denoising_loss"][0], rel=1e-6)
    # The gradient of the term is not that of the denoising.
    assert abs(metrics["gradient_norm"][0] - plain[1]["gradient_norm"][0]) > 1e-4
    extra = metrics["loss"] - plain[1]["loss"]
    assert extra[0] == pytest.approx(0.5 * metrics["contrastive_loss"][0], rel=1e-4)
    assert ((metrics["contrastive_right"] >= 0) & (metrics["contrastive_right"] <= 1)).all()
    assert jax.tree.map(np.shape, state.params) == jax.tree.map(np.shape, plain[0].params)


def test_chunks_microbatches_and_devices_change_nothing(make_config, contrasted):
    config = toy(make_config, contrastive__weight=0.5)
    # Two points a device, each in a microbatch of its own, of 16 rows each.
    config.contrastive.chunk = 12
    config.training.microbatch = 4
    config.training.rematerialize = True
    config_lib.validate(config)
    state, metrics = steps(config, num_devices=4)
    for ours, theirs in ((state.params, contrasted[0].params), (metrics, contrasted[1])):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), ours, theirs
        )


@pytest.mark.parametrize("preconditioning", ["edm", "noise"])
def test_the_loss_of_a_gaussian_and_its_best_denoiser(preconditioning):
    """Exact ratios by SciPy; the learned uncertainty is the one that this denoiser earns."""
    std, zeta, n = 0.7, 0.6, 4096

    def log_variance(params, sigma):
        if preconditioning == "edm":
            return jnp.zeros_like(sigma)
        return jnp.log(std**2 / (std**2 + jnp.square(sigma)))

    def denoise(params, x, sigma, cond):
        return x * (std**2 / (std**2 + jnp.square(sigma)))[:, None]

    contrast = contrastive_term.make_contrast(
        denoise,
        log_variance,
        weight=3.0,
        zeta=(zeta, zeta),
        num_points=16,
        importance=0.8,
        stride=2,
        chunk=2**15,
        sigma_data=std,
        sigma_log_mean=-1.2,
        sigma_log_std=1.2,
        preconditioning=preconditioning,
    )
    rng = np.random.default_rng(0)
    x = std * rng.normal(size=(n, 2))
    batch = Batch(jnp.asarray(x, jnp.float32), jnp.arange(n), jnp.ones(n))
    losses, found = contrast({}, batch, None, jax.random.split(jax.random.key(0), n))
    assert not np.asarray(losses)[1::2].any()
    clean = std * rng.normal(size=(400_000, 2))
    noisy = clean + zeta * rng.normal(size=clean.shape)
    expected, right = [], []
    for label, points in ((1, clean), (-1, noisy)):
        wide = np.hypot(std, zeta)
        laws = [stats.norm.logpdf(points, scale=s).sum(axis=1) for s in (std, wide)]
        expected.append(np.logaddexp(0, -label * (laws[0] - laws[1])).mean())
        right.append((label * (laws[0] - laws[1]) > 0).mean())
    assert float(found["contrastive_loss"].mean()) == pytest.approx(np.mean(expected), abs=0.05)
    assert float(losses.mean()) == pytest.approx(3 * np.mean(expected), abs=0.15)
    # The control variate takes away all chance of Gaussian data but that of few noise levels.
    assert 0 < float(found["contrastive_spread"].mean()) < 0.3
    assert float(found["contrastive_right"].mean()) == pytest.approx(np.mean(right), abs=0.06)


@pytest.fixture(scope="module")
def first_run(make_config, tmp_path_factory):
    """A finished run to start from."""
    path = tmp_path_factory.mktemp("first") / "run"
    config = toy(make_config)
    config.evaluation.at_end = False
    train.train(config, path)
    return path


def test_a_run_starts_from_the_average_of_another(make_config, first_run, tmp_path, no_evaluation):
    config = toy(make_config, training__init_from=str(first_run), contrastive__weight=0.2)
    config.training.seed = 5
    config.optimizer.learning_rate = 1e-12
    config.optimizer.decay_steps = 1
    train.train(config, tmp_path / "run")
    theirs, ours = (load_lib.load_run(path) for path in (first_run, tmp_path / "run"))
    assert storage.steps(tmp_path / "run" / "checkpoints") == [4]
    for part in ("network", "log_variance"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
            ours.params[part],
            theirs.params[part],
        )
    same(ours.fitted, theirs.fitted)
    # Its own statistics would have been others: the embedding's frequencies come from the seed.
    fitted = assembly.fit_statistics(config, assembly.dataset(config))
    pairs = zip(jax.tree.leaves(fitted), jax.tree.leaves(ours.fitted), strict=True)
    assert max(np.abs(a - b).max() for a, b in pairs) > 0.1
    # A resumed run needs the other directory no more.
    config.training.num_steps = 6
    first_run.rename(tmp_path / "away")
    try:
        train.train(config, tmp_path / "run")
    finally:
        (tmp_path / "away").rename(first_run)
    assert storage.steps(tmp_path / "run" / "checkpoints")[-1] == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training__init_from": "/nowhere"}, "is no folder; it must be the workdir of a run"),
        ({"network__width": 16}, r"of another model; .* network\.width: 8 -> 16"),
        ({"data__toy_name": "moons"}, r"data\.toy_name: 'ring' -> 'moons'"),
        ({"diffusion__preconditioning": "noise"}, r"diffusion\.preconditioning: 'edm' -> 'noise'"),
        ({"diffusion__sigma_data": 40.0}, r"diffusion\.sigma_data is 40, and .* whose data have "),
    ],
)
def test_another_model_is_refused(make_config, first_run, tmp_path, changes, message):
    config = toy(make_config, **({"training__init_from": str(first_run)} | changes))
    with pytest.raises(InputError, match=message):
        initialisation.fit_statistics(config, assembly.dataset(config))
    with pytest.raises(InputError, match=message):
        train.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_points_that_devices_cannot_share_are_refused(make_config, tmp_path):
    config = toy(make_config, contrastive__weight=1.0, contrastive__points=2)
    with pytest.raises(InputError, match=r"contrastive\.points is 2; it must be a multiple of t"):
        train.train(config, tmp_path / "run")
