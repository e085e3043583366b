"""The check of a machine: what it prints, and each thing that it finds to be off."""

import contextlib
import importlib.metadata
import io
import logging
import os
import pathlib
import runpy
import socket
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import pytest
import setuptools

from gmm_diffusion import check_env, command_line, extras
from gmm_diffusion.processes import ending

REPOSITORY = pathlib.Path(__file__).parents[1]
GIB = 2**30


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers[:])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.chdir(tmp_path)


def check(*arguments):
    """(exit status, lines of standard output by their first word, lines of standard error)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = check_env.run(["check_env", *arguments])
    lines = dict(line.split(maxsplit=1) for line in out.getvalue().splitlines())
    return status, lines, err.getvalue().splitlines()


def off(*arguments):
    """The sentences about what is off."""
    status, lines, err = check(*arguments)
    assert status == 2
    assert "All" not in lines
    assert all(line.startswith("Error: ") and line.endswith(".") for line in err), err
    return err


def test_all_is_well(tmp_path):
    status, lines, err = check("--expect=cpu", "--processes=1")
    assert (status, err) == (0, [])
    assert lines["All"] == "is well."
    assert lines["jax"].startswith(f"{jax.__version__} (>=")
    assert lines["devices"].startswith("4 x cpu")
    assert lines["processes"] == "1, this one is 0"
    assert lines["workdir"].startswith("runs, writable, ")
    assert lines["cache"].startswith(f"{os.environ['JAX_COMPILATION_CACHE_DIR']}, writable, ")
    assert {"python", "tensorflow-cpu", "memory", "step"} <= set(lines)
    assert not list(tmp_path.iterdir())


def test_floors_are_those_of_setup(monkeypatch):
    given = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    runpy.run_path(str(REPOSITORY / "setup.py"))
    assert [str(r) for r in check_env.requirements()] == given["install_requires"]


def test_no_package_is_held_back():
    """Installing us may not replace a newer JAX or NumPy that is in use, as on Colab."""
    assert {s.operator for r in check_env.requirements() for s in r.specifier} == {">="}


def test_floors_of_a_wheel(monkeypatch, tmp_path):
    noted = ["jax>=0.10.2", "numpy>=2.3", 'tensorflow-cpu>=2.20; extra == "data"']
    monkeypatch.setattr(extras, "ROOT", tmp_path)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: noted)
    assert [str(r) for r in check_env.requirements()] == ["jax>=0.10.2", "numpy>=2.3"]


def test_versions_that_are_too_old(monkeypatch):
    version = importlib.metadata.version

    def other(name):
        if name == "clu":
            raise importlib.metadata.PackageNotFoundError(name)
        return {"flax": "0.11.9", "optax": "99.0rc1"}.get(name) or version(name)

    monkeypatch.setattr(importlib.metadata, "version", other)
    absent, old = off()
    assert absent.startswith("Error: clu is not installed; it must be >=")
    assert old.startswith("Error: flax is 0.11.9; it must be >=")
    assert "`pip install -U 'flax>=" in old


def test_a_plugin_that_jax_will_not_use(monkeypatch):
    install(monkeypatch, jaxlib="0.10.2", jax_cuda12_plugin="0.10.1", jax_cuda12_pjrt="0.10.2")
    (sentence,) = off()
    assert "jax-cuda12-plugin is 0.10.1 and jaxlib 0.10.2, so JAX will not use it" in sentence
    install(monkeypatch, jaxlib="0.10.2", jax_cuda12_plugin="0.10.2", jax_cuda12_pjrt="0.10.2")
    assert check()[0] == 0


def install(monkeypatch, **versions):
    found = [
        types.SimpleNamespace(metadata={"Name": name}, version=version)
        for name, version in versions.items()
    ]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: found)


def test_tensorflow_that_is_absent_in_part_or_in_the_way(monkeypatch):
    install(monkeypatch, jaxlib="0.10.2")
    status, lines, _ = check()
    assert status == 0
    assert lines["tensorflow"].startswith("absent, ")
    assert "[data]" in lines["tensorflow"]
    install(monkeypatch, tensorflow_cpu="2.21.0", tensorboard="2.21.0")
    (sentence,) = off()
    assert sentence.startswith("Error: TensorFlow is installed without tensorflow-datasets; `pip ")
    both = {"tensorflow_datasets": "4.9.10", "tensorboard": "2.21.0"}
    install(monkeypatch, tensorflow="2.21.0", **both)
    assert check()[0] == 0  # There is no accelerator to be kept from.
    install(monkeypatch, tensorflow="2.21.0", libtpu="0.0.42", **both)
    (sentence,) = off()
    assert "`pip uninstall tensorflow` and `pip install tensorflow-cpu`" in sentence


def test_tensorflow_is_not_imported():
    code = (
        "import sys; from gmm_diffusion import check_env; status = check_env.run(['check_env']);"
        "assert 'tensorflow' not in sys.modules; sys.exit(status)"
    )
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=environment)


def test_memory(monkeypatch):
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < check_env.free_memory() <= total
    monkeypatch.setattr(check_env, "free_memory", lambda: 0.25 * GIB)
    (sentence,) = off()
    assert "0.25 GiB of memory are free; a run needs at least 1 GiB." in sentence


def test_places_that_cannot_be_written(monkeypatch, tmp_path):
    # It would set the cache for the tests that follow.
    monkeypatch.setattr(command_line, "prepare_jax", lambda: None)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/proc/cache")
    workdir, cache = off("--workdir=/proc/run")
    assert workdir.startswith("Error: --workdir is /proc/run, which cannot be written (")
    assert cache.startswith("Error: JAX_COMPILATION_CACHE_DIR is /proc/cache, which cannot be")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    assert check()[1]["cache"].startswith("none")
    full = types.SimpleNamespace(free=GIB // 2)
    monkeypatch.setattr(check_env.shutil, "disk_usage", lambda path: full)
    (sentence,) = off(f"--workdir={tmp_path}")
    assert f"--workdir is {tmp_path} with 0.50 GiB free; a run needs at least 1 GiB" in sentence
    (tmp_path / "file").touch()
    (sentence,) = off(f"--workdir={tmp_path / 'file'}")
    assert "which is a file; it must be a directory" in sentence


def test_another_platform_than_expected():
    (sentence,) = off("--expect=gpu")
    assert "--expect is gpu, and JAX finds cpu only; install it for GPUs with `pip" in sentence


def test_a_tpu_that_another_process_holds(monkeypatch, tmp_path):
    def taken():
        raise RuntimeError("Unable to initialize backend 'tpu': ABORTED: in use (set JAX_PLATF")

    for pid, name, file in ((123, 4, "/dev/accel0"), (77, 0, "/dev/vfio/1"), (5, 1, "/dev/null")):
        folder = tmp_path / "proc" / str(pid) / "fd"
        folder.mkdir(parents=True)
        (folder / str(name)).symlink_to(file)
    assert check_env.tpu_holders(tmp_path / "proc") == [77, 123]
    assert check_env.tpu_holders() == []
    monkeypatch.setattr(check_env, "tpu_holders", lambda: [77, 123])
    # JAX may go to the CPU without a word.
    (sentence,) = off("--expect=tpu")
    assert "--expect is tpu, and JAX finds cpu only" in sentence
    assert sentence.endswith("; process 77 holds it; process 123 holds it.")
    monkeypatch.setattr(jax, "devices", taken)
    (sentence,) = off("--expect=tpu")
    assert "backend 'tpu': ABORTED: in use" in sentence
    assert sentence.endswith("; process 77 holds it; process 123 holds it.")


def test_a_step_that_goes_wrong(monkeypatch):
    right = jnp.matmul
    monkeypatch.setattr(jnp, "matmul", lambda *args, **kw: 1.01 * right(*args, **kw))
    (sentence,) = off()
    assert "A small step gives parameters that are wrong by" in sentence

    def full(*args, **kwargs):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nand a long story")

    monkeypatch.setattr(jnp, "matmul", full)
    (sentence,) = off()
    assert sentence.endswith(" failed on the devices: RESOURCE_EXHAUSTED: out of memory.")


@pytest.mark.parametrize("arguments", [["--expect=npu"], ["--processes=0"], ["--foo"], ["stray"]])
def test_bad_flags(arguments):
    (sentence,) = off(*arguments)
    assert arguments[0].strip("-").split("=")[0] in sentence


def test_a_task_of_slurm_has_all_devices_of_its_node(monkeypatch):
    given = {}

    def initialize(**options):
        given.update(options)
        raise RuntimeError("that is enough")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(ending, "at_once", lambda error: error)  # It would end these tests.
    for name, value in {
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "0",
        "SLURM_STEP_NODELIST": "node[1-2]",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
        "SLURM_GPUS_ON_NODE": "8",
    }.items():
        monkeypatch.setenv(name, value)
    (sentence,) = off("--processes=2")
    assert "The other processes cannot be found: that is enough." in sentence
    assert given["local_device_ids"] == list(range(8))


def test_processes():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, "-m", "gmm_diffusion.check_env", "--processes=2"]
    options = {
        "cwd": REPOSITORY,
        "env": os.environ
        | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    place = f"--coordinator=127.0.0.1:{port}"
    both = [subprocess.Popen([*command, place, f"--process={i}"], **options) for i in range(2)]
    for i, process in enumerate(both):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert "devices            4 x cpu" in out
        assert f"processes          2, this one is {i}\n" in out
    alone = subprocess.run([*command, place, "--process=1", "--wait=1"], timeout=60, **options)
    assert alone.returncode == 2
    assert alone.stderr == "Error: --processes is 2, and after 1 s not all have met.\n"
    alone = subprocess.run(command, timeout=60, **options)
    assert alone.returncode == 2
    assert "give --coordinator=HOST:PORT of process 0 and --process=I." in alone.stderr
