"""Plain parameter files, and runs loaded from disk."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion.errors import InputError
from gmm_diffusion.training import checkpoint


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
    checkpoint.export_params(params, path)
    loaded = checkpoint.load_params(path)
    expected = {**params, "half": {"w": np.asarray([1.5, -2.25], np.float32)}}
    same(loaded, jax.device_get(expected))
    assert os.listdir(path.parent) == ["params.npz"]
    assert "network/Dense_0/kernel" in np.load(path).files


def test_a_failed_export_leaves_the_old_file(tmp_path):
    path = tmp_path / "params.npz"
    checkpoint.export_params({"w": np.ones(2)}, path)

    class Unreadable:
        def __array__(self, dtype=None, copy=None):
            raise OSError("device lost")

    with pytest.raises(OSError, match="device lost"):
        checkpoint.export_params({"w": Unreadable()}, path)
    np.testing.assert_array_equal(checkpoint.load_params(path)["w"], np.ones(2))


def test_unreadable_parameter_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"parameter file .*absent\.npz does not exist"):
        checkpoint.load_params(tmp_path / "absent.npz")
    path = tmp_path / "cut.npz"
    checkpoint.export_params({"w": np.arange(1000.0)}, path)
    os.truncate(path, 500)
    with pytest.raises(InputError, match=r"cut\.npz is not an intact \.npz"):
        checkpoint.load_params(path)
    np.save(tmp_path / "plain.npy", np.zeros(2))
    with pytest.raises(InputError, match=r"plain\.npy is not an intact \.npz"):
        checkpoint.load_params(tmp_path / "plain.npy")
