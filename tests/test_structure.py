"""The plan of the house: who may import whom, and what lives in one place."""

import ast
import pathlib
import subprocess
import sys

import pytest

import gmm_diffusion

PACKAGE = pathlib.Path(gmm_diffusion.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
CORE = ("mixture", "conditioning", "networks", "diffusion", "sampling")

# part -> what it may import of the others. The order is the one in which data flow.
ALLOWED = {
    "errors": set(),
    "types": set(),
    "attribute_names": {"errors"},
    "npz_files": {"errors"},
    "extras": set(),
    "paths": {"errors"},
    "standard_streams": set(),
    "lazy_tensorflow": {"errors", "extras"},
    "config": {"errors", "paths"},
    "command_line": {"errors", "config", "paths", "standard_streams"},
    "mixture": {"errors", "types"},
    "networks": {"errors", "types"},
    "diffusion": {"errors", "types"},
    "sampling": {"errors", "types", "diffusion"},
    "conditioning": {"attribute_names", "errors", "types", "mixture"},
    "data": {"attribute_names", "errors", "types", "lazy_tensorflow", "mixture"},
    "metrics": {"errors", "extras", "npz_files", "paths", "types", "data", "networks", "mixture"},
    "sweep": {"errors", "config", "paths", "training"},
    "report": {"errors", "command_line", "config", "paths", "training"},
}
# The pure part of training is core, too.
TRAINING_CORE = (
    "training.step",
    "training.loss",
    "training.ema",
    "training.posthoc_ema",
    "training.state",
)


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """Full dotted names that a file imports, wherever it does so."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts_imported(path):
    for name in imports(path):
        if name.startswith("gmm_diffusion."):
            yield name.split(".")[1]


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_flow_one_way(part):
    paths = [p for p in SOURCES if module_name(p).split(".")[0] == part]
    assert paths, f"{part} is gone: this test looks at nothing"
    for path in paths:
        wrong = set(parts_imported(path)) - ALLOWED[part] - {part}
        assert not wrong, f"{path.relative_to(PACKAGE)} imports {sorted(wrong)}"


def test_only_the_edge_imports_the_edge():
    for path in SOURCES:
        name, parts = module_name(path), set(parts_imported(path))
        if name != "main":
            assert "main" not in parts, name
        if name not in ("main", "evaluation", "training.loop", "training.offline"):
            assert "evaluation" not in parts, name
        if name.startswith("training.") and name in TRAINING_CORE:
            edge = {"assembly", "build", "config", "evaluation", "generation", "data"}
            assert not parts & edge, name


FORBIDDEN = ("tensorflow", "clu", "absl", "ml_collections", "tensorflow_datasets", "logging")


def test_the_core_reads_no_config_and_no_file():
    looked_at = 0
    for path in SOURCES:
        name = module_name(path)
        if name.split(".")[0] not in CORE and name not in TRAINING_CORE:
            continue
        looked_at += 1
        wrong = {i for i in imports(path) if i.split(".")[0] in (*FORBIDDEN, "pathlib", "os")}
        assert not wrong, f"{name} imports {wrong}"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("open", "print"), f"{name} calls {node.func.id}"
    assert looked_at > 20


def test_importing_the_core_loads_nothing_heavy():
    # optax itself imports absl, so what counts there is who asks: see the test above.
    modules = [f"gmm_diffusion.{part}" for part in (*CORE, *TRAINING_CORE)]
    heavy = ["tensorflow", "clu", "ml_collections", "tensorflow_datasets", "orbax", "matplotlib"]
    code = (
        f"import sys, {', '.join(modules)};"
        f"found = [m for m in {heavy!r} if m in sys.modules];"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=PACKAGE.parent)


def calls(path):
    """Dotted names of everything that a file mentions with at least one dot."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node)


ONE_PLACE = {
    "training/devices.py": ("jax.pmap", "jax.shard_map", "jax_utils.replicate"),
    "data/resize.py": ("jax.image.resize", "tf.image.resize", "image.resize"),
}


@pytest.mark.parametrize("home", ONE_PLACE)
def test_one_place_for(home):
    assert (PACKAGE / home).is_file()
    for path in SOURCES:
        if path == PACKAGE / home:
            continue
        found = {name for name in (*calls(path), *imports(path)) if name.endswith(ONE_PLACE[home])}
        assert not found, f"{path.relative_to(PACKAGE)} uses {found}"


def test_devices_is_where_pmap_is():
    assert "jax.pmap" in set(calls(PACKAGE / "training/devices.py"))


def test_every_public_name_has_a_docstring():
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), f"{path.relative_to(PACKAGE)} has no docstring"
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                where = f"{path.relative_to(PACKAGE)}: {node.name}"
                assert ast.get_docstring(node), f"{where} has no docstring"


def test_what_tfds_forgets_to_declare_is_installed():
    # tensorflow/datasets#11212: loading a dataset needs it, preparing one does not.
    import importlib_resources

    assert importlib_resources.files("gmm_diffusion").is_dir()
