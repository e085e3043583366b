"""`python -m gmm_diffusion.main --config=configs/NAME.py`, typed exactly so, for every config."""

import io
import pathlib
import runpy
import shutil
import socket
import tarfile

import jax
import numpy as np
import pytest

from gmm_diffusion import devices
from gmm_diffusion.data import tfds_images
from gmm_diffusion.runs import storage

REPOSITORY = pathlib.Path(__file__).parents[1]
CONFIGS = sorted((REPOSITORY / "configs").glob("*.py"))
SMALL = {
    "conditioning.em_iterations": 2,
    "conditioning.embedding_features": 16,
    "conditioning.feature_dim": 2,
    "data.num_train": 6000,
    "data.num_heldout": 100,
    "network.channels": 8,
    "network.channel_mult": (1,),
    "network.num_blocks": 1,
    "network.attention_resolutions": (),
    "network.width": 8,
    "network.log_variance_features": 16,
    "classifier.width": 8,
    "training.num_steps": 2,
    "training.batch_size": 8,
    "training.steps_per_call": 1,
    "training.heldout_every": 0,
    "training.tensorboard": False,
    "evaluation.at_end": False,
}


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """An empty directory, data of TFDS nowhere, and no network."""

    def refuse(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "absent"))
    monkeypatch.chdir(tmp_path)


def needs(config):
    """What the command is refused for, in parts of the sentence; none where it starts."""
    if config.data.name == "tfds_images":
        archive = "--config.data.name=cifar_archive" if "cifar" in config.data.tfds_name else ""
        return (
            f"dataset {config.data.tfds_name}/",
            "no network",
            f"`tfds build {config.data.tfds_name} --data_dir=",
            archive,
            "digits, toy and faces",
        )
    if config.data.name == "image_folder":
        return ("data.data_dir is ", "which is no folder; it must be the folder of the images")
    return ()


def traced_steps(train_step):
    """`devices.make_train_steps` without the compiler: only the number of steps grows."""

    def run(state, batches, key):
        steps, first = len(batches.x), jax.tree.map(lambda x: x[0], batches)
        _, metrics = jax.eval_shape(train_step, devices.unreplicate(state), first, key)
        state = state.replace(step=state.step + steps)
        return state, jax.tree.map(lambda m: np.zeros(steps, m.dtype), metrics)

    return run


def test_it_starts_or_says_what_is_missing(path, run_main, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "make_train_steps", traced_steps)
    config = runpy.run_path(str(path))["get_config"]()
    wanted = needs(config)
    small = [] if wanted else [f"--config.{field}={value}" for field, value in SMALL.items()]
    status, out, err = run_main(f"--config={path}", *small)
    first, *_, last = err.splitlines()
    assert first == f"The directory of the run is runs/{path.stem}."
    if wanted:
        assert (status, out) == (2, "")
        assert last.startswith("Error: ")
        assert all(part in last for part in wanted), last
        assert not list(tmp_path.iterdir())
    else:
        assert status == 0, err
        assert storage.steps(tmp_path / "runs" / path.stem / "checkpoints") == [2]


def test_cifar_from_its_archive(run_main, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    batch = b"".join(bytes([i % 10]) + rng.bytes(3072) for i in range(40))
    names = [*(f"data_batch_{b + 1}.bin" for b in range(5)), "test_batch.bin"]
    members = dict.fromkeys(names, batch)
    members["batches.meta.txt"] = "\n".join(f"name{c}" for c in range(10)).encode() + b"\n\n"
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    monkeypatch.setattr(tfds_images, "load", None)
    status, _, err = run_main(
        f"--config={REPOSITORY / 'configs' / 'cifar_gmm.py'}",
        "--config.data.name=cifar_archive",
        "--config.data.data_dir=cifar-10-binary.tar.gz",
        "--config.conditioning.num_components=10",
        *(f"--config.{field}={value}" for field, value in SMALL.items()),
    )
    assert status == 0, err
    assert storage.steps(tmp_path / "runs" / "cifar_gmm" / "checkpoints") == [2]


def test_a_run_that_is_there_is_resumed_or_refused(run_main, tiny_run, tmp_path):
    shutil.copytree(tiny_run[0], tmp_path / "runs" / "tiny")
    command = [
        f"--config={REPOSITORY / 'configs' / 'tiny.py'}",
        "--config.training.tensorboard=false",
        "--config.evaluation.at_end=false",
    ]
    status, out, err = run_main(*command)
    assert status == 0, err
    assert "Resumed runs/tiny from step 12." in err
    assert out == "Trained to step 12 in runs/tiny, and not evaluated.\n"
    status, out, err = run_main(*command, "--config.network.channels=16")
    assert (status, out) == (2, "")
    assert "--workdir runs/tiny holds a run with another config; use another" in err
    assert "network.channels: 8 -> 16." in err


def test_other_modes_look_in_the_same_place(run_main):
    status, _, err = run_main("--mode=sample", f"--config={REPOSITORY / 'configs' / 'tiny.py'}")
    assert status == 2
    assert "--workdir runs/tiny holds no config.json" in err


def test_a_name_without_a_path(run_main, tmp_path):
    status, _, err = run_main("--config=tiny", "--config.training.batch_size=6")
    assert status == 2
    assert err.startswith("The directory of the run is runs/tiny.\nError: training.batch_size is 6")
    assert not list(tmp_path.iterdir())


def test_a_workdir_that_is_empty(run_main):
    """As of `--workdir=$DIR` without a DIR."""
    status, _, err = run_main("--config=tiny", "--workdir=")
    assert status == 2
    assert err == "Error: --workdir is empty; it must name the directory of the run.\n"
