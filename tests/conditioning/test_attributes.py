"""Weights of attributes, and full sets of them around those that were asked for."""

import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion.conditioning.attributes import AttributeTable, attribute_weights, complete
from gmm_diffusion.errors import InputError

NAMES = ("Smiling", "Bald", "Blond_Hair")


def table(laid_out=True, frequency=(0.5, 0.2, 0.4)):
    bank = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1]], np.uint8)
    return AttributeTable(
        bank, jnp.array(frequency), NAMES, (("Bald", "Blond_Hair"),), laid_out=laid_out
    )


def test_each_attribute_selects_one_of_its_two_components():
    weights = np.asarray(attribute_weights(np.array([[1, 0, 0], [0, 1, 1]], np.uint8)))
    third = 1 / 3
    expected = [[0, third, third, 0, third, 0], [third, 0, 0, third, 0, third]]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_sets_are_those_of_training_examples_where_there_are_some():
    made, rows = complete(table(), {"Smiling": 1}, 200, np.random.default_rng(0))
    np.testing.assert_array_equal(made, table().bank[rows])
    assert set(rows) == {2, 3}
    # Row i does not depend on how many are asked for.
    fewer, _ = complete(table(), {"Smiling": 1}, 50, np.random.default_rng(0))
    np.testing.assert_array_equal(fewer, made[:50])


def test_what_training_never_shows_is_completed_by_frequency_and_stays_possible():
    num = 4000
    made, rows = complete(table(), {"Bald": 1}, num, np.random.default_rng(0))
    # A row is what it is, however many there are.
    fewer, _ = complete(table(), {"Bald": 1}, 40, np.random.default_rng(0))
    np.testing.assert_array_equal(fewer, made[:40])
    assert rows is None
    assert (made[:, 1] == 1).all()
    assert not (made[:, 1] & made[:, 2]).any()
    assert abs(made[:, 0].mean() - 0.5) < 4 * 0.5 / np.sqrt(num)


def test_only_a_laid_out_mixture_puts_together_what_it_has_not_seen():
    with pytest.raises(InputError, match="Bald=1', which no training example has"):
        complete(table(laid_out=False), {"Bald": 1}, 2, np.random.default_rng(0))


def test_a_request_that_training_contradicts_ends():
    certain = table(frequency=(0.5, 0.2, 1.0))
    with pytest.raises(InputError, match="name more attributes"):
        complete(certain, {"Bald": 1}, 2, np.random.default_rng(0))
