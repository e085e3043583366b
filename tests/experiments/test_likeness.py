"""The experiment on NGMG's likeness to W1: distances against SciPy and closed forms."""

import numpy as np
import pytest
import scipy.stats
from scipy import integrate

from experiments import likeness, likeness_report, run_likeness
from gmm_diffusion.errors import InputError

LINE = likeness.Problem("line", 4, 160, 2)
UNIFORM = np.ones(likeness.MODES)


def rng(seed=0):
    return np.random.default_rng(seed)


def column(name):
    return likeness.COSTS.index(name)


@pytest.mark.parametrize("shape", likeness.SHAPES)
def test_points_lie_on_their_manifold_with_the_masses_asked_for(shape):
    problem = likeness.Problem(shape, 5, 800)
    weights = np.array([0, 1, 1, 2, 0, 0, 4, 0.0])
    x = likeness.draw(problem, weights, rng())
    assert x.shape == (800, 5)
    if shape == "line":
        mode = np.floor((x[:, 0] + 1) / 2 * 8)
        assert not x[:, 1:].any()
    elif shape == "circle":
        np.testing.assert_allclose(np.linalg.norm(x[:, :2], axis=1), 1)
        mode = np.floor(np.arctan2(x[:, 1], x[:, 0]) / (2 * np.pi) % 1 * 8)
    else:
        np.testing.assert_allclose(np.linalg.norm(x[:, :3], axis=1), 1)
        mode = (x[:, :3] < 0) @ [1, 2, 4]
    counts = np.bincount(mode.astype(int), minlength=8)
    np.testing.assert_allclose(counts, 800 * weights / 8, atol=1)


def test_changes_by_what_they_do_to_lengths_and_masses():
    sphere = likeness.Problem("sphere", 6, 400)
    scaled = likeness.changed(sphere, "scale", 1.0, rng())
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), 2.5)
    turned = likeness.changed(sphere, "rotation", 1.0, rng())
    np.testing.assert_allclose(turned[:, 0], 0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), 1)
    assert (likeness.changed(sphere, "shift", 0.5, rng())[:, -1] == 1).all()
    left = likeness.changed(LINE, "dropped modes", 1.0, rng())
    assert left[:, 0].min() >= 0.5
    tilted = likeness.changed(LINE, "unequal masses", 1.0, rng())[:, 0]
    counts = np.histogram(tilted, 8, (-1, 1))[0]
    assert counts[-1] / counts[0] == pytest.approx(np.exp(3), rel=0.4)
    with pytest.raises(InputError, match="change is 'bend'; valid are shift, scale"):
        likeness.changed(LINE, "bend", 1.0, rng())


def test_w1_and_the_energy_distance_are_those_of_scipy_on_a_line():
    y = likeness.changed(LINE, "unequal masses", 0.7, rng(1))
    data = likeness.draw(LINE, UNIFORM, rng(2))
    found = likeness.costs(y, data, np.zeros_like(y))
    expected = scipy.stats.wasserstein_distance(y[:, 0], data[:, 0])
    assert found[column("W1")] == pytest.approx(expected, rel=1e-5)
    # SciPy's is its root.
    expected = scipy.stats.energy_distance(y[:, 0], data[:, 0]) ** 2
    assert found[column("energy distance")] == pytest.approx(expected, rel=1e-6)


def test_rank_correlations_are_spearman_s_and_none_where_there_is_no_order():
    a, b = rng(0).normal(size=(2, 30))
    expected = scipy.stats.spearmanr(a, b).statistic
    assert likeness.rank_correlation(a, b) == pytest.approx(expected, abs=1e-12)
    saturated = np.log(2) * (1 - 1e-8 * rng(1).random(30))
    assert likeness.rank_correlation(saturated, b) == 0
    assert likeness.rank_correlation(np.zeros(30), b) == 0


def test_correlations_within_and_over_changes():
    # W1 is 0 to 7 and 10 to 17; one cost follows it, one turns the second change round.
    w1 = np.array([np.arange(8.0), 10 + np.arange(8.0)])
    turned = np.array([np.arange(8.0), 10 - np.arange(8.0)])
    found = np.stack([w1, 2 * w1 + 1, turned], axis=-1)[None]
    within, together = likeness.correlations(found)
    np.testing.assert_allclose(within, [[[1, 1, 1], [1, 1, -1]]])
    expected = scipy.stats.spearmanr(w1.ravel(), turned.ravel()).statistic
    np.testing.assert_allclose(together, [[1, 1, expected]])


def test_the_pairs_whose_order_must_differ():
    found = likeness.opposite_pairs(num_points=200)
    thrown, shifted = found["1 % thrown 100 away"], found["all shifted by 0.5"]
    w1, ngmg = column("W1"), column("NGMG")
    assert thrown[w1] == pytest.approx(1.0, rel=1e-2)
    assert shifted[w1] == pytest.approx(0.5, rel=1e-5)
    # Two shares of a hundredth, and kernels of at most 1.
    assert thrown[ngmg] <= 2e-4 * 1.01
    assert shifted[ngmg] > 100 * thrown[ngmg]
    alone = column("NGMG's energy alone")

    def of(place):
        def energy(m):
            return np.mean([np.exp(-((place - m) ** 2) / (2 * s * s)) for s in (0.5, 1, 2, 4)])

        return 1 - integrate.quad(energy, -1, 1)[0] / 2

    line = integrate.quad(of, -1, 1)[0] / 2
    assert found["all in the middle"][alone] == pytest.approx(of(0.0), rel=1e-3)
    assert found["the line itself"][alone] == pytest.approx(line, rel=1e-3)
    assert found["all in the middle"][alone] < found["the line itself"][alone]


def test_the_command_goes_on_where_it_was_stopped(monkeypatch, tmp_path, capsys):
    arguments = [f"--out={tmp_path}", "--shapes=line", "--dims=4,5", "--seeds=2", "--points=16"]
    assert run_likeness.run([*arguments, "--dry_run"]) == 0
    assert "2 problems left" in capsys.readouterr().out
    pairs = likeness.opposite_pairs(num_points=100)
    monkeypatch.setattr(likeness, "opposite_pairs", lambda: pairs)
    assert run_likeness.run(arguments) == 0
    table = (tmp_path / "tables.md").read_text()
    assert "7 comparisons, paired by seed" in table
    monkeypatch.setattr(likeness, "measure", None)
    assert run_likeness.run(arguments) == 0
    assert (tmp_path / "tables.md").read_text() == table
    assert run_likeness.run([*arguments[:-1], "--points=20"]) == 2
    assert run_likeness.run([*arguments[:1], "--dims=a"]) == 2
    assert run_likeness.run([*arguments[:1], "--shapes=knot"]) == 2
    assert "valid are line, circle, sphere" in capsys.readouterr().err


def test_the_table_by_hand():
    problem = likeness.Problem("line", 4, 16, 2)
    grid = np.arange(40.0).reshape(1, 5, 8, 1)
    found = np.repeat(np.repeat(grid, 2, axis=0), len(likeness.COSTS), axis=3)
    found[..., 2] = -found[..., 2]
    text = likeness_report.tables({problem: found}, {"case": np.arange(9.0)})
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]
    (together,) = [row for row in rows if row[0] == "all changes together"]
    assert together[1] == "1.000 ± 0.000"
    assert together[2] == "-1.000 ± 0.000 \\*"
