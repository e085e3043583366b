"""The command line: what it writes, what it refuses, how it stops."""

import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax._src import xla_bridge
from PIL import Image

from gmm_diffusion import command_line
from gmm_diffusion import config as config_lib
from gmm_diffusion import main as main_lib
from gmm_diffusion.assembly import training
from gmm_diffusion.assembly.load import load_params, load_run
from gmm_diffusion.data import DATASETS, Dataset, Split, tfds_images
from gmm_diffusion.errors import InputError
from gmm_diffusion.runs import snapshots, storage

REPOSITORY = pathlib.Path(__file__).parents[1]
TINY = f"--config={REPOSITORY / 'configs' / 'tiny.py'}"
QUIET = "--config.training.tensorboard=false"
TOY = [
    TINY,
    QUIET,
    "--config.data.name=toy",
    "--config.data.num_train=1000",
    "--config.data.num_heldout=100",
    "--config.conditioning.kind=none",
    "--config.network.name=mlp",
    "--config.network.width=8",
    "--config.evaluation.blocks=1",
]


def snapshot(folder):
    """Every path below a folder, with what is in it."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        if p.is_file()
        else ""
        for p in folder.rglob("*")
    }


@pytest.fixture
def refused(run_main, tmp_path):
    """Runs a command that must be refused, with one sentence, and change nothing on disk."""

    def run(*arguments):
        before = snapshot(tmp_path)
        status, out, err = run_main(*arguments)
        assert status == 2, (out, err)
        assert out == ""
        *log, sentence = err.splitlines()
        assert sentence.startswith("Error: "), err
        assert sentence.endswith((".", "?")), err
        assert "Traceback" not in err
        # Warnings about damaged checkpoints may come first, or what the data are.
        usual = re.compile(r"Skipping checkpoint|.* held out, read in [0-9.]+ s\.$")
        assert all(usual.match(line) for line in log), err
        assert snapshot(tmp_path) == before
        return sentence

    return run


BAD_FLAGS = {
    "unknown flag": (["--foo=1"], "Unknown command line flag 'foo'"),
    "misspelt flag": (["--wrkdir=x"], "Did you mean: workdir?"),
    "unknown field": (["--config.training.num_stepz=3"], "did you mean training.num_steps?"),
    "unknown group": (["--config.trainin.num_steps=3"], "did you mean training.num_steps?"),
    "a whole group": (["--config.training=3"], "training is not a setting"),
    "no int": (["--config.training.num_steps=abc"], "num_steps is 'abc'; it must be of type int"),
    "a float for an int": (["--config.training.num_steps=2.5"], "must be of type int"),
    "no bool": (["--config.data.flip=maybe"], "flip is 'maybe'; it must be of type bool"),
    "no tuple of ints": (["--config.network.channel_mult=('a',)"], "a tuple of positive integers"),
    "no value": (["--config.training.num_steps"], "Missing value"),
    "unknown mode": (["--mode=tain"], "<train|sample|evaluate|ema>"),
    "stray word": (["stray"], "Unexpected argument 'stray'"),
    "batch over devices": (["--config.training.batch_size=6"], "a multiple of the 4 devices"),
    "components over classes": (
        ["--config.conditioning.num_components=12"],
        "a multiple of the 10 classes",
    ),
    "too many components": (
        ["--config.conditioning.num_components=2000"],
        "conditioning.num_components is 2000",
    ),
    "too many features": (["--config.conditioning.feature_dim=80"], "conditioning.feature_dim"),
    "an average of nothing": (
        ["--config.sample.ema=0.15", "--config.checkpoint.snapshot_every=0"],
        "it must be one of 0, 0.05, 0.1",
    ),
    "odd resolution": (["--config.network.channel_mult=(1,1,1,1,1)"], "divisible by 16"),
    "toy for a U-Net": (["--config.data.name=toy"], "network.name is 'unet'"),
    "unknown toy": ([*TOY, "--config.data.toy_name=heart"], "valid are ring, grid"),
    "bad condition": (["--config.sample.condition=seven"], "sample.condition is 'seven'"),
    "shares that do not add up": (["--config.sample.condition=0.5*1+0.2*2"], "add to 0.7"),
    "missing features file": (["--config.evaluation.features=file:/no/such"], "names no file"),
    "too many neighbours": (["--config.evaluation.neighbours=100"], "below the 100 images"),
    "all held out": (["--config.data.heldout_fraction=0.9999"], "leaves nothing to train on"),
    "tfds without a name": (["--config.data.name=tfds_images"], "data.tfds_name is ''"),
}


@pytest.mark.parametrize("name", BAD_FLAGS)
def test_bad_flags(name, refused, tmp_path):
    arguments, message = BAD_FLAGS[name]
    assert message in refused(TINY, QUIET, f"--workdir={tmp_path / 'run'}", *arguments)


BAD_VALUES = {
    "diffusion.sigma_log_mean": "nan",
    "conditioning.concentration": "(3.0,1.0)",
    "conditioning.shares": "(0.9,0.9)",
    "network.channel_mult": "(0,)",
    "network.attention_resolutions": "(-4,)",
    "training.ema_widths": "(0.5,)",
    "evaluation.name": "../elsewhere",
    "sample.name": "../elsewhere",
    "guidance.scale": "nan",
}


@pytest.mark.parametrize("field", config_lib.RULES)
def test_every_rule_is_enforced(field, refused, tmp_path):
    usual = config_lib.fields(config_lib.default())[field]
    value = BAD_VALUES.get(field, "nonsense" if isinstance(usual, str) else "-1")
    sentence = refused(TINY, f"--workdir={tmp_path / 'run'}", f"--config.{field}={value}")
    assert sentence.startswith(f"Error: {field} is ")
    assert "it must be" in sentence


CONFIG_FILE = """from gmm_diffusion import config as config_lib

def get_config():
    config = config_lib.default()
    {}
    return config
"""
BAD_FILES = {
    "misspelt field": ("config.training.num_stepz = 3", "line 5: num_stepz is not a setting; did"),
    "misspelt group": ("config.trainin.num_steps = 3", "did you mean training?"),
    "field of another name": ("config.training.zebra = 3", "zebra is not a setting"),
    "by key": ("config['training']['num_stepz'] = 3", "did you mean num_steps?"),
    "wrong type": ("config.training.num_steps = 'a'", "num_steps is a; it must be of type int"),
    "none": ("config.training.num_steps = None", "training.num_steps is None"),
    "unlocked": ("config.unlock(); config.training.zebra = 3", "training.zebra is not a setting"),
    "range": ("config.training.num_steps = 0", "training.num_steps is 0; it must be at least 1"),
    "import": ("import no_such_module", "No module named 'no_such_module'"),
    "no config": ("return 3", "must be a ConfigDict"),
    "half a config": (
        "return config_lib.ConfigDict({'data': {}})",
        "is missing; a config must start from config.default()",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_config_files(name, refused, tmp_path):
    line, message = BAD_FILES[name]
    (tmp_path / "config.py").write_text(CONFIG_FILE.format(line))
    sentence = refused(f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}")
    assert message in sentence


@pytest.mark.parametrize(
    ("text", "message"),
    [("def get_config(:", "SyntaxError"), ("x = 3", "no function get_config"), ("1 / 0", "line 1")],
)
def test_files_that_are_no_configs(text, message, refused, tmp_path):
    (tmp_path / "config.py").write_text(text)
    sentence = refused(f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}")
    assert message in sentence


def test_missing_arguments(refused, tmp_path):
    assert "--config and --workdir are missing" in refused()
    assert "--config is missing" in refused(f"--workdir={tmp_path / 'run'}")
    assert "which is not a file" in refused(
        f"--config={tmp_path / 'absent.py'}", f"--workdir={tmp_path / 'run'}"
    )
    assert "which is not a file" in refused(f"--config={tmp_path}", f"--workdir={tmp_path / 'run'}")


def test_bits_that_are_the_same_on_gpus(refused, run_main, monkeypatch):
    """XLA reads its flags when JAX looks for devices, which is after this."""
    seen = []
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=here")
    monkeypatch.setattr(main_lib, "do", lambda command: seen.append(os.environ["XLA_FLAGS"]) or 0)
    with monkeypatch.context() as patch:
        patch.setattr(xla_bridge, "backends_are_initialized", lambda: False)
        assert run_main("--config=tiny", "--workdir=new", "--deterministic")[0] == 0
    assert seen == ["--xla_dump_to=here --xla_gpu_deterministic_ops=true"]
    jax.devices()
    sentence = refused("--config=tiny", "--workdir=new", "--deterministic")
    assert "--deterministic comes too late" in sentence
    assert "XLA_FLAGS=--xla_gpu_deterministic_ops=true" in sentence


def test_help_explains_the_modes(run_main):
    status, out, _ = run_main("--help")
    assert status == 0
    assert all(f"--mode={mode}" in out for mode in ("train", "sample", "evaluate", "ema"))


def test_directories_that_are_no_runs(refused, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("x")
    assert "which is a file" in refused(TINY, f"--workdir={tmp_path / 'file'}")
    assert "a part is a file" in refused(*TOY, f"--workdir={tmp_path / 'file' / 'run'}")
    assert "holds no config.json" in refused(TINY, f"--workdir={tmp_path / 'folder'}")
    for mode in ("sample", "evaluate"):
        assert "holds no config.json" in refused(
            f"--mode={mode}", f"--workdir={tmp_path / 'folder'}"
        )
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.json").write_text(config_lib.default().to_json_best_effort())
    for mode in ("sample", "evaluate"):
        assert "holds no checkpoint yet" in refused(
            f"--mode={mode}", f"--workdir={tmp_path / 'new'}"
        )


def stand_in(labels, num_classes):
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8), labels)
    return lambda **_: Dataset("photographs", split, split, num_classes)


@pytest.mark.parametrize("kind", ["gmm", "class"])
def test_labels_that_are_missing(kind, refused, tmp_path, monkeypatch):
    arguments = [TINY, f"--workdir={tmp_path / 'run'}", f"--config.conditioning.kind={kind}"]
    monkeypatch.setitem(DATASETS, "digits", stand_in(None, 0))
    message = refused(*arguments)
    assert "needs labels, and photographs" in message
    assert "has none" in message
    labels = np.repeat(np.arange(4, dtype=np.int32), 10)
    monkeypatch.setitem(DATASETS, "digits", stand_in(labels, 5))
    message = refused(*arguments)
    assert "Class 4 of photographs" in message
    assert "has no training example" in message


def test_data_that_are_neither_here_nor_within_reach(refused, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_images, "_probe", lambda url: "no network: none in this test")
    data = tmp_path / "tfds"
    data.mkdir()
    sentence = refused(
        TINY,
        f"--workdir={tmp_path / 'run'}",
        "--config.data.name=tfds_images",
        "--config.data.tfds_name=cifar10",
        f"--config.data.data_dir={data}",
    )
    assert str(data) in sentence
    assert "digits, toy and faces" in sentence
    assert "no network" in sentence


# What a run leaves behind, and what is asked of it later.


def test_a_real_run_writes_what_it_should(tiny_run):
    workdir, out, err = tiny_run
    assert {p.name for p in workdir.iterdir()} == {
        "config.json",
        "data.json",
        "checkpoints",
        "snapshots",
        "metrics.jsonl",
        "samples",
        "evaluation.json",
        "judge.npz",
        "reference",
    }
    config = json.loads((workdir / "config.json").read_text())
    assert config["network"]["channels"] == 8
    assert config["training"]["tensorboard"] is False
    assert storage.steps(workdir / "checkpoints") == [4, 8, 12]
    assert snapshots.steps(workdir / "snapshots") == [4, 8, 12]
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [4, 8, 12]
    heldout = [row for row in rows if "heldout_loss/mean" in row]
    assert [row["step"] for row in heldout] == [8, 12]
    levels = [name for name in heldout[0] if name.startswith("heldout_loss/sigma_")]
    assert len(levels) == config["evaluation"]["loss_levels"] == 2
    sheets = sorted(p.name for p in (workdir / "samples").iterdir())
    assert sheets == ["step_12.png", "step_8.png"]
    # 20 digits of 8 x 8, four times enlarged, in 5 columns with a pixel between.
    assert Image.open(workdir / "samples" / "step_12.png").size == (5 * 33 + 1, 4 * 33 + 1)

    def never(name):
        raise AssertionError(f"{name} is not JSON")

    for file in (*workdir.glob("*.json"), workdir / "metrics.jsonl"):
        lines = [file.read_text()] if file.suffix == ".json" else file.read_text().splitlines()
        assert all(json.loads(line, parse_constant=never) for line in lines)
    result = json.loads((workdir / "evaluation.json").read_text())
    assert result["step"] == 12
    assert result["samples_per_block"] == 100
    for name, metric in result["metrics"].items():
        assert name.endswith("_100"), "a metric's name carries its count"
        assert len(metric["blocks"]) == 2
        assert np.isfinite([metric["value"], metric["floor"], *metric["blocks"]]).all()
        assert np.isclose(metric["value"], np.mean(metric["blocks"]))
    expected = {"frechet", "precision", "recall", "coverage", "memorisation", "defect_rate"}
    assert {name.removesuffix("_100") for name in result["metrics"]} == expected | {"agreement"}
    # The table: each metric, and each file by its path.
    for name, metric in result["metrics"].items():
        # A metric that has a ceiling is named once more, below the table.
        line = next(line for line in out.splitlines() if line.startswith(f"{name} "))
        assert f"{metric['value']:.4f}" in line
        assert f"{metric['floor']:.4f}" in line
    for path in (
        "evaluation.json",
        "metrics.jsonl",
        "config.json",
        "judge.npz",
        "samples/step_12.png",
    ):
        assert str(workdir / path) in out
    assert "step 12/12" in err
    assert re.search(r"network/conv_in +[1-9]", err), "parameters are counted"
    assert "First steps done after" in err


@pytest.fixture
def copied_run(tiny_run, tmp_path):
    shutil.copytree(tiny_run[0], tmp_path / "run")
    return tmp_path / "run"


def test_requests_that_a_model_cannot_meet(refused, copied_run):
    sample = ["--mode=sample", f"--workdir={copied_run}"]
    for condition, message in {
        "seven": "sample.condition is 'seven'",
        "": "sample.condition is ''",
        "class:10": "a class must be from 0 to 9",
        "component:10": "a component must be from 0 to 9",
        "0.5*class:3+0.6*class:8": "shares that add to 1.1",
        "1.5*class:3+-0.5*class:8": "must be positive",
        "Smiling=1": "sample.condition is 'Smiling=1'",
    }.items():
        assert message in refused(*sample, f"--config.sample.condition={condition}")
    # An evaluation asks for all classes, and yet not for nothing.
    line = ["--mode=evaluate", f"--workdir={copied_run}", "--config.sample.condition=seven"]
    assert "sample.condition is 'seven'" in refused(*line)
    assert "step 7" in refused(*sample, "--config.sample.step=7")
    for mode in ("sample", "evaluate"):
        sentence = refused(
            f"--mode={mode}", f"--workdir={copied_run}", "--config.network.channels=16"
        )
        assert "network.channels: 8 -> 16" in sentence


def test_averages_that_cannot_be_made(refused, copied_run):
    make = ["--mode=ema", f"--workdir={copied_run}"]
    assert "sample.ema is 0.0; " in refused(*make, "--config.sample.ema=0")
    wide = "--config.sample.ema=0.15"
    assert "no snapshot of step 7" in refused(*make, wide, "--config.sample.step=7")
    assert "available: 4, 8, 12" in refused(*make, wide, "--config.sample.step=7")
    (copied_run / "snapshots" / "width_0.05_step_8.npz").write_bytes(b"")
    assert "width_0.05_step_8.npz is not an intact" in refused(*make, wide)
    shutil.rmtree(copied_run / "snapshots")
    for mode in ("ema", "sample", "evaluate"):
        assert "holds none" in refused(f"--mode={mode}", f"--workdir={copied_run}", wide)


def test_an_average_of_any_width(run_main, copied_run):
    arguments = [f"--workdir={copied_run}", "--config.sample.ema=0.15"]
    status, out, err = run_main("--mode=ema", *arguments, "--config.sample.step=8")
    assert status == 0, err
    file = copied_run / "ema" / "width_0.15_step_8.npz"
    assert out == f"{file}\n"
    # Said once.
    assert err.count("4 snapshots") == err.count(" %.") == 1
    run = load_run(copied_run, step=8, ema=0.15)
    for ours, theirs in zip(
        jax.tree.leaves(load_params(file)), jax.tree.leaves(run.params), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    status, out, err = run_main("--mode=sample", *arguments, "--config.sample.num=4")
    assert status == 0, err
    assert "EMA of width 0.15 at step 12 from 6 snapshots" in err
    with np.load(copied_run / "samples" / "train.npz") as stored:
        assert stored["x"].shape == (4, 8, 8, 1)


def test_a_run_of_another_config_is_left_alone(refused, copied_run):
    sentence = refused(
        TINY,
        f"--workdir={copied_run}",
        "--config.network.channels=16",
        "--config.training.seed=3",
        "--config.training.num_steps=99",
    )
    assert "network.channels: 8 -> 16; training.seed: 0 -> 3." in sentence


@pytest.mark.parametrize("content", ["{", "[]", '{"network": {"channelz": 3}}', ""])
def test_a_corrupt_config_of_a_run(refused, copied_run, content):
    (copied_run / "config.json").write_text(content)
    for arguments in ([TINY], [], ["--mode=sample"], ["--mode=evaluate"]):
        assert "config.json cannot be read" in refused(*arguments, f"--workdir={copied_run}")


def damage(checkpoint):
    largest = max((checkpoint / "state").rglob("d/*"), key=lambda p: p.stat().st_size)
    octets = bytearray(largest.read_bytes())
    octets[len(octets) // 2] ^= 0xFF
    largest.write_bytes(octets)


def test_corrupt_checkpoints(refused, copied_run):
    for step in (4, 8, 12):
        damage(copied_run / "checkpoints" / str(step))
    for arguments in (
        [TINY, QUIET, "--config.training.num_steps=16"],
        ["--mode=sample"],
        ["--mode=evaluate"],
    ):
        sentence = refused(*arguments, f"--workdir={copied_run}")
        assert "can be restored" in sentence
        assert "nothing was deleted" in sentence


def test_a_corrupt_newest_checkpoint_and_no_config(run_main, copied_run):
    # The settings, too, come from the directory; and a finished run is not trained further.
    before = json.loads((copied_run / "evaluation.json").read_text())
    damage(copied_run / "checkpoints" / "12")
    (copied_run / "evaluation.json").unlink()
    status, _, err = run_main(f"--workdir={copied_run}")
    assert status == 0, err
    assert "Skipping checkpoint 12" in err
    assert "from step 8" in err
    assert storage.steps(copied_run / "checkpoints") == [4, 8, 12]
    after = json.loads((copied_run / "evaluation.json").read_text())
    # Four steps more took time.
    assert after["cost"].pop("training_seconds") > before["cost"].pop("training_seconds")
    assert after == before


def test_a_failure_of_the_run_has_another_status(run_main, tmp_path, monkeypatch):
    def loss_fn(config, fitted):
        def infinite(params, batch, keys):
            losses = params["log_variance"]["gain"] * batch.mask * np.inf
            return losses, {"denoising_loss": losses}

        return infinite

    monkeypatch.setattr(training, "loss_fn", loss_fn)
    status, _, err = run_main(*TOY, f"--workdir={tmp_path / 'run'}")
    assert status == 1
    assert "Failed: The loss or its gradient was not finite" in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_same_command_finishes(run_main, tmp_path, signum, status):
    arguments = [
        *TOY,
        f"--workdir={tmp_path / 'run'}",
        "--config.training.num_steps=1500",
        "--config.training.steps_per_call=10",
        "--config.checkpoint.every=100000",
        "--config.training.heldout_every=0",
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "gmm_diffusion.main", *arguments],
        cwd=REPOSITORY,
        env=os.environ
        | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PLATFORMS": "cpu"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            for line in process.stderr:
                if line.startswith("step 10/"):
                    break
            process.send_signal(signum)
            rest = process.stderr.read()
            assert process.wait(timeout=60) == status
        finally:
            process.kill()
    (note,) = [line for line in rest.splitlines() if line.startswith("Interrupted at step")]
    assert "Traceback" not in rest
    step = int(note.split("step ")[1].split(";")[0])
    assert 10 <= step < 1500
    assert storage.steps(tmp_path / "run" / "checkpoints") == [step]
    if signum == signal.SIGINT:
        return
    code, out, err = run_main(*arguments)
    assert code == 0, err
    assert f"from step {step}" in err
    assert storage.steps(tmp_path / "run" / "checkpoints") == [step, 1500]
    assert "evaluation.json" in out


def test_ctrl_c_ends_any_command_in_a_word(capsys):
    def interrupted(argv):
        raise KeyboardInterrupt

    assert command_line.run(["x"], __file__, interrupted) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_a_machine_that_does_not_know_its_name(monkeypatch):
    """As in a container whose /etc/hosts lacks it: JAX's message names a line of Gloo."""

    def refuse(*_):
        raise socket.gaierror(-2, "Name or service not known")

    def no_devices():
        raise RuntimeError("[enforce fail at gloo/transport/tcp/device.cc:99] rv == 0. -2 vs 0")

    monkeypatch.setattr(jax, "devices", no_devices)
    with pytest.raises(InputError, match="JAX finds no device there"):
        command_line.prepare_jax()
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(InputError, match=f"called {socket.gethostname()}, and finds no address"):
        command_line.prepare_jax()
