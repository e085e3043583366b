"""Four pretend devices, rank promotion an error, quick compiling, one cache for the whole run."""

import contextlib
import gc
import importlib.util
import io
import itertools
import logging
import os
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import quick_compiling

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + f" --xla_force_host_platform_device_count=4 {quick_compiling.FLAGS}"
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update(
    "jax_compilation_cache_dir", os.path.join(tempfile.gettempdir(), "gmm_diffusion_test_cache")
)
# Most tests of whole runs compile the same small programs again.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
# The command line leaves the cache alone where the environment names one.
os.environ["JAX_COMPILATION_CACHE_DIR"] = jax.config.jax_compilation_cache_dir

REPOSITORY = pathlib.Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def double_precision(request):
    """Double precision in tests marked `float64`, and in no other."""
    if request.node.get_closest_marker("float64"):
        with jax.enable_x64(True):
            yield
    else:
        yield


@pytest.fixture(autouse=True)
def quiet_root():
    """The level of a fresh Python; a command line that ran here before left INFO."""
    logging.getLogger().setLevel(logging.WARNING)


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Frees a module's compiled programs after it.

    Each maps memory of its own, and a process that reaches the system's bound on mappings (65,530
    on many Linux machines, a thousand tests or so) dies of a segmentation fault.
    """
    yield
    jax.clear_caches()
    gc.collect()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks the tests of slow.txt; `launch/slow_tests.py` writes it."""
    here = pathlib.Path(__file__).parent
    listed = set((here / "slow.txt").read_text().split())
    for item in items:
        if f"{item.path.relative_to(here).as_posix()}::{item.originalname}" in listed:
            item.add_marker("slow")


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable():
    """Reports of bytes that are no text, as some files' names have, from the processes of xdist."""
    return _encodable((yield))


def _encodable(value):
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_encodable, value))
    return value


def load_config(path):
    """What `get_config` of a file in the repository returns."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@pytest.fixture(scope="session")
def make_config():
    """`("tiny")`: configs/tiny.py. `("toy")`: with points in the plane, which compiles fast."""

    def make(name):
        config = load_config(REPOSITORY / "configs" / "tiny.py")
        config.training.tensorboard = False
        if name == "toy":
            config.data.name = "toy"
            config.data.num_train = 1000
            config.data.num_heldout = 100
            config.conditioning.feature_dim = 2
            config.conditioning.num_components = 4
            config.network.name = "mlp"
            config.network.width = 8
        return config

    return make


@pytest.fixture(scope="session")
def make_conditioner():
    """`(labels [N]) -> Conditioner` of two classes, by a learned table."""

    def make(label):
        from gmm_diffusion import conditioning

        return conditioning.create(
            conditioning.lay_out(2),
            None,
            np.arange(2),
            np.eye(2, dtype=np.float32)[label],
            np.asarray(label),
            2,
            embedding_name="table",
            semantics="example",
        )

    return make


@pytest.fixture(scope="session")
def storage_service():
    """Address and `Storage` of a stand-in for the service that keeps buckets."""
    name = "gmm_diffusion_storage_server"
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "tests" / "storage_server.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.serve() as served:
        yield served


_buckets = itertools.count()


@pytest.fixture
def bucket(storage_service, monkeypatch):
    """`(storage, name)`: a bucket that is new and empty, for this process and its children."""
    address, storage = storage_service
    for variable, value in {
        "STORAGE_EMULATOR_HOST": address,  # gcsfs, google-cloud-storage
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
        # It would ask for the kind of the bucket by another protocol, and for three seconds.
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }.items():
        monkeypatch.setenv(variable, value)
    pytest.importorskip("gcsfs")
    name = f"pail-{next(_buckets)}"
    storage.buckets[name] = {}
    yield storage, name
    del storage.buckets[name]


@pytest.fixture(scope="session")
def run_main():
    """`(*arguments) -> (exit status, stdout, stderr)` of the command line, in this process."""

    def run(*arguments):
        from gmm_diffusion import main

        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = main.run(["main", *map(str, arguments)])
        finally:
            # `main` sends the log to the stream that has just gone.
            root.handlers[:] = handlers
            root.setLevel(level)
        return status, out.getvalue(), err.getvalue()

    return run


@pytest.fixture(scope="session")
def tiny_run(run_main, tmp_path_factory):
    """Directory and output of configs/tiny.py, trained to the end. Copy it before changing it."""
    workdir = tmp_path_factory.mktemp("tiny") / "run"
    status, out, err = run_main(
        f"--config={REPOSITORY / 'configs' / 'tiny.py'}",
        f"--workdir={workdir}",
        "--config.training.tensorboard=false",
    )
    assert status == 0, err
    return workdir, out, err
