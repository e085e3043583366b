"""Runs that a config names are looked for before anything that takes long."""

import subprocess
import sys

import pytest

from gmm_diffusion import config as config_lib
from gmm_diffusion.errors import InputError
from gmm_diffusion.runs import other_runs, workdir

# Field, what makes it be read, and whether a run that goes on reads it, too.
FIELDS = [
    ("guidance.guide", {"guidance.kind": "auto", "guidance.scale": 2.0}, True),
    ("guidance.classifier", {"guidance.energy": 1.0}, True),
    ("conditioning.classifier", {"conditioning.features": "classifier"}, False),
    ("ngmg.workdir", {"ngmg.weight": 0.1}, False),
    ("training.init_from", {}, False),
]


def config_of(values):
    config = config_lib.default()
    for field, value in values.items():
        group, name = field.split(".")
        config[group][name] = value
    return config


@pytest.mark.parametrize(("field", "values", "always"), FIELDS)
def test_one_that_is_not_there_is_refused(field, values, always, tmp_path):
    config = config_of(values | {field: str(tmp_path / "nowhere")})
    with pytest.raises(InputError, match=rf"{field} is '.*nowhere', which is no folder"):
        other_runs.check(config, new=True)
    (tmp_path / "nowhere").mkdir()
    with pytest.raises(InputError, match=rf"{field} is '.*nowhere', which holds no config.json"):
        other_runs.check(config, new=True)
    if always:
        with pytest.raises(InputError, match=field):
            other_runs.check(config, new=False)
    else:
        other_runs.check(config, new=False)
    workdir.write_config(config_lib.default(), tmp_path / "nowhere")
    other_runs.check(config, new=True)


def test_one_that_has_no_say_need_not_be_there(tmp_path):
    nowhere = str(tmp_path / "nowhere")
    unread = {"guidance.guide": nowhere, "guidance.classifier": nowhere, "ngmg.workdir": nowhere}
    other_runs.check(config_of(unread), new=True)
    scale = {"guidance.kind": "auto", "guidance.scale": 1.0, "guidance.guide": nowhere}
    other_runs.check(config_of(scale), new=True)


def test_before_jax_has_loaded(tmp_path):
    code = (
        "import sys; from gmm_diffusion import main;"
        "status = main.run(sys.argv);"
        "assert 'jax' not in sys.modules; sys.exit(status)"
    )
    flags = ["--config=tiny", "--config.guidance.kind=auto", "--config.guidance.scale=2"]
    flags += [f"--config.guidance.guide={tmp_path / 'no'}", f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-c", code, *flags], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        f"Error: guidance.guide is '{tmp_path / 'no'}', which is no folder; it must be the "
        "directory of a run.\n"
    )
    assert not (tmp_path / "run").exists()
