"""The sliced distance against SciPy's one-dimensional one and closed forms."""

import numpy as np
import pytest
from scipy import stats

from gmm_diffusion.errors import InputError
from gmm_diffusion.metrics.sliced_wasserstein import distance


def test_one_dimension_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(400, 1)), rng.exponential(size=(400, 1))
    expected = stats.wasserstein_distance(a[:, 0], b[:, 0])
    assert distance(a, b) == pytest.approx(expected, rel=1e-9)
    # Interpolation of another number of points stays near.
    expected = stats.wasserstein_distance(a[:, 0], b[:300, 0])
    assert distance(a, b[:300]) == pytest.approx(expected, rel=0.02)
    assert distance(b[:300], a) == pytest.approx(distance(a, b[:300]), rel=1e-9)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_shift_is_seen_through_the_mean_projection(dim):
    """A shift of length l has mean |projection| l 2 / pi in the plane and l / 2 in space."""
    x = np.random.default_rng(1).normal(size=(500, dim))
    shift = np.zeros(dim)
    shift[0] = 3.0
    expected = 3.0 * {2: 2 / np.pi, 3: 0.5}[dim]
    assert distance(x + shift, x, num_directions=4000) == pytest.approx(expected, rel=0.03)
    assert distance(x, x) == 0


def test_two_sets_of_one_law_come_closer_with_their_number():
    rng = np.random.default_rng(2)
    few, many = (distance(*rng.normal(size=(2, n, 2))) for n in (100, 10_000))
    assert many < 0.2 * few


@pytest.mark.parametrize(
    ("samples", "reference", "text"),
    [
        (np.zeros((3, 2)), np.zeros((3, 1)), "reference has shape"),
        (np.zeros(3), np.zeros((3, 1)), "samples has shape"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), "samples holds a value that is not finite"),
        (np.zeros((0, 2)), np.zeros((3, 2)), "samples has shape"),
    ],
)
def test_bad_input_is_named(samples, reference, text):
    with pytest.raises(InputError, match=text):
        distance(samples, reference)
