"""Every file in configs/ is a run that could start."""

import ast
import pathlib
import runpy
import types

import jax
import numpy as np
import pytest

from gmm_diffusion import assembly, mixture
from gmm_diffusion import config as config_lib
from gmm_diffusion.conditioning import fitting
from gmm_diffusion.data import DATASETS, Dataset, Split
from gmm_diffusion.sweep import __main__ as sweep
from gmm_diffusion.training import state as state_lib
from gmm_diffusion.types import Batch

REPOSITORY = pathlib.Path(__file__).parents[1]
CONFIGS = sorted((REPOSITORY / "configs").glob("*.py"))
# Shape and classes of what `tfds_images` would fetch.
TFDS_SHAPES = {
    "cifar10": ((32, 32, 3), 10),
    "mnist": ((28, 28, 1), 10),
    "fashion_mnist": ((28, 28, 1), 10),
    "celeb_a": ((218, 178, 3), 0),
}


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def config(path, monkeypatch, tmp_path):
    # From another directory: configs that derive from each other must find each other.
    monkeypatch.chdir(tmp_path)
    return runpy.run_path(str(path))["get_config"]()


def random_dataset(tfds_name, resolution, attributes, **options):
    """As many examples as each class needs components, of the right shape."""
    shape, num_classes = TFDS_SHAPES[tfds_name]
    shape = shape if resolution is None else (resolution, resolution, shape[2])
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(num_classes, dtype=np.int32), 64) if num_classes else None
    size = 640 if label is None else len(label)
    x = rng.integers(0, 256, size=(size, *shape), dtype=np.uint8)
    rows = rng.integers(0, 2, size=(size, len(attributes)), dtype=np.uint8) if attributes else None
    split = Split(x, label, rows)
    name = f"stand-in for {tfds_name}"
    return Dataset(name, split, split, num_classes, attribute_names=attributes)


def random_images(resolution, **options):
    """What a folder of unlabelled photographs would give; of their own size, one of digits."""
    if resolution is None:
        return random_dataset("mnist", None, ())
    x = np.random.default_rng(0).integers(0, 256, (64, resolution, resolution, 3), dtype=np.uint8)
    return Dataset("stand-in for a folder", Split(x), Split(x))


def unfitted_mixture(key, x, num_components, kind, **options):
    """Stands in for EM, which would take minutes and change no shape."""
    dim = x.shape[1]
    covariances = {"full": np.tile(np.eye(dim), (num_components, 1, 1)), "tied": np.eye(dim)}
    covariances["diag"] = np.ones((num_components, dim))
    covariances["spherical"] = np.ones(num_components)
    mix = mixture.GaussianMixture.create(
        np.full(num_components, 1 / num_components), x[:num_components], covariances[kind], kind
    )
    return types.SimpleNamespace(mixture=mix)


def test_it_loads_and_is_valid(config):
    config_lib.validate(config)


def test_its_docstring_has_the_command(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert text
    # The first config that a reader opens explains itself by its name.
    if path.stem != "digits_gmm":
        command = f"python -m gmm_diffusion.main --config=configs/{path.name} --workdir=runs/"
        assert command + path.stem in text


def test_it_fits_devices_and_batches(config):
    assert config.training.batch_size % 8 == 0
    assert config.training.num_steps % config.training.steps_per_call == 0


def test_its_training_step_fits_its_data(config, monkeypatch, tmp_path):
    monkeypatch.setitem(DATASETS, "tfds_images", random_dataset)
    monkeypatch.setitem(DATASETS, "image_folder", random_images)
    if config.data.name == "image_folder":
        config.data.data_dir = str(tmp_path)
    monkeypatch.setattr(fitting.mixture, "fit_em", unfitted_mixture)
    if config.data.name == "faces":
        # Ten for each combination of attributes, and seconds less to draw.
        config.data.num_train, config.data.num_heldout = 6000, 200
    data = assembly.dataset(config)
    fitted = assembly.fit_statistics(config, data)
    step = assembly.train_step_fn(config, fitted)
    size, widths = 4, config.training.ema_widths
    weights = None
    if fitted.conditioner is not None:
        weights = np.zeros((size, fitted.conditioner.num_components), np.float32)
    batch = Batch(
        x=np.zeros((size, *data.shape), np.float32),
        index=np.zeros(size, np.int32),
        mask=np.ones(size, np.float32),
        weights=weights,
    )

    def one_step(batch):
        params = assembly.init_params(config, data.shape, fitted)
        state = state_lib.create(params, assembly.optimizer(config), len(widths))
        return state, step(state, batch, jax.random.key(0))

    state, (after, metrics) = jax.eval_shape(one_step, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert {leaf.shape for leaf in jax.tree.leaves(metrics)} == {()}
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves((after.params, after.ema)))


SWEEPS = sorted((REPOSITORY / "configs" / "sweeps").glob("*.py"))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_is_a_plan_of_valid_runs(path, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    assert sweep.run([f"--out={tmp_path / 'out'}", str(path), "--dry_run"]) == 0
    assert "to do" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
