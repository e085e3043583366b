"""Averages of any width against dense least squares, published figures and tracked averages."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion.errors import InputError
from gmm_diffusion.training import ema, posthoc_ema

TRACKED = (0.05, 0.10)


def grid(num, cells_each):
    """`num` snapshots of each tracked width, evenly spaced: (steps, gammas, last step, taus)."""
    steps = np.repeat(np.arange(1, num + 1) * cells_each, len(TRACKED))
    gammas = np.tile([ema.gamma_from_width(width) for width in TRACKED], num)
    last = num * cells_each
    # The profiles jump at the edges of cells, so the midpoint rule keeps its order.
    return steps, gammas, last, np.arange(last) + 0.5


def sampled(steps, gammas, taus):
    """Profiles at `taus [N]` as they are defined: `[N, M]`."""
    steps, gammas = np.asarray(steps, np.float64), np.asarray(gammas)
    tau = taus[:, None]
    return np.where(tau < steps, (gammas + 1) / steps * (tau / steps) ** gammas, 0.0)


def dense_error(found, steps, gammas, last, gamma, taus):
    wanted = sampled([last], [gamma], taus)[:, 0]
    return np.linalg.norm(sampled(steps, gammas, taus) @ found - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize("width", [0.03, 0.06, 0.15, 0.25])
def test_coefficients_are_those_of_dense_least_squares(width):
    taus = np.arange(24_000) + 0.5
    steps = np.asarray([2000, 5000, 5000, 9000, 14_000, 14_000, 19_000, 24_000, 24_000])
    gammas = np.asarray([ema.gamma_from_width(w) for w in (0.1, 0.05, 0.2, 0.1, 0.05, 0.1, 0.08)])
    gammas = np.append(gammas, gammas[[1, 0]])
    gamma = ema.gamma_from_width(width)
    found = posthoc_ema.coefficients(steps, gammas, 24_000, gamma)
    expected = np.linalg.lstsq(
        sampled(steps, gammas, taus), sampled([24_000], [gamma], taus)[:, 0], rcond=None
    )[0]
    expected /= expected.sum()
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


# Relative L2 errors in percent, computed apart from this code, to two figures.
FIGURES = {
    0.075: {8: 1.3, 32: 0.09, 128: 0.006},
    0.15: {8: 3.3, 32: 0.23, 128: 0.014},
    0.25: {8: 18.0, 32: 3.4, 128: 0.6},
}


@pytest.mark.parametrize("num", [8, 32, 128])
@pytest.mark.parametrize("width", FIGURES)
def test_profile_errors_are_the_known_ones(width, num):
    steps, gammas, last, taus = grid(num, cells_each=12_800 // num)
    gamma = ema.gamma_from_width(width)
    found = posthoc_ema.coefficients(steps, gammas, last, gamma)
    error = dense_error(found, steps, gammas, last, gamma, taus)
    # 5 % for the figures' rounding.
    assert 100 * error < 1.05 * FIGURES[width][num]
    claimed = posthoc_ema.profile_error(found, steps, gammas, last, gamma)
    assert claimed == pytest.approx(error, rel=0.02)


@pytest.mark.parametrize("num", [1, 2, 4, 8, 32, 128])
@pytest.mark.parametrize("width", [0.01, 0.03, 0.05, 0.075, 0.15, 0.25, 0.27])
def test_what_did_not_change_in_training_does_not_change_here(width, num):
    steps, gammas, last, _ = grid(num, 10)
    found = posthoc_ema.coefficients(steps, gammas, last, ema.gamma_from_width(width))
    assert found.sum() == pytest.approx(1, abs=1e-12)
    gains = np.asarray([0.3, -1.7, 1e-4], np.float32)
    made = posthoc_ema.combine(found, [{"gains": gains}] * len(found))["gains"]
    np.testing.assert_array_equal(made, gains)


@pytest.mark.parametrize("width", [0.02, 0.075, 0.15, 0.25])
def test_more_snapshots_never_hurt(width):
    gamma = ema.gamma_from_width(width)
    errors = []
    for num in (2, 4, 8, 16, 32, 64):
        steps, gammas, last, _ = grid(num, cells_each=640 // num)
        found = posthoc_ema.coefficients(steps, gammas, last, gamma)
        errors.append(posthoc_ema.profile_error(found, steps, gammas, last, gamma))
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))


@pytest.mark.parametrize("width", TRACKED)
def test_a_stored_average_is_itself(width):
    steps, gammas, last, _ = grid(8, 100)
    gamma = ema.gamma_from_width(width)
    found = posthoc_ema.coefficients(steps, gammas, last, gamma)
    assert found.tolist() == ((steps == last) & (gammas == gamma)).astype(float).tolist()
    assert posthoc_ema.profile_error(found, steps, gammas, last, gamma) < 1e-7
    # Without the shortcut it is the nearest profile all the same.
    nearly = posthoc_ema.coefficients(steps, gammas, last, gamma * (1 + 1e-9))
    np.testing.assert_allclose(nearly, found, atol=1e-6)


def test_only_ratios_of_steps_matter():
    """A naive `t^gamma` would overflow: gamma is 198 here."""
    steps, gammas, last, _ = grid(16, 1)
    gamma = ema.gamma_from_width(0.005)
    small = posthoc_ema.coefficients(steps, gammas, last, gamma)
    large = posthoc_ema.coefficients(steps * 10**8, gammas, last * 10**8, gamma)
    assert np.isfinite(large).all()
    np.testing.assert_allclose(large, small, rtol=1e-6, atol=1e-9)


def test_the_order_of_snapshots_does_not_matter():
    steps, gammas, last, _ = grid(8, 10)
    order = np.random.default_rng(0).permutation(len(steps))
    found = posthoc_ema.coefficients(steps, gammas, last, 3.0)
    shuffled = posthoc_ema.coefficients(steps[order], gammas[order], last, 3.0)
    np.testing.assert_allclose(shuffled, found[order], atol=1e-9)


def test_hundreds_of_snapshots_stay_accurate():
    """Neighbours are almost parallel: the condition number is near 1e8."""
    steps, gammas, last, _ = grid(256, 10)
    gamma = ema.gamma_from_width(0.15)
    found = posthoc_ema.coefficients(steps, gammas, last, gamma)
    assert posthoc_ema.profile_error(found, steps, gammas, last, gamma) < 1e-4
    assert found.sum() == pytest.approx(1, abs=1e-6)
    assert np.abs(found).sum() < 10


@pytest.mark.parametrize("steps", [[], [0, 5], [5, 11]])
def test_snapshots_outside_the_run_so_far_are_refused(steps):
    with pytest.raises(InputError, match=r"snapshot_steps is .*; it must hold steps from 1 to 10"):
        posthoc_ema.coefficients(steps, [7.0] * len(steps), 10, 3.0)


@pytest.fixture(scope="module")
def walk():
    """A random walk `[T, D]` of parameters, and its averages of several widths `{width: [T, D]}`.

    The averages are those of `ema.update`, in float32, as in training.
    """
    widths = (*TRACKED, 0.02, 0.075, 0.15, 0.25)
    steps = np.random.default_rng(1).normal(size=(1200, 64)) / 30
    values = jnp.asarray(1 + np.cumsum(steps, 0), jnp.float32)

    @jax.jit
    def averages(values):
        def body(carry, step_value):
            carry = ema.update(carry, step_value[1], step_value[0], widths)
            return carry, carry

        start = tuple(jnp.zeros(values.shape[1]) for _ in widths)
        return jax.lax.scan(body, start, (jnp.arange(1, len(values) + 1), values))[1]

    found = averages(values)
    return np.asarray(values), {w: np.asarray(a) for w, a in zip(widths, found, strict=True)}


@pytest.mark.parametrize(
    ("width", "every", "tolerance"),
    [
        (0.02, 100, 0.1),
        (0.075, 100, 0.004),
        (0.075, 25, 0.0005),
        (0.15, 100, 0.01),
        (0.15, 25, 0.001),
        (0.25, 25, 0.02),
    ],
)
def test_a_random_walk_gives_the_average_that_was_tracked(walk, width, every, tolerance):
    values, averages = walk
    last = len(values)
    pairs = [(s, w) for s in range(every, last + 1, every) for w in TRACKED]
    steps, gammas = [s for s, _ in pairs], [ema.gamma_from_width(w) for _, w in pairs]
    gamma = ema.gamma_from_width(width)
    found = posthoc_ema.coefficients(steps, gammas, last, gamma)
    made = posthoc_ema.combine(found, ({"x": averages[w][s - 1]} for s, w in pairs))["x"]
    assert made.dtype == np.float32
    off = np.abs(made - averages[width][-1])
    assert off.max() < tolerance * values.std()
    # By Cauchy-Schwarz, with the norm of the profile and of the path held constant within updates.
    error = posthoc_ema.profile_error(found, steps, gammas, last, gamma)
    norm = (gamma + 1) / np.sqrt((2 * gamma + 1) * last)
    rounding = 2e-6 * np.abs(found).sum() * np.abs(values).max()
    assert np.all(off <= error * norm * np.linalg.norm(values, axis=0) + rounding)


def test_combining_keeps_one_tree_at_a_time():
    alive = []

    def trees():
        for i in range(4):
            tree = {"a": {"b": np.full((2, 3), i, np.float32)}, "c": np.float32(1)}
            assert len(alive) == i, "the one before is taken before the next is made"
            yield tree
            alive.append(i)

    total = posthoc_ema.combine([1e8, -1e8, 0.5, 1.0], trees())
    # In float32 the ones would be lost beside 1e8.
    np.testing.assert_array_equal(total["a"]["b"], np.full((2, 3), -1e8 + 4.0, np.float32))
    assert total["c"] == np.float32(1.5)
    assert total["c"].dtype == total["a"]["b"].dtype == np.float32
    with pytest.raises(ValueError, match="zip"):
        posthoc_ema.combine([1.0], [{"a": np.ones(1)}] * 2)
