"""Plain parameter files, and runs loaded from disk."""

import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion import assembly, conditioning
from gmm_diffusion.assembly import load as load_lib
from gmm_diffusion.data import batches, to_float
from gmm_diffusion.errors import InputError
from gmm_diffusion.model.fitted import FittedStatistics
from gmm_diffusion.runs import snapshots


def same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_export_round_trip(tmp_path):
    params = {
        "network": {"Dense_0": {"kernel": jnp.arange(6.0).reshape(2, 3)}, "gain": jnp.zeros(())},
        "half": {"w": jnp.asarray([1.5, -2.25], jnp.bfloat16)},
        "count": np.asarray([1, 2], np.int64),
    }
    path = tmp_path / "new" / "params.npz"
    load_lib.export_params(params, path)
    loaded = load_lib.load_params(path)
    expected = {**params, "half": {"w": np.asarray([1.5, -2.25], np.float32)}}
    same(loaded, jax.device_get(expected))
    assert os.listdir(path.parent) == ["params.npz"]
    assert "network/Dense_0/kernel" in np.load(path).files


def test_a_failed_export_leaves_the_old_file(tmp_path):
    path = tmp_path / "params.npz"
    load_lib.export_params({"w": np.ones(2)}, path)

    class Unreadable:
        def __array__(self, dtype=None, copy=None):
            raise OSError("device lost")

    with pytest.raises(OSError, match="device lost"):
        load_lib.export_params({"w": Unreadable()}, path)
    np.testing.assert_array_equal(load_lib.load_params(path)["w"], np.ones(2))


def test_unreadable_parameter_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"parameter file .*absent\.npz does not exist"):
        load_lib.load_params(tmp_path / "absent.npz")
    path = tmp_path / "cut.npz"
    load_lib.export_params({"w": np.arange(1000.0)}, path)
    os.truncate(path, 500)
    with pytest.raises(InputError, match=r"cut\.npz is not an intact \.npz"):
        load_lib.load_params(path)
    np.save(tmp_path / "plain.npy", np.zeros(2))
    with pytest.raises(InputError, match=r"plain\.npy is not an intact \.npz"):
        load_lib.load_params(tmp_path / "plain.npy")


def leaves_differ(left, right):
    return [
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    ]


def test_a_run_is_loaded_without_its_data(tiny_run, monkeypatch):
    monkeypatch.setattr(assembly, "dataset", None)
    run = load_lib.load_run(tiny_run[0])
    assert (run.step, run.shape) == (12, (8, 8, 1))
    assert run.config.network.channels == 8
    assert run.params.keys() == {"network", "log_variance"}
    assert run.fitted.transform.mean.shape == (1,)
    assert run.conditioner.num_classes == 10
    # As sample.ema says, the narrow average; another one, the raw parameters, another step.
    narrow, wide, raw = (load_lib.load_run(tiny_run[0], ema=e).params for e in (0.05, 0.1, 0.0))
    assert not any(leaves_differ(narrow, run.params))
    assert any(leaves_differ(wide, run.params))
    assert any(leaves_differ(raw, run.params))
    assert any(leaves_differ(raw, wide))
    earlier = load_lib.load_run(tiny_run[0], step=4)
    assert earlier.step == 4
    assert any(leaves_differ(earlier.params, run.params))
    loaded = run.config.copy_and_resolve_references()
    loaded.sample.ema = 0.0
    assert not any(leaves_differ(load_lib.load_run(tiny_run[0], config=loaded).params, raw))


def test_steps_whose_checkpoint_is_gone_come_from_snapshots(tiny_run, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(tiny_run[0], path)
    before = {ema: load_lib.load_run(path, step=4, ema=ema) for ema in (0.05, 0.1)}
    shutil.rmtree(path / "checkpoints" / "4")
    for ema, run in before.items():
        again = load_lib.load_run(path, step=4, ema=ema)
        assert again.step == 4
        same(again.params, run.params)
        same(again.fitted, run.fitted)
    with pytest.raises(InputError, match=r"no checkpoint of step 4 .* available: 8, 12"):
        load_lib.load_run(path, step=4, ema=0)


def test_widths_that_nobody_tracked(tiny_run):
    run = load_lib.load_run(tiny_run[0], ema=0.075)
    assert run.step == 12
    made = snapshots.reconstruct(tiny_run[0] / "snapshots", 12, 0.075)
    assert made.num_snapshots == 6
    same(run.params, made.params)
    for width in (0.05, 0.1):
        tracked = load_lib.load_run(tiny_run[0], ema=width)
        assert any(leaves_differ(run.params, tracked.params))
        same(run.fitted, tracked.fitted)
    config = run.config.copy_and_resolve_references()
    config.sample.ema = 0.075
    same(load_lib.load_run(tiny_run[0], config=config).params, run.params)
    earlier = load_lib.load_run(tiny_run[0], step=8, ema=0.075)
    assert earlier.step == 8
    assert any(leaves_differ(run.params, earlier.params))


def test_a_loaded_run_denoises(tiny_run):
    run = load_lib.load_run(tiny_run[0])
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    sigma = jnp.full(4, 1e-4)
    cond = conditioning.encode(run.conditioner, run.conditioner.class_weights[:4])
    denoise = jax.jit(run.denoiser)
    out = denoise(run.params, x, sigma, cond)
    # There is next to no noise to take away.
    np.testing.assert_allclose(out, x, atol=1e-3)
    np.testing.assert_allclose(run.denoise(x, sigma, cond), out, atol=1e-5)
    three = jax.tree.map(lambda leaf: leaf[3:4].repeat(4, axis=0), cond)
    noisy = jnp.full(4, 2.0)
    ours, theirs = (denoise(run.params, x, noisy, c) for c in (cond, three))
    assert np.abs(ours - theirs)[:3].max() > 1e-6


def test_a_condition_is_a_standardised_vector_that_acts_on_its_own_example(tiny_run):
    run = load_lib.load_run(tiny_run[0])
    data = assembly.dataset(run.config)
    # The stored transforms alone: what the mixture was fitted to has mean 0 and deviation 1.
    x = batches.apply(run.fitted.transform, to_float(data.train.x))
    z = np.asarray(conditioning.features(run.conditioner.transform, x), np.float64)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(z.std(0), 1, atol=1e-3)
    alike = jnp.tile(jnp.asarray(x[:1]), (4, 1, 1, 1))
    sigma = jnp.full(4, 2.0)
    cond = conditioning.encode(run.conditioner, run.conditioner.class_weights[:4])
    swapped = jax.tree.map(lambda leaf: leaf[np.array([1, 0, 3, 2])], cond)
    denoise = jax.jit(run.denoiser)
    one, two = (np.asarray(denoise(run.params, alike, sigma, c)) for c in (cond, swapped))
    np.testing.assert_allclose(one, two[[1, 0, 3, 2]], atol=1e-6)
    assert np.abs(one - two).max() > 1e-6
    # Before training, the gain of the output is 0, and D(x; c) is D(x; c').
    fitted = FittedStatistics(run.fitted.transform, jnp.float32(1), run.conditioner)
    start = assembly.init_params(run.config, data.shape, fitted)
    one, two = (np.asarray(denoise(start, alike, sigma, c)) for c in (cond, swapped))
    np.testing.assert_array_equal(one, two)


def test_runs_that_cannot_be_loaded(tiny_run, tmp_path):
    with pytest.raises(InputError, match=r"holds no config\.json"):
        load_lib.load_run(tmp_path)
    with pytest.raises(InputError, match=r"neither a checkpoint .* step 5 .*: 4, 8, 12\."):
        load_lib.load_run(tiny_run[0], step=5)
    with pytest.raises(InputError, match=r"no checkpoint of step 5 .* available: 4, 8, 12\."):
        load_lib.load_run(tiny_run[0], step=5, ema=0)
    with pytest.raises(InputError, match=r"no snapshot of step 5 .* available: 4, 8, 12\."):
        load_lib.load_run(tiny_run[0], step=5, ema=0.2)
    with pytest.raises(InputError, match=r"width 0\.3 is not valid"):
        load_lib.load_run(tiny_run[0], ema=0.3)
    shutil.copy(tiny_run[0] / "config.json", tmp_path)
    with pytest.raises(InputError, match="holds no checkpoint yet"):
        load_lib.load_run(tmp_path)
    # Another model than the one that was trained.
    config = load_lib.load_run(tiny_run[0]).config.copy_and_resolve_references()
    config.network.channels = 16
    with pytest.raises(InputError, match="does not fit this model"):
        load_lib.load_run(tiny_run[0], config=config)
    with pytest.raises(InputError, match=r"snapshots in .* do not fit this model"):
        load_lib.load_run(tiny_run[0], ema=0.2, config=config)
