"""Whose directory it is: nothing but runs of ours, and of the same model."""

import json
import math

import pytest

from gmm_diffusion import config as config_lib
from gmm_diffusion.errors import InputError
from gmm_diffusion.runs import workdir


def test_a_new_directory_becomes_a_run(tmp_path):
    config, path = config_lib.default(), tmp_path / "a" / "b"
    assert workdir.check(config, path) is False
    assert not (tmp_path / "a").exists()
    workdir.write_config(config, path)
    assert [p.name for p in path.iterdir()] == ["config.json"]
    assert workdir.check(config, path) is True
    assert config_lib.fields(workdir.read_config(path)) == config_lib.fields(config)


def test_an_empty_directory_is_as_good_as_none(tmp_path):
    assert workdir.check(config_lib.default(), tmp_path) is False


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"is not empty and holds no config\.json"):
        workdir.check(config_lib.default(), tmp_path)
    with pytest.raises(InputError, match="which is a file"):
        workdir.check(config_lib.default(), tmp_path / "thesis.tex")
    with pytest.raises(InputError, match="cannot be written"):
        workdir.write_config(config_lib.default(), tmp_path / "thesis.tex" / "run")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


FREE = {
    "training.num_steps": 7,
    "training.steps_per_call": 3,
    "training.log_every": 9,
    "training.max_nonfinite": 5,
    "checkpoint.keep": 9,
    "evaluation.blocks": 9,
    "sample.steps": 9,
}
BOUND = {
    "data.flip": True,
    "conditioning.num_components": 20,
    "network.channel_mult": (1, 1),
    "diffusion.sigma_log_std": 0.5,
    "optimizer.beta1": 0.5,
    "training.seed": 9,
    "training.batch_size": 256,
    "training.ema_widths": (0.05,),
}


@pytest.mark.parametrize("field", [*FREE, *BOUND])
def test_what_a_continued_run_may_change(tmp_path, field):
    workdir.write_config(config_lib.default(), tmp_path)
    config = config_lib.default()
    value = (FREE | BOUND)[field]
    config.update_from_flattened_dict({field: value})
    if field in FREE:
        assert workdir.check(config, tmp_path)
        return
    with pytest.raises(InputError, match="holds a run with another config") as caught:
        workdir.check(config, tmp_path)
    group, name = field.split(".")
    usual = config_lib.default()[group][name]
    assert f"{field}: {usual!r} -> {value!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"training": {"num_st', "cannot be read as the config"),
        (b"\xff\xfe\x00", "cannot be read as the config"),
        (b"[1, 2]", "cannot be read as the config"),
        (b"", "cannot be read as the config"),
        (b'{"trainin": {}}', "trainin is not a group of settings"),
        (b'{"training": 3}', "training is not a group of settings"),
        (b'{"training": {"num_stepz": 3}}', r"training\.num_stepz is not a setting of this"),
        (b'{"training": {"num_steps": "a"}}', r"training\.num_steps is 'a'; it must be a int"),
    ],
)
def test_a_damaged_config_is_one_sentence(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    for read in (workdir.read_config, lambda path: workdir.check(config_lib.default(), path)):
        with pytest.raises(InputError, match=message):
            read(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == content


def test_no_config_or_none_that_can_be_opened(tmp_path):
    with pytest.raises(InputError, match=r"holds no config\.json"):
        workdir.read_config(tmp_path)
    (tmp_path / "config.json").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        workdir.read_config(tmp_path)


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "result.json"
    workdir.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        workdir.write_json(path, {"a": 1, "b": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_another_number_of_steps_says_what_it_does_to_the_rate(tmp_path, caplog):
    config = config_lib.default()
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 1e-2, 0
    config.training.num_steps, config.optimizer.schedule = 12, "cosine"
    workdir.write_config(config, tmp_path)
    workdir.check(config, tmp_path)
    assert caplog.text == ""
    config.training.num_steps = 20
    workdir.check(config, tmp_path)
    # Half a cosine over 20 steps, at step 12; at the end of 12 it is 0.
    rate = 1e-2 * (1 + math.cos(math.pi * 12 / 20)) / 2
    assert f"at step 12, which was to be 0, is now {rate:.3g}." in caplog.text
    assert "training.num_steps goes from 12 to 20" in caplog.text
    # A schedule that does not know the end, and then one whose ramp half of the run cuts short.
    for schedule, warmup, says in (("edm2", 0, False), ("constant", 0, False), ("edm2", 100, True)):
        caplog.clear()
        config.optimizer.schedule, config.optimizer.warmup_steps = schedule, warmup
        config.training.num_steps = 12
        workdir.write_config(config, tmp_path)
        config.training.num_steps = 1000
        workdir.check(config, tmp_path)
        assert ("learning rate at step 12" in caplog.text) is says
