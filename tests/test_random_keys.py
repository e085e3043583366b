"""What random keys fold in, which must stay as it is: old runs go on with it."""

import jax
import numpy as np

from gmm_diffusion import random_keys
from gmm_diffusion.random_keys import fold_in

# As they have always been.
NUMBERS = {
    "Run": {"STEPS": 1, "MIXTURE": 4},
    "Host": {"FREQUENCIES": 0, "BANK": 1, "REQUEST": 2, "FIT": 3, "COMPONENT": 4},
    "Training": {
        "NOISE": 0,
        "SIGMA": 1,
        "SEMANTICS": 2,
        "NULL": 3,
        "DRAWS": 4,
        "DROPOUT": 5,
        "CONTRAST": 6,
        "CLASSIFIER_NOISE": 20,
        "CLASSIFIER_SIGMA": 21,
    },
    "Contrast": {"ZETA": 0, "NOISE": 1, "RATIO": 2},
    "Ratio": {"SHIFT": 0, "NOISE": 1},
    "HeldOut": {"NOISE": 0, "SEMANTICS": 1, "DRAWS": 2},
    "Sample": {"DRAWS": 2_147_483_646, "INITIAL_NOISE": 2_147_483_647},
}


def test_no_number_changes():
    found = {
        name: {use.name: use.value for use in member}
        for name, member in vars(random_keys).items()
        if isinstance(member, type) and member.__module__ == random_keys.__name__
    }
    assert found == NUMBERS


def test_keys_are_folded_one_by_one():
    keys = jax.random.split(jax.random.key(0), 3)
    for number in (1, random_keys.Training.CONTRAST, random_keys.Sample.INITIAL_NOISE):
        folded = jax.random.key_data(fold_in(keys, number))
        alone = [jax.random.key_data(jax.random.fold_in(key, int(number))) for key in keys]
        np.testing.assert_array_equal(folded, np.stack(alone))
    assert not np.array_equal(*(jax.random.key_data(fold_in(keys, i)) for i in (1, 2)))


def test_folding_no_keys_gives_no_keys():
    assert fold_in(None, 3) is None
