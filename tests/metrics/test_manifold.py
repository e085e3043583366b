"""Brute-force counts, closed-form cases, and real digits for the scales that matter."""

import numpy as np
import pytest

from gmm_diffusion.data import digits
from gmm_diffusion.errors import InputError
from gmm_diffusion.metrics import manifold


def _brute(samples, reference, k):
    """Precision, recall and coverage by loops over pairs, straight from the definitions."""

    def distance(a, b):
        return float(np.sqrt(((a - b) ** 2).sum()))

    def radius(points, i):
        others = sorted(distance(points[i], points[j]) for j in range(len(points)) if j != i)
        return others[k - 1]

    def inside(point, points):
        return any(distance(point, p) <= radius(points, i) for i, p in enumerate(points))

    hit = [
        any(distance(r, s) <= radius(reference, i) for s in samples)
        for i, r in enumerate(reference)
    ]
    return (
        np.mean([inside(s, reference) for s in samples]),
        np.mean([inside(r, samples) for r in reference]),
        np.mean(hit),
    )


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("shift", [0.0, 0.7, 3.0])
def test_equals_brute_force(k, shift, monkeypatch):
    monkeypatch.setattr(manifold, "_BLOCK_VALUES", 100)  # several blocks
    rng = np.random.default_rng(0)
    samples, reference = rng.normal(shift, 0.6, (23, 3)), rng.normal(size=(31, 3))
    ours = [
        f(samples, reference, k) for f in (manifold.precision, manifold.recall, manifold.coverage)
    ]
    np.testing.assert_allclose(ours, _brute(samples, reference, k), atol=1e-12)


def test_identical_sets_score_one():
    x = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    assert manifold.precision(x, x) == manifold.recall(x, x) == manifold.coverage(x, x) == 1


def test_disjoint_sets_score_zero():
    x = np.random.default_rng(0).normal(size=(100, 4))
    y = x + 1000
    assert manifold.precision(y, x) == manifold.recall(y, x) == manifold.coverage(y, x) == 0


def test_a_known_line():
    # Reference 0, 1, 3, 7 on a line, k = 1: radii 1, 1, 2, 4, so the union is [-1, 11].
    reference = np.array([[0.0], [1.0], [3.0], [7.0]])
    samples = np.array([[-1.5], [-1.0], [11.0], [11.5]])
    assert manifold.precision(samples, reference, k=1) == 0.5
    # Balls that hold a sample: around 0 (-1) and around 7 (11).
    assert manifold.coverage(samples, reference, k=1) == 0.5
    # Sample radii 0.5, all four; no reference point lies within 0.5 of a sample.
    assert manifold.recall(samples, reference, k=1) == 0.0


def test_one_mode_of_two_has_precision_without_variety():
    rng = np.random.default_rng(0)
    reference = np.concatenate([rng.normal(0, 1, (200, 2)), rng.normal(50, 1, (200, 2))])
    samples = rng.normal(0, 1, (200, 2))
    assert manifold.precision(samples, reference) > 0.9
    assert manifold.recall(samples, reference) < 0.55
    assert manifold.coverage(samples, reference) < 0.55


def test_copies_of_training_digits_are_memorised_and_score_perfectly():
    data = digits()
    copies = data.train.x[::4]
    assert manifold.memorisation(copies, data.train.x, data.heldout.x) == 1
    assert manifold.precision(copies, data.train.x) == 1


def test_held_out_digits_score_the_quantile():
    data = digits()
    share = manifold.memorisation(data.heldout.x, data.train.x, data.heldout.x, 0.05)
    assert 0.045 <= share <= 0.055
    assert 0.8 < manifold.precision(data.heldout.x, data.train.x) < 1


def test_memorisation_counts_by_hand():
    # Held-out distances to {0, 10} are 1, 2, 3, 4; their median is 2.5.
    train = np.array([[0.0], [10.0]])
    heldout = np.array([[1.0], [-2.0], [13.0], [14.0]])
    samples = np.array([[0.0], [12.4], [12.6], [5.0]])
    assert manifold.memorisation(samples, train, heldout, quantile=0.5) == 0.5


def test_density_defects_by_hand():
    true = np.arange(1000.0)  # the 0.1 quantile lies between 99 and 100
    samples = np.array([50.0, 99.0, 101.0, 2000.0, np.nan, -np.inf, 500.0, 500.0])
    assert manifold.density_defects(samples, true, quantile=0.1) == 4 / 8


def test_density_defects_of_true_samples_are_the_quantile():
    rng = np.random.default_rng(0)
    true, more = rng.normal(size=(2, 50_000))
    rate = manifold.density_defects(-(more**2) / 2, -(true**2) / 2, 0.01)
    assert abs(rate - 0.01) < 4 * np.sqrt(2 * 0.01 / 50_000)


def test_refuses():
    x = np.zeros((5, 2))
    with pytest.raises(InputError, match="reference has 3 values an example; valid is 2"):
        manifold.precision(x, np.zeros((5, 3)))
    with pytest.raises(InputError, match=r"samples has shape \(0, 2\)"):
        manifold.recall(x[:0], x)
    with pytest.raises(InputError, match="samples holds a value that is not finite"):
        manifold.coverage(x * np.nan, x)
    for k in (0, 5):
        with pytest.raises(InputError, match=f"k is {k} for 5 examples in reference"):
            manifold.precision(x, x, k)
    with pytest.raises(InputError, match="quantile is 0"):
        manifold.memorisation(x, x, x, 0)
    with pytest.raises(InputError, match="quantile is 1"):
        manifold.density_defects(x[:, 0], x[:, 0], 1)
    with pytest.raises(InputError, match=r"have shapes \(5, 2\) and \(5,\)"):
        manifold.density_defects(x, x[:, 0])
    with pytest.raises(InputError, match="holds 5 values; valid are at least 1000"):
        manifold.density_defects(x[:, 0], x[:, 0])
    with pytest.raises(InputError, match="log_prob_true holds a value that is not finite"):
        manifold.density_defects(x[:, 0], np.full(1000, np.nan))


@pytest.mark.parametrize(("num_samples", "num_reference", "k"), [(30, 100, 3), (80, 40, 1)])
def test_real_data_cover_as_much_as_their_numbers_allow(num_samples, num_reference, k):
    """Drawn again and again from one law, which may be any: the ceiling does not know it."""
    rng = np.random.default_rng(0)

    def draw(num):
        return rng.exponential(size=(num, 3)) * [1.0, 5.0, 0.2]

    covered = [manifold.coverage(draw(num_samples), draw(num_reference), k) for _ in range(400)]
    error = np.std(covered, ddof=1) / np.sqrt(len(covered))
    ceiling = manifold.coverage_ceiling(num_samples, num_reference, k)
    assert abs(np.mean(covered) - ceiling) < 4 * error
    assert error < 0.01


def test_radii_that_are_given_change_nothing():
    rng = np.random.default_rng(1)
    samples, reference = rng.normal(size=(30, 2)), rng.normal(size=(50, 2))
    radii = manifold.ball_radii(reference, 3)
    for metric in (manifold.precision, manifold.coverage):
        assert metric(samples, reference, 3, radii) == metric(samples, reference, 3)
