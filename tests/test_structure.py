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

# part, a folder or a module -> what it may import of the others. A part stands below all that it
# names: the order is the one in which data flow, and there are no circles.
ALLOWED = {
    "__init__": set(),
    "errors": set(),
    "bounds": set(),
    "types": set(),
    "random_keys": {"types"},
    "tasks": set(),
    "extras": set(),
    "memory": set(),
    "signals": set(),
    "stages": {"types"},
    "standard_streams": set(),
    "shipped_configs": set(),
    "buckets": {"errors", "extras"},
    "paths": {"errors", "buckets"},
    "npz_files": {"errors", "paths"},
    "attribute_names": {"errors"},
    "lazy_tensorflow": {"errors", "extras"},
    "pictures": {"errors"},
    "cpu_devices": {"errors"},
    "allocator": set(),
    "devices": {"errors", "types"},
    "process_group": {"errors"},
    "processes": {"__init__", "errors", "types", "process_group"},
    "config": {"bounds", "errors", "paths", "tasks"},
    "command_line": {"errors", "config", "paths", "shipped_configs", "signals", "standard_streams"},
    "mixture": {"errors", "types"},
    "networks": {"errors", "types", "random_keys"},
    "diffusion": {"errors", "types", "random_keys"},
    "sampling": {"bounds", "errors", "types", "random_keys", "diffusion"},
    "conditioning": {"attribute_names", "errors", "types", "random_keys", "mixture"},
    "data": {
        "attribute_names",
        "errors",
        "extras",
        "types",
        "lazy_tensorflow",
        "memory",
        "mixture",
        "npz_files",
        "paths",
        "stages",
    },
    "metrics": {
        "devices",
        "errors",
        "extras",
        "npz_files",
        "paths",
        "types",
        "data",
        "networks",
        "mixture",
    },
    "model": {"bounds", "devices", "errors", "paths", "types", "random_keys", "data", *CORE},
    "training": {"bounds", "errors", "types", "random_keys", "model", *CORE},
    "runs": {
        "config",
        "errors",
        "extras",
        "lazy_tensorflow",
        "npz_files",
        "paths",
        "types",
        "data",
        "training",
    },
    "assembly": {
        "config",
        "errors",
        "paths",
        "tasks",
        "types",
        "random_keys",
        "data",
        "model",
        "training",
        "runs",
        *CORE,
    },
    "evaluation": {
        "config",
        "devices",
        "errors",
        "extras",
        "npz_files",
        "tasks",
        "types",
        "random_keys",
        "conditioning",
        "data",
        "diffusion",
        "sampling",
        "metrics",
        "model",
        "paths",
        "processes",
        "stages",
        "training",
        "runs",
        "assembly",
    },
    "commands": {
        "__init__",
        "bounds",
        "config",
        "cpu_devices",
        "devices",
        "errors",
        "paths",
        "pictures",
        "processes",
        "signals",
        "standard_streams",
        "tasks",
        "types",
        "random_keys",
        "conditioning",
        "data",
        "model",
        "networks",
        "training",
        "runs",
        "assembly",
        "evaluation",
    },
    "main": {
        "command_line",
        "cpu_devices",
        "allocator",
        "config",
        "devices",
        "errors",
        "paths",
        "process_group",
        "processes",
        "signals",
        "runs",
        "commands",
    },
    "inspect_mixture": {
        "errors",
        "pictures",
        "stages",
        "conditioning",
        "data",
        "model",
        "assembly",
    },
    "inspect_data": {
        "command_line",
        "config",
        "errors",
        "paths",
        "pictures",
        "data",
        "assembly",
        "evaluation",
        "inspect_mixture",
        "signals",
    },
    "make_stats": {
        "command_line",
        "config",
        "errors",
        "paths",
        "data",
        "metrics",
        "assembly",
        "evaluation",
        "signals",
    },
    "check_env": {
        "command_line",
        "errors",
        "extras",
        "memory",
        "paths",
        "process_group",
        "processes",
    },
    "sweep": {
        "__init__",
        "command_line",
        "config",
        "errors",
        "extras",
        "paths",
        "signals",
        "runs",
        "main",
    },
    "report": {"command_line", "config", "errors", "paths", "runs", "signals", "sweep"},
}
# Functions of arrays, as the core.
ARRAYS = (
    "model.denoiser",
    "model.classifier",
    "training.step",
    "training.accumulation",
    "training.loss",
    "training.classifier_loss",
    "training.contrastive_term",
    "training.optimizer",
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


def part_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def parts_imported(path):
    """The parts that a file imports; what stands in no part is a name of the package itself."""
    for name in imports(path):
        package, _, rest = name.partition(".")
        if package == "gmm_diffusion":
            part = rest.split(".")[0]
            there = (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").is_file()
            yield part if part and there else "__init__"


def test_every_part_is_listed():
    assert {part_of(path) for path in SOURCES} == set(ALLOWED)


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_flow_one_way(part):
    paths = [path for path in SOURCES if part_of(path) == part]
    assert paths, f"{part} is gone: this test looks at nothing"
    for path in paths:
        wrong = set(parts_imported(path)) - ALLOWED[part] - {part}
        assert not wrong, f"{path.relative_to(PACKAGE)} imports {sorted(wrong)}"


def below(part, graph):
    """All that a part reaches by imports."""
    found, left = set(), [part]
    while left:
        new = graph[left.pop()] - found
        found |= new
        left.extend(new)
    return found


def test_there_are_no_circles():
    real = {part: set() for part in ALLOWED}
    for path in SOURCES:
        real[part_of(path)] |= set(parts_imported(path)) - {part_of(path)}
    for graph in (ALLOWED, real):
        circles = [part for part in graph if part in below(part, graph)]
        assert not circles
    assert "x" in below("x", {"x": {"y"}, "y": {"x"}})


def test_there_are_no_circles_of_files():
    """Wherever a file imports, for its types or within a function, too."""
    files = {f"gmm_diffusion.{module_name(path)}".rstrip("."): path for path in SOURCES}
    graph = {}
    for name, path in files.items():
        # A name that is no module is a member of one.
        asked = ({n, n.rpartition(".")[0]} & files.keys() for n in imports(path))
        graph[name] = {max(found, key=len) for found in asked if found}
    assert "gmm_diffusion.model.generation" in graph["gmm_diffusion.model.model"]
    assert [name for name in graph if name in below(name, graph)] == []


def test_training_knows_no_edge():
    for path in SOURCES:
        if module_name(path) in ARRAYS:
            assert not set(parts_imported(path)) & {"data", "devices"}, path


FORBIDDEN = ("tensorflow", "clu", "absl", "ml_collections", "tensorflow_datasets", "logging")


def test_the_core_reads_no_config_and_no_file():
    looked_at = 0
    for path in SOURCES:
        name = module_name(path)
        if name.split(".")[0] not in CORE and name not in ARRAYS:
            continue
        looked_at += 1
        wrong = {i for i in imports(path) if i.split(".")[0] in (*FORBIDDEN, "pathlib", "os")}
        assert not wrong, f"{name} imports {wrong}"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("open", "print"), f"{name} calls {node.func.id}"
    assert looked_at > 40


def test_importing_the_core_loads_nothing_heavy():
    # optax itself imports absl, so what counts there is who asks: see the test above.
    modules = [f"gmm_diffusion.{part}" for part in (*CORE, *ARRAYS)]
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
    "devices.py": ("jax.pmap", "jax.shard_map", "jax_utils.replicate"),
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
    assert "jax.pmap" in set(calls(PACKAGE / "devices.py"))


def test_every_public_name_has_a_docstring():
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), f"{path.relative_to(PACKAGE)} has no docstring"
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                if any(getattr(d, "id", "") == "overload" for d in node.decorator_list):
                    continue  # The function that it stands for has one.
                where = f"{path.relative_to(PACKAGE)}: {node.name}"
                assert ast.get_docstring(node), f"{where} has no docstring"


def test_every_callable_says_what_it_returns():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                if node.name.startswith("_"):
                    continue
                arguments = [*node.args.args, *node.args.kwonlyargs]
                annotations = [node.returns, *(argument.annotation for argument in arguments)]
            elif isinstance(node, ast.AnnAssign):
                annotations = [node.annotation]
            else:
                continue
            for annotation in filter(None, annotations):
                bare = [n for n in ast.walk(annotation) if ast.unparse(n) == "Callable"]
                said = [
                    n
                    for n in ast.walk(annotation)
                    if isinstance(n, ast.Subscript) and ast.unparse(n.value) == "Callable"
                ]
                assert len(bare) == len(said), f"{path.relative_to(PACKAGE)}:{node.lineno}"


def test_every_public_function_has_types():
    def public(body):
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield from public(node.body)
            elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield node

    for path in SOURCES:
        for node in public(ast.parse(path.read_text()).body):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            bare = [a.arg for a in given if a.annotation is None and a.arg not in ("self", "cls")]
            where = f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}"
            assert not bare, f"{where}: {bare}"
            assert node.returns is not None, f"{where} returns"
            assert ast.unparse(node.returns) != "tuple", f"{where} returns a tuple of anything"


def test_no_public_signature_has_a_long_tuple():
    """Three values at most have no names."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
                continue
            arguments = [*node.args.args, *node.args.kwonlyargs]
            for annotation in (node.returns, *(argument.annotation for argument in arguments)):
                for part in ast.walk(annotation) if annotation else ():
                    if isinstance(part, ast.Subscript) and ast.unparse(part.value) == "tuple":
                        entries = getattr(part.slice, "elts", [part.slice])
                        assert len(entries) <= 3, f"{path.relative_to(PACKAGE)}:{node.lineno}"


def test_what_tfds_forgets_to_declare_is_installed():
    # tensorflow/datasets#11212: loading a dataset needs it, preparing one does not.
    import importlib_resources

    assert importlib_resources.files("gmm_diffusion").is_dir()
