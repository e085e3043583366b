"""The only place that imports TensorFlow, and what needs it: TFDS and clu's writers.

It is optional (the extra `[data]`), takes seconds to import, and would take the accelerators'
memory away from JAX: so it is imported when first needed, with the accelerators hidden from it.
"""

import importlib
import importlib.util
import os
import warnings
from types import ModuleType

from gmm_diffusion import extras
from gmm_diffusion.errors import InputError

_PARTS = ("tensorflow", "tensorflow_datasets", "tensorboard")


def available() -> bool:
    """Whether everything of the extra `[data]` is installed; imports nothing."""
    return all(importlib.util.find_spec(part) is not None for part in _PARTS)


def _import(module: str, purpose: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise InputError(
            f"{purpose} needs {module}, which cannot be imported ({e}); install it with "
            f"{extras.advice('data')}."
        ) from e


def import_tensorflow(purpose: str = "this") -> ModuleType:
    """TensorFlow, with GPUs and TPUs hidden from it.

    Args:
      purpose: what needs it, for the message.

    Raises:
      InputError: it is not installed.
    """
    # Its lines would stand between ours. That on oneDNN, of no use here, heeds no level.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    tf = _import("tensorflow", purpose)
    try:
        for kind in ("GPU", "TPU"):
            tf.config.set_visible_devices([], kind)
    except RuntimeError:
        warnings.warn(
            "TensorFlow was in use before its accelerators could be hidden; it may hold memory "
            "that JAX needs.",
            stacklevel=2,
        )
    return tf


def import_tensorflow_datasets(purpose: str = "this") -> ModuleType:
    """TensorFlow Datasets, after TensorFlow. Arguments and errors as `import_tensorflow`."""
    import_tensorflow(purpose)
    return _import("tensorflow_datasets", purpose)


def import_example(purpose: str = "this") -> type:
    """The class of TFDS's records, `tf.train.Example`, without TensorFlow. Errors as above."""
    return _import("tensorflow_datasets.proto", purpose).tf_example_pb2.Example


def import_metric_writers(purpose: str = "TensorBoard") -> ModuleType:
    """`clu.metric_writers`, after TensorFlow. Arguments and errors as `import_tensorflow`."""
    import_tensorflow(purpose)
    _import("tensorboard", purpose)
    return _import("clu.metric_writers", purpose)
