"""The discrepancy by double loops, by its closed form for Gaussians, and without a bias."""

import itertools
import math

import jax
import numpy as np
import pytest
from scipy import stats

from gmm_diffusion import mixture
from gmm_diffusion.errors import InputError
from gmm_diffusion.metrics import mmd


def by_hand(x, y, widths):
    """Lemma 6 of Gretton et al. 2012, pair by pair."""

    def kernel(a, b):
        return sum(math.exp(-(math.dist(a, b) ** 2) / (2 * w * w)) for w in widths) / len(widths)

    def mean(pairs):
        values = [kernel(a, b) for a, b in pairs]
        return sum(values) / len(values)

    own, theirs = (mean(itertools.permutations(z, 2)) for z in (x, y))
    return own + theirs - 2 * mean(itertools.product(x, y))


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize(("n", "m", "dim"), [(2, 3, 1), (7, 11, 3)])
def test_pairs_by_hand(n, m, dim, chunk):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, dim)), rng.normal(size=(m, dim)) + 1
    widths = [0.3, 2.0, 5.0]
    assert mmd.squared(x, y, widths, chunk) == pytest.approx(by_hand(x, y, widths), abs=1e-6)


def test_gaussians_have_a_closed_form():
    """E k = (b^2 / (b^2 + s^2))^(d/2) exp(-|m|^2 / (2 (b^2 + s^2))), s^2 of the difference."""
    rng, stds, shift, dim, n = np.random.default_rng(1), (1.0, 0.5), 0.7, 2, 4096

    def mean(left, right, width):
        total = width**2 + stds[left] ** 2 + stds[right] ** 2
        far = shift**2 if left != right else 0.0
        return (width**2 / total) ** (dim / 2) * math.exp(-far / (2 * total))

    x, y = (std * rng.normal(size=(n, dim)) for std in stds)
    y[:, 0] += shift
    for width in (0.1, 1.0, 3.0):
        expected = mean(0, 0, width) + mean(1, 1, width) - 2 * mean(0, 1, width)
        assert mmd.squared(x, y, [width]) == pytest.approx(expected, rel=0.06)


COVARIANCES = {
    "full": [[[0.3, 0.1], [0.1, 0.2]], [[0.05, 0.0], [0.0, 0.4]]],
    "tied": [[0.3, 0.1], [0.1, 0.2]],
    "diag": [[0.3, 0.1], [0.05, 0.4]],
    "spherical": [0.3, 0.05],
}


@pytest.mark.parametrize("kind", COVARIANCES)
def test_the_distance_to_a_mixture_pair_by_pair(kind):
    """The kernel as a density, whose means are densities of sums of independent normal numbers."""
    weights, means = [0.3, 0.7], np.array([[1.0, 0.0], [-0.5, 0.8]])
    mix = mixture.GaussianMixture.create(weights, means, COVARIANCES[kind], kind)
    full = {
        "full": lambda c: c,
        "tied": lambda c: [c, c],
        "diag": lambda c: [np.diag(row) for row in c],
        "spherical": lambda c: [v * np.eye(2) for v in c],
    }[kind](COVARIANCES[kind])
    x, widths, expected = np.random.default_rng(3).normal(size=(5, 2)), [0.3, 1.0], 0.0
    for width in widths:
        blur = width**2 * np.eye(2)
        own = [stats.multivariate_normal.pdf(a, b, blur) for a, b in itertools.permutations(x, 2)]
        across = [
            w * stats.multivariate_normal.pdf(a, m, c + blur)
            for a in x
            for w, m, c in zip(weights, means, full, strict=True)
        ]
        theirs = [
            weights[i] * weights[j]
            * stats.multivariate_normal.pdf(means[i], means[j], np.add(full[i], full[j]) + blur)
            for i, j in itertools.product(range(2), repeat=2)
        ]  # fmt: skip
        value = np.mean(own) - 2 * np.sum(across) / len(x) + np.sum(theirs)
        expected += 2 * np.pi * width**2 * value / len(widths)
    assert mmd.squared_to(mix, widths)(x) == pytest.approx(expected, abs=1e-6)


def test_the_distance_to_a_mixture_is_that_to_many_points_of_it():
    mix = mixture.GaussianMixture.create(
        [0.3, 0.7], [[1.0, 0.0], [-0.5, 0.8]], COVARIANCES["diag"], "diag"
    )
    x, widths = np.random.default_rng(3).normal(size=(50, 2)), np.array([0.3])
    points = np.asarray(mixture.sample(mix, jax.random.key(0), 4096))
    # Means over points of numbers between 0 and 1, whose spread is at most a half, taken twice.
    allowed = 3 * 2 * 0.5 / np.sqrt(len(points))
    far = mmd.squared_to(mix, widths)(x + 2)
    assert far == pytest.approx(mmd.squared(x + 2, points, widths), abs=allowed)
    assert far > 2 * allowed


def test_the_distance_to_a_gaussian_by_its_closed_form():
    """Two points, so that all three means stand here: the kernel, and Gaussians of its width."""
    std, width, dim = 0.5, 0.4, 3
    mix = mixture.GaussianMixture.create([1.0], [[0.2, 0.0, -1.0]], [[std**2] * 3], "diag")
    x = np.array([[0.3, 0.1, -0.8], [1.0, -0.5, 0.0]])

    def mean(spread, far):
        total = width**2 + spread
        return (width**2 / total) ** (dim / 2) * math.exp(-far / (2 * total))

    far = [math.dist(point, [0.2, 0.0, -1.0]) ** 2 for point in x]
    own, across = mean(0.0, math.dist(*x) ** 2), np.mean([mean(std**2, f) for f in far])
    expected = own + mean(2 * std**2, 0.0) - 2 * across
    assert mmd.squared_to(mix, [width])(x) == pytest.approx(expected, abs=1e-6)


def test_points_of_a_mixture_have_no_distance_to_it_on_average():
    mix = mixture.GaussianMixture.create([0.5, 0.5], [[-1.0], [1.0]], [0.04, 0.09], "spherical")
    distance = mmd.squared_to(mix, [0.2])
    x = np.asarray(mixture.sample(mix, jax.random.key(1), 300 * 16)).reshape(300, 16, 1)
    values = [distance(points) for points in x]
    assert abs(np.mean(values)) < 3.5 * np.std(values) / np.sqrt(300)
    assert min(values) < 0
    for bad, text in (
        (np.zeros((3, 2)), "the mixture has 1 dimensions"),
        (x[0, :1], "samples has"),
    ):
        with pytest.raises(InputError, match=text):
            distance(bad)
    with pytest.raises(InputError, match="widths is"):
        mmd.squared_to(mix, [0.0])


def test_sets_of_one_law_have_none_on_average():
    rng = np.random.default_rng(2)
    values = [mmd.squared(*rng.normal(size=(2, 12, 2)), [0.5, 2.0]) for _ in range(400)]
    assert abs(np.mean(values)) < 3.5 * np.std(values) / 20
    assert min(values) < 0


def test_widths_are_multiples_of_the_median_distance():
    # Their distances are 1, 2, 2, 3, 3 and 5.
    points = np.array([[0.0], [1.0], [3.0], [-2.0]])
    np.testing.assert_allclose(mmd.bandwidths(points, (0.5, 2.0)), [1.25, 5.0])
    line = np.arange(4000.0)[:, None]
    # Two uniform points lie nearer than 1 - sqrt(1/2) of the range half of the time.
    assert mmd.bandwidths(line, (1.0,))[0] == pytest.approx(4000 * (1 - 0.5**0.5), rel=0.01)


@pytest.mark.parametrize(
    ("samples", "reference", "widths", "text"),
    [
        (np.zeros((3, 2)), np.zeros((3, 1)), [1.0], "reference has shape"),
        (np.zeros((1, 2)), np.zeros((3, 2)), [1.0], "samples has shape"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), [1.0], "samples holds a value that is not"),
        (np.zeros((3, 2)), np.zeros((3, 2)), [], "widths is"),
        (np.zeros((3, 2)), np.zeros((3, 2)), [1.0, 0.0], "widths is"),
    ],
)
def test_bad_input_is_named(samples, reference, widths, text):
    with pytest.raises(InputError, match=text):
        mmd.squared(samples, reference, widths)


def test_points_that_are_all_the_same_have_no_scale():
    with pytest.raises(InputError, match="median distance between points of the reference is 0"):
        mmd.bandwidths(np.ones((5, 2)))
