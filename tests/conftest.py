"""Four pretend devices, rank promotion an error, one compilation cache for the whole run."""

import os
import tempfile

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update(
    "jax_compilation_cache_dir", os.path.join(tempfile.gettempdir(), "gmm_diffusion_test_cache")
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(autouse=True)
def double_precision(request):
    """Double precision in tests marked `float64`, and in no other."""
    if request.node.get_closest_marker("float64"):
        with jax.enable_x64(True):
            yield
    else:
        yield
