"""The data of a config: every source gets each setting of `data` that it has a place for."""

import inspect

import numpy as np
import pytest

from gmm_diffusion import assembly
from gmm_diffusion import config as config_lib
from gmm_diffusion.assembly import datasets
from gmm_diffusion.data import DATASETS, Dataset, Split
from gmm_diffusion.errors import InputError

# What a place is called, and how examples are drawn, differs from source to source.
OTHERS = {"name", "seed", "validation", "data_dir"}


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_setting_that_a_source_takes_is_given(name, tmp_path, monkeypatch):
    class Asked(Exception):
        pass

    given = {}

    def load(**options):
        given.update(options)
        raise Asked

    takes = set(inspect.signature(DATASETS[name]).parameters)
    monkeypatch.setitem(datasets.DATASETS, name, load)
    monkeypatch.setattr(datasets, "_place", lambda data: str(tmp_path))
    config = config_lib.default()
    config.data.name = name
    with pytest.raises(Asked):
        assembly.dataset(config)
    settings = {field.removeprefix("data.") for field in config_lib.fields(config)}
    assert takes & settings - OTHERS <= set(given)
    assert set(given) <= takes


def test_a_class_without_examples_is_refused_wherever_classes_can_be_asked_for():
    x = np.zeros((40, 4, 4, 1), np.uint8)
    split = Split(x, np.arange(40, dtype=np.int32) % 2 * 2)
    data = Dataset("gap", split, split, num_classes=3, class_names=("a", "b", "c"))
    config = config_lib.default()
    config.data.name, config.data.validation_fraction = "arrays", 0.0
    for per_class in (True, False):
        config.conditioning.per_class = per_class
        with pytest.raises(InputError, match="Class 1 of gap has no training example"):
            assembly.dataset(config, data)
    config.conditioning.kind = "none"
    assembly.dataset(config, data)
