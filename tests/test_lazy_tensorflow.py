"""TensorFlow is imported in one place only, late, without accelerators, and may be absent."""

import ast
import os
import pathlib
import subprocess
import sys
import types

import pytest

import gmm_diffusion
from gmm_diffusion import lazy_tensorflow
from gmm_diffusion.data import tfds_images
from gmm_diffusion.errors import InputError

PACKAGE = pathlib.Path(gmm_diffusion.__file__).parent
HEAVY = ("tensorflow", "tensorflow_datasets", "tensorboard", "flax.metrics")
HEAVY_CLU = ("metric_writers", "periodic_actions", "deterministic_data", "preprocess_spec")


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_it_is_the_only_place():
    found = []
    for path in PACKAGE.rglob("*.py"):
        for name in _imports(path):
            clu = name.startswith("clu.") and name.split(".")[1] in HEAVY_CLU
            if clu or any(name == h or name.startswith(f"{h}.") for h in HEAVY):
                found.append((path.name, name))
        text = path.read_text()
        # The package's face imports modules of its own, and a decoder of latents is a user's.
        text = text.replace('import_module(f"{__name__}.', "")
        if path.name == "latents.py":
            text = text.replace("import_module(module)", "")
        if path.name != "lazy_tensorflow.py" and "import_module(" in text:
            found.append((path.name, "import_module"))
    assert found == []


def test_importing_data_and_metrics_imports_neither_tensorflow_nor_scikit_learn():
    code = (
        "import sys, gmm_diffusion.data, gmm_diffusion.data.batches, gmm_diffusion.lazy_tensorflow;"
        "assert not {'tensorflow', 'tensorflow_datasets', 'sklearn'} & set(sys.modules);"
        "import gmm_diffusion.metrics.features, gmm_diffusion.metrics.manifold;"
        "assert not {'tensorflow', 'tensorflow_datasets', 'tensorboard'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=PACKAGE.parent)


@pytest.mark.parametrize(
    ("module", "function"),
    [
        ("tensorflow", lazy_tensorflow.import_tensorflow),
        ("tensorflow_datasets", lazy_tensorflow.import_tensorflow_datasets),
        ("tensorboard", lazy_tensorflow.import_metric_writers),
    ],
)
def test_absent(monkeypatch, module, function):
    monkeypatch.setitem(sys.modules, module, None)
    assert not lazy_tensorflow.available()
    with pytest.raises(InputError, match=rf"drawing needs {module}.*pip install -e .*\[data\]"):
        function("drawing")


def test_a_dataset_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(InputError, match="dataset cifar10 needs tensorflow, which cannot be"):
        tfds_images.load("cifar10")


def test_accelerators_are_hidden(monkeypatch):
    hidden = []
    fake = types.ModuleType("tensorflow")
    fake.config = types.SimpleNamespace(set_visible_devices=lambda *args: hidden.append(args))
    monkeypatch.setitem(sys.modules, "tensorflow", fake)
    assert lazy_tensorflow.import_tensorflow() is fake
    assert hidden == [([], "GPU"), ([], "TPU")]


def test_too_late_to_hide_warns(monkeypatch):
    def refuse(*args):
        raise RuntimeError("already initialized")

    fake = types.ModuleType("tensorflow")
    fake.config = types.SimpleNamespace(set_visible_devices=refuse)
    monkeypatch.setitem(sys.modules, "tensorflow", fake)
    with pytest.warns(UserWarning, match="in use before its accelerators could be hidden"):
        lazy_tensorflow.import_tensorflow()


def test_a_setting_of_the_user_stands(monkeypatch):
    fake = types.ModuleType("tensorflow")
    fake.config = types.SimpleNamespace(set_visible_devices=lambda *_: None)
    monkeypatch.setitem(sys.modules, "tensorflow", fake)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    lazy_tensorflow.import_tensorflow()
    assert (os.environ["TF_ENABLE_ONEDNN_OPTS"], os.environ["TF_CPP_MIN_LOG_LEVEL"]) == ("1", "0")


def test_present_and_without_a_line_of_its_own():
    code = (
        "from gmm_diffusion import lazy_tensorflow as lazy;"
        "assert lazy.available();"
        "assert hasattr(lazy.import_metric_writers(), 'create_default_writer')"
    )
    own = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=PACKAGE.parent,
        env=own,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
