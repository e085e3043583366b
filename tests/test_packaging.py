"""The wheel: what it holds, and that its commands work where there is no checkout."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest
import quick_compiling

from gmm_diffusion import command_line
from gmm_diffusion.errors import InputError

REPOSITORY = pathlib.Path(__file__).parents[1]
CONFIGS = sorted(path.name for path in (REPOSITORY / "configs").glob("*.py"))
COMMANDS = {
    "gmm-diffusion": "--mode=sample",
    "gmm-diffusion-sweep": "--parallel=N",
    "gmm-diffusion-report": "--heatmap",
    "gmm-diffusion-inspect-data": "DIR/sheet.png",
    "gmm-diffusion-check-env": "--expect=tpu",
    "gmm-diffusion-make-stats": "--out=FILE.npz",
}


def run(*arguments, **options):
    done = subprocess.run(
        list(map(str, arguments)), capture_output=True, text=True, timeout=300, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, because building leaves files behind."""
    source = tmp_path_factory.mktemp("source") / "checkout"
    kept = {"gmm_diffusion", "configs", "experiments", "setup.py", "pyproject.toml"}
    kept |= {"README.md", "LICENSE", "MANIFEST.in"}

    def left_out(folder, names):
        if pathlib.Path(folder) == REPOSITORY:
            return [name for name in names if name not in kept]
        return ["__pycache__"]

    shutil.copytree(REPOSITORY, source, ignore=left_out)
    out = tmp_path_factory.mktemp("wheel")
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    run(sys.executable, "-c", build, out, cwd=source)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The commands' folder of a new environment with the wheel and the packages that tests have."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=False)
    place = {"base": str(environment), "platbase": str(environment)}
    site = pathlib.Path(sysconfig.get_path("purelib", "venv", place))
    python = pathlib.Path(sysconfig.get_path("scripts", "venv", place)) / "python"
    # After the environment's own; ours would else be found before the wheel's.
    (site / "tests.pth").write_text("\n".join(p for p in sys.path if p.endswith("-packages")))
    install = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
    run(python, "-m", "pip", "install", *install, wheel)
    return python.parent


def test_the_wheel_holds_the_package_and_its_configs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"gmm_diffusion"}
    modules = {p.relative_to(REPOSITORY) for p in (REPOSITORY / "gmm_diffusion").rglob("*.py")}
    assert {p.as_posix() for p in modules} <= set(names)
    assert [n for n in CONFIGS if f"gmm_diffusion/configs/{n}" not in names] == []


def test_every_command_explains_itself(installed, tmp_path):
    for command, word in COMMANDS.items():
        assert word in run(installed / command, "--help", cwd=tmp_path)


def test_a_run_from_the_wheel(installed, tmp_path):
    environment = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"}
    environment |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": quick_compiling.FLAGS,
    }
    where = run(
        installed / "python",
        "-c",
        "import gmm_diffusion, importlib.util as u; print(gmm_diffusion.__file__); "
        "print(u.find_spec('experiments'))",
        cwd=tmp_path,
        env=environment,
    ).splitlines()
    assert pathlib.Path(where[0]).is_relative_to(installed.parent)
    assert where[1] == "None"
    run(
        installed / "gmm-diffusion",
        "--config=tiny",
        "--workdir=run",
        "--config.training.num_steps=4",
        "--config.training.tensorboard=false",
        "--config.evaluation.at_end=false",
        cwd=tmp_path,
        env=environment,
    )
    assert (tmp_path / "run" / "checkpoints" / "4").is_dir()
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["conditioning"]["feature_dim"] == 4  # as tiny.py, and not the default


def test_names_of_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command_line.config_file("tiny") == str(REPOSITORY / "configs" / "tiny.py")
    (tmp_path / "faces_gmm").mkdir()  # A folder is no config.
    shipped = command_line.config_file("faces_gmm")
    assert shipped == str(REPOSITORY / "configs" / "faces_gmm.py")
    (tmp_path / "tiny").write_text("a file of one's own")
    assert command_line.config_file("tiny") == "tiny"
    with pytest.raises(InputError, match=r"by its path or one of celeba_gmm, .*tree_gmm"):
        command_line.config_file("tinny")
