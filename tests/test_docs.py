"""The code in the docs runs as it stands."""

import pathlib
import re

import pytest

REPOSITORY = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["mixture.md", "likelihood.md", "python.md"])
def test_code_runs(name, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / name).read_text(), re.S)
    assert blocks
    names: dict = {}
    for block in blocks:
        exec(compile(block, name, "exec"), names)
    assert "True" in capsys.readouterr().out
