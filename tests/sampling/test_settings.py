"""How samples are drawn, as one value: what cannot be meant is refused when it is made."""

import dataclasses
import math

import pytest

from gmm_diffusion import config as config_lib
from gmm_diffusion.errors import InputError
from gmm_diffusion.sampling.settings import SamplerSettings

CONFIG = {"window": "parallel_window", "tolerance": "parallel_tolerance"}
NUMBERS = [f.name for f in dataclasses.fields(SamplerSettings) if f.name != "name"]


@pytest.mark.parametrize("name", NUMBERS)
def test_bounds_are_those_of_the_config(name):
    rule, _ = config_lib.RULES[f"sample.{CONFIG.get(name, name)}"]
    for value in (
        -1,
        -1e-300,
        0.0,
        1e-300,
        1e-10,
        0.1,
        1,
        1.5,
        1000,
        1001,
        1e5,
        2e5,
        1e30,
        math.inf,
    ):
        if name == "sigma_max" and value < 1e-10:
            continue  # In a config 0 is the model's own, which is None here.
        if rule(value):
            SamplerSettings(**{name: value})
        else:
            with pytest.raises(InputError, match=rf"^{name} is "):
                SamplerSettings(**{name: value})
    with pytest.raises(InputError, match=rf"^{name} is nan"):
        SamplerSettings(**{name: math.nan})
