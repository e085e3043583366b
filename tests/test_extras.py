"""What setup.py asks for is what the code imports, and advice in messages can be followed."""

import ast
import importlib.metadata
import pathlib
import re
import shlex
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gmm_diffusion import extras
from gmm_diffusion.data import Dataset, Split
from gmm_diffusion.errors import InputError
from gmm_diffusion.metrics.features import make_extractor

REPOSITORY = pathlib.Path(__file__).parents[1]


def setup_of():
    """The body of setup.py, and its lists of requirements by their names, without running it."""
    tree = ast.parse((REPOSITORY / "setup.py").read_text())
    values = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List):
            items = [
                values[e.value.id] if isinstance(e, ast.Starred) else [e.value]
                for e in node.value.elts
            ]
            values[node.targets[0].id] = [text for item in items for text in item]
    return tree, values


def extras_of_setup():
    """Extra -> requirements."""
    tree, values = setup_of()
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    (call,) = [node for node in calls if ast.unparse(node.func) == "setup"]
    (given,) = [k.value for k in call.keywords if k.arg == "extras_require"]
    pairs = zip(given.keys, given.values, strict=True)
    return {key.value: values[value.id] for key, value in pairs}


def distributions(requirements):
    return {canonicalize_name(Requirement(text).name): Requirement(text) for text in requirements}


def test_the_core_is_what_the_package_imports():
    imported = set()
    for path in REPOSITORY.glob("gmm_diffusion/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    imported -= {*sys.stdlib_module_names, "gmm_diffusion"}
    owners = importlib.metadata.packages_distributions()
    found = {canonicalize_name(owner) for name in imported for owner in set(owners[name])}
    core = set(distributions(setup_of()[1]["CORE"]))
    # Of extras only what needs them imports them.
    others = set(distributions(name for extra in extras_of_setup().values() for name in extra))
    assert core <= found <= core | others


def test_constraints_are_of_what_is_asked_for():
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pinned = {k: r.specifier for k, r in distributions(lines[1:]).items()}
    _, lists = setup_of()
    wanted = distributions(lists["CORE"] + lists["TEST"])
    for name in wanted.keys() - {"setuptools", "wheel"}:  # Which `pip freeze` leaves out.
        asked = wanted[name]
        if asked.marker is None or asked.marker.evaluate():
            (pin,) = pinned[name]
            assert pin.operator == "=="
            assert asked.specifier.contains(pin.version), f"{name}: {pin} and {asked.specifier}"


def test_the_command_names_this_clone():
    command = re.fullmatch("`(pip install -e .*)`", extras.advice("data"))[1]
    *start, what = shlex.split(command)
    assert start == ["pip", "install", "-e"]
    place, extra = re.fullmatch(r"(.*)\[(.*)\]", what).groups()
    assert pathlib.Path(place).samefile(REPOSITORY)
    assert extra in extras_of_setup()


def test_a_copy_names_a_clone(monkeypatch, tmp_path):
    monkeypatch.setattr(extras, "ROOT", tmp_path)
    assert "in the clone" in extras.advice("data")
    assert str(tmp_path) not in extras.advice("data")


def test_every_extra_that_is_advised_exists():
    known, found = extras_of_setup(), set()
    for path in [*REPOSITORY.glob("gmm_diffusion/**/*.py"), *REPOSITORY.glob("configs/*.py")]:
        text = path.read_text()
        found |= {(path.name, extra) for extra in re.findall(r"extras\.advice\(['\"](\w+)", text)}
        # Any other advice must be of a clone: the package is in no registry. The check of a machine
        # is about other packages.
        if path.name not in ("extras.py", "check_env.py"):
            for advised in re.findall(r"pip install ([^\n]*)", text):
                extra = re.match(r"-e '\.\[(\w+)\]'", advised)
                assert extra, f"{path} advises pip install {advised}"
                found.add((path.name, extra[1]))
    assert {extra for _, extra in found} >= {"data", "features"}
    for name, extra in found:
        assert extra in known, f"{name} advises [{extra}]"


def test_flatbuffers_is_named_where_it_is_missing(tmp_path, monkeypatch):
    (b,) = jax.export.symbolic_shape("b")
    spec = jax.ShapeDtypeStruct((b, 4, 4, 1), jnp.float32)
    exported = jax.export.export(jax.jit(lambda x: x.mean(axis=(1, 2))))(spec)
    (tmp_path / "f").write_bytes(exported.serialize())
    split = Split(np.zeros((3, 4, 4, 1), np.uint8))
    data, features = Dataset("black", split, split), f"file:{tmp_path / 'f'}"
    assert make_extractor(features, data).extract(split.x).shape == (3, 1)
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(InputError, match=r"needs flatbuffers.*\[features\]") as caught:
        make_extractor(features, data)
    assert extras.advice("features") in str(caught.value)
    assert any(text.startswith("flatbuffers") for text in extras_of_setup()["features"])
