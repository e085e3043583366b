"""The notebooks in colab/: clean files, a first cell that installs only what is missing, and a run.

What their prose claims their own cells assert.
"""

import importlib.metadata
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import types

import nbformat
import pytest
import quick_compiling
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).parents[1] / "colab"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
PIP = [sys.executable, "-m", "pip", "install", "--quiet"]
# Nobody drags a slider here: a value is set, and the samples must be asked for with it.
MOVE = """
asked = []
weighted_samples = lambda weights: asked.append(weights) or (modes, None)
sliders["w0"].value = 0.7
assert len(asked) == 1
assert asked[0][0] == 0.7
assert abs(asked[0].sum() - 5.7) < 1e-9
"""
WITHOUT_WIDGETS = "import sys; sys.modules['ipywidgets'] = None"


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def execute(notebook, folder, flags):
    """Runs all cells in a kernel of their own, with XLA_FLAGS; the first that fails is an error."""
    # On the devices that there are, and not on those that the other tests pretend to have.
    environment = os.environ | {"GMM_DIFFUSION_BRIEF": "1", "XLA_FLAGS": flags}
    place = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place)
    client.execute(env=environment)


def num_pictures(cells):
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def printed(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def install_cell(name):
    return next(cell.source for cell in read(name).cells if cell.cell_type == "code")


def test_both_are_here():
    assert NAMES == ["mixtures", "quickstart"]


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_clean(name):
    text = (FOLDER / f"{name}.ipynb").read_text()
    content = json.loads(text)
    assert text == json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    nbformat.validate(read(name))
    assert set(content["metadata"]) == {"kernelspec", "language_info"}
    for cell in content["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.fixture
def commands(monkeypatch):
    """What the first cell would run where the package is missing."""
    ran: list = []
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(subprocess, "run", lambda command, check: ran.append(command))
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == "gmm_diffusion" else find_spec(n)
    )
    return ran


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_package_is_installed_from_a_clone(name, commands, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    source = install_cell(name)
    with pytest.raises(RuntimeError, match="set REPOSITORY in this cell"):
        exec(source, {})
    assert commands == []
    assert source.count('REPOSITORY = ""') == 1
    exec(source.replace('REPOSITORY = ""', 'REPOSITORY = "ADDRESS"'), {})
    assert commands == [["git", "clone", "--quiet", "ADDRESS", "clone"], [*PIP, "clone"]]


@pytest.mark.parametrize("name", NAMES)
def test_in_a_clone_it_is_installed_from_there(name, commands, monkeypatch):
    monkeypatch.chdir(FOLDER)
    exec(install_cell(name), {})
    assert commands == [[*PIP, ".."]]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_there_is_left_alone(name, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something was run"))
    exec(install_cell(name), {})
    assert f"jax {importlib.metadata.version('jax')}\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_a_package_replaced_while_in_use_asks_for_a_restart(name, monkeypatch):
    older = types.SimpleNamespace(__version__="0.0.1")
    monkeypatch.setitem(sys.modules, "jaxlib", older)
    with pytest.raises(RuntimeError, match="jaxlib was replaced while in use: restart the session"):
        exec(install_cell(name), {})


def test_the_quickstart_runs(tmp_path):
    notebook = read("quickstart")
    execute(notebook, tmp_path, quick_compiling.FLAGS)
    # Real digits, classes, components, a blend and guidance.
    assert num_pictures(notebook.cells) == 5
    (scores,) = (cell for cell in notebook.cells if "gd.evaluate" in cell.source)
    assert "agreement_200" in printed(scores)


def test_the_mixtures_run_with_sliders_and_without(tmp_path):
    notebook = read("mixtures")
    cells = list(notebook.cells)
    (sliders,) = (cell for cell in cells if "import ipywidgets" in cell.source)
    added = (MOVE, WITHOUT_WIDGETS, sliders.source)
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in added]
    # It trains for longer than it compiles.
    execute(notebook, tmp_path, "")
    # Density, responsibilities, denoiser, the claim, weights, the tree, energies and gradients.
    assert num_pictures(cells) == 8
    assert "There is no ipywidgets" not in printed(sliders)
    assert "There is no ipywidgets" in printed(notebook.cells[-1])
