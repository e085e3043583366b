"""Experiments refuse a command line at once: what comes after takes minutes or hours."""

import importlib
import pathlib
import re

import pytest

SOURCES = {
    path.stem: path.read_text()
    for path in pathlib.Path(__file__).parents[2].joinpath("experiments").glob("run_*.py")
}
# Its --out is a picture.
OTHERS = {"run_faces_figure"}
COUNTS = [
    (name, flag)
    for name, text in sorted(SOURCES.items())
    for flag in re.findall(r'add_argument\("--(\w+)", type=flags\.count', text)
]
NAMES = [
    (name, flag)
    for name, text in sorted(SOURCES.items())
    for flag in re.findall(r'add_argument\(\s*"--(\w+)",\s*type=flags\.names', text)
]


def refused(name, arguments, capsys):
    assert importlib.import_module(f"experiments.{name}").run(arguments) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    return sentence


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - OTHERS))
def test_a_place_that_is_a_file(name, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    said = refused(name, [f"--out={tmp_path / 'file'}"], capsys)
    assert said.startswith("Error: out is ")
    assert said.endswith("which is a file; it must be a directory.")


@pytest.mark.parametrize(("name", "flag"), COUNTS)
def test_counts_begin_at_one(name, flag, tmp_path, capsys):
    out = tmp_path / "x.png" if name in OTHERS else tmp_path
    for value in ("0", "-3", "1.5", "9" * 400):
        said = refused(name, [f"--out={out}", f"--{flag}={value}"], capsys)
        assert said == f"Error: {flag} is {value}; valid are whole numbers from 1 on."


@pytest.mark.parametrize(("name", "flag"), NAMES)
def test_names_are_known(name, flag, tmp_path, capsys):
    said = refused(name, [f"--out={tmp_path}", f"--{flag}=x"], capsys)
    assert said.startswith(f"Error: {flag} has 'x'; valid are ")


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - OTHERS))
def test_without_a_place(name, capsys):
    assert "required: --out; see --help" in refused(name, [], capsys)


def test_a_picture_is_no_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for place, cause in (("", "which is not a file but a directory."), ("none/x.png", "exists.")):
        assert refused("run_faces_figure", [f"--out={tmp_path / place}"], capsys).endswith(cause)


@pytest.mark.parametrize("flag", ["seed", "people"])
def test_people_are_numbered_from_zero(flag, tmp_path, capsys):
    said = refused("run_faces_figure", [f"--out={tmp_path / 'x.png'}", f"--{flag}=-1"], capsys)
    assert said == f"Error: {flag} is -1; valid are whole numbers from 0 on."


@pytest.mark.parametrize("value", ["x", "0,nan", "-1", "1,inf", ""])
def test_weights_are_numbers_from_zero(value, tmp_path, capsys):
    said = refused("run_score_error", [f"--out={tmp_path}", f"--weights={value}"], capsys)
    assert said == f"Error: weights is {value}; valid are numbers from 0 on, as 0,0.5,1."


def test_all_experiments_are_here():
    assert len(SOURCES) > 12
    assert len(COUNTS) > 15
    assert len(NAMES) == 3
    for name, text in SOURCES.items():
        assert "type=int" not in text, name
