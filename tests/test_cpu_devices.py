"""How many devices JAX makes of a CPU."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from gmm_diffusion import cpu_devices
from gmm_diffusion.errors import InputError

REPOSITORY = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("microbatch", [0, 4, 10])
@pytest.mark.parametrize("batch_size", [1, 7, 16, 30, 80, 128])
@pytest.mark.parametrize("cores", [1, 2, 3, 6, 64])
def test_a_batch_spreads_evenly(cores, batch_size, microbatch):
    count = cpu_devices.suitable(cores, batch_size, microbatch)

    def spreads(n):
        whole_microbatches = not microbatch or (batch_size // n) % microbatch == 0
        return batch_size % n == 0 and batch_size // n >= 8 and whole_microbatches

    assert 1 <= count <= cores
    assert count == 1 or spreads(count)
    assert not any(spreads(n) for n in range(count + 1, cores + 1))


def test_points_of_the_contrastive_loss_spread_evenly():
    assert cpu_devices.suitable(4, 128, points=6) == 2
    assert cpu_devices.suitable(4, 128, points=7) == 1


@pytest.mark.parametrize(
    ("files", "share"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu.max": "what is this"}, None),
    ],
)
def test_the_share_of_a_container(tmp_path, files, share):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_devices._share(tmp_path) == share


def test_cores_are_those_that_the_process_is_bound_to():
    assert 1 <= cpu_devices.cores() <= len(os.sched_getaffinity(0))


def test_what_is_there_already_stays():
    """As in a notebook, where JAX runs; in the tests it has four devices."""
    cpu_devices.choose(None, True, 128)
    cpu_devices.choose(4, True, 128)
    with pytest.raises(InputError, match=r"--devices is 2, and .* chose 4 devices"):
        cpu_devices.choose(2, True, 128)
    assert jax.device_count() == 4
    assert "4 devices" in cpu_devices.describe()


def test_devices_of_an_accelerator_are_not_divided(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert cpu_devices.describe() == ""
    cpu_devices.check(None)
    with pytest.raises(InputError, match=r"--devices is 2; .* kind gpu.* CUDA_VISIBLE_DEVICES"):
        cpu_devices.check(2)


@pytest.mark.parametrize(
    ("flags", "chosen", "num"),
    [
        ("--devices=3", {}, 3),
        ("", {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, 3),
        ("", {"JAX_NUM_CPU_DEVICES": "3"}, 3),
        ("", {}, None),
    ],
)
def test_the_command_line_makes_them(tmp_path, flags, chosen, num):
    """A batch that three cannot share ends it where the devices are known."""
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    environment |= chosen | {"JAX_PLATFORMS": "cpu"}
    size = 32 if num else 1
    line = [sys.executable, "-m", "gmm_diffusion.main", "--config=tiny", f"--workdir={tmp_path}/r"]
    line += [
        f"--config.training.batch_size={size}",
        "--config.sample.condition=no such",
        *flags.split(),
    ]
    result = subprocess.run(
        line, capture_output=True, text=True, env=environment, cwd=REPOSITORY, check=False
    )
    assert result.returncode == 2
    if num is None:  # A batch of one stays on one.
        assert "devices" not in result.stderr
    else:
        assert f"must be a multiple of the {num} devices" in result.stderr
