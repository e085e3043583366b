"""Diffusion models conditioned on Gaussian mixtures, in JAX.

What most people need stands here, and is loaded when it is first asked for: importing this package
imports no JAX. See docs/python.md.
"""

import importlib

__version__ = "0.1.0"

# name -> the module and its member, or "" for the module itself.
_FACE = {
    "load": ("assembly.load", "load_run"),
    "train": ("commands.train", "train"),
    "fit": ("commands.fit", "fit"),
    "evaluate": ("evaluation.evaluate", "evaluate"),
    "Model": ("model.model", "Model"),
    "Samples": ("model.model", "Samples"),
    "SamplerSettings": ("sampling.settings", "SamplerSettings"),
    "Autoguidance": ("model.guidance", "Autoguidance"),
    "ClassifierFree": ("model.guidance", "ClassifierFree"),
    "ClassifierGuidance": ("model.guidance", "ClassifierGuidance"),
    "MixtureGuidance": ("model.guidance", "MixtureGuidance"),
    "frechet_distance": ("metrics.features", "frechet_distance"),
    "conditioning": ("conditioning", ""),
    "data": ("data", ""),
    "mixture": ("mixture", ""),
    "networks": ("networks", ""),
}

__all__ = [
    "Autoguidance",
    "ClassifierFree",
    "ClassifierGuidance",
    "MixtureGuidance",
    "Model",
    "SamplerSettings",
    "Samples",
    "conditioning",
    "data",
    "evaluate",
    "fit",
    "frechet_distance",
    "load",
    "mixture",
    "networks",
    "train",
]


def __getattr__(name):
    if name not in _FACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place, member = _FACE[name]
    module = importlib.import_module(f"{__name__}.{place}")
    found = getattr(module, member) if member else module
    globals()[name] = found
    return found


def __dir__():
    return sorted({*globals(), *_FACE})
