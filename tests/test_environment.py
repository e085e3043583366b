"""What the environment may hold: devices that are not there, poor encodings, closed streams."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from gmm_diffusion import command_line, main
from gmm_diffusion import config as config_lib
from gmm_diffusion.assembly import load as load_lib
from gmm_diffusion.commands import sample
from gmm_diffusion.errors import InputError
from gmm_diffusion.runs import storage, workdir

REPOSITORY = pathlib.Path(__file__).parents[1]
# As JAX 0.10 fails: with an empty AssertionError for CUDA without a CUDA plugin.
FAILURES = {
    "cuda": (AssertionError(), "no such device"),
    "tpu": (
        RuntimeError("Unable to initialize backend 'tpu': no libtpu.so (set JAX_PLATFORMS='')\nx"),
        "Unable to initialize backend 'tpu': no libtpu.so",
    ),
}


@pytest.mark.parametrize("platform", FAILURES)
def test_devices_that_are_not_there(platform, run_main, tmp_path, monkeypatch):
    error, cause = FAILURES[platform]

    def no_devices():
        raise error

    workdir.write_config(config_lib.default(), tmp_path / "run")
    monkeypatch.setenv("JAX_PLATFORMS", platform)
    monkeypatch.setattr(jax, "devices", no_devices)
    monkeypatch.setattr(storage, "read", None)
    monkeypatch.setattr(load_lib, "load_run", None)
    for mode in ("train", "sample", "evaluate", "ema"):
        status, out, err = run_main(f"--mode={mode}", f"--workdir={tmp_path / 'run'}")
        assert (status, out) == (2, "")
        assert err == (
            f"Error: JAX_PLATFORMS is {platform!r}, and JAX finds no device there ({cause}); it "
            "must name what this machine has, such as cpu, or be unset.\n"
        )


def test_devices_that_are_there(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    command_line.prepare_jax()


def test_32_and_64_bits_say_what_to_set(make_config, tmp_path):
    """A run of single precision, read in double precision; and the reverse."""
    config = make_config("toy")
    config.conditioning.kind = "none"
    shape = (2,)
    with storage.open(tmp_path / "checkpoints", asynchronous=False) as store:
        store.save(1, {"count": jax.numpy.zeros(3, jax.numpy.float32)}, {}, {"shape": shape})
        for stored, here in ((32, 64), (64, 32)):
            if stored == 64:
                with jax.enable_x64(True):
                    wide = {"count": jax.numpy.zeros(3, jax.numpy.float64)}
                    store.save(2, wide, {}, {"shape": shape})
            target = {"count": jax.ShapeDtypeStruct((3,), f"float{here}")}
            with pytest.raises(InputError, match=f"JAX_ENABLE_X64={int(stored == 64)} in the"):
                store.restore(target)
        other = {"count": jax.ShapeDtypeStruct((4,), "float64")}
        with pytest.raises(InputError, match=r"float64 \[3\].*float64 \[4\] here\.$"):
            store.restore(other)


def command(environment, line, *arguments):
    """A real process, with its output as bytes."""
    return subprocess.run(
        ["bash", "-c", line, sys.executable, sys.executable, *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)} | environment,
        capture_output=True,
        timeout=120,
    )


def test_help_without_docstrings_into_a_pipe_that_closes():
    done = command(
        {"PYTHONUNBUFFERED": "1"},
        'set -o pipefail; "$1" -OO -m gmm_diffusion.main --help | head -n 1; echo ${PIPESTATUS[0]}',
    )
    assert done.stdout.decode().split("\n") == [main.__doc__.splitlines()[0], "0", ""]
    assert done.stderr == b""


def test_a_poor_locale_without_a_home(tmp_path):
    """Names beyond ASCII where Python may not use UTF-8, no HOME, and standard error closed."""
    folder = tmp_path / "bilder"
    (folder / "Größe").mkdir(parents=True)
    (folder / "猫").mkdir()
    from PIL import Image

    for c in ("Größe", "猫"):
        for i in range(4):
            Image.new("L", (8, 8), 20 * i).save(folder / c / f"{i}.png")
    poor = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = command(
        poor | {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path / "cache")},
        'cd "$2"; exec 2>&-; "$1" -m gmm_diffusion.inspect_data --config="$3" '
        "--config.data.name=image_folder --config.data.data_dir=bilder "
        '--config.conditioning.kind=none --out=sheet; echo "status $?"',
        str(tmp_path),
        str(REPOSITORY / "configs" / "tiny.py"),
    )
    text = done.stdout.decode()
    assert "status 0" in text, text
    assert "\nclasses    2: " in text
    assert (tmp_path / "sheet" / "sheet.png").stat().st_size > 0
    assert not (tmp_path / "~").exists()


def test_a_workdir_in_a_poor_locale_is_refused_before_the_work(run_main, tmp_path):
    # What Python makes of rün there.
    name = tmp_path / "r\udcc3\udcbcn"
    tiny = f"--config={REPOSITORY / 'configs' / 'tiny.py'}"
    status, out, err = run_main(tiny, f"--workdir={name}")
    assert (status, out) == (2, "")
    assert err.startswith("Error: --workdir is ")
    assert "set PYTHONUTF8=1" in err
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="PYTHONUTF8=1"):
        sample.sample(config_lib.default(), name)
