"""The experiment on speed and quality: its points, scores by hand, its table and its command."""

import numpy as np
import pytest
import scipy.stats

from experiments import run_speed, speed, speed_report
from gmm_diffusion import mixture
from gmm_diffusion.errors import InputError


def test_the_spiral_is_standardised_and_its_pieces_are_equally_long():
    truth = speed.known("spiral")
    means = np.asarray(truth.mixture.means, float)
    np.testing.assert_allclose(means.mean(axis=0), 0, atol=1e-5)
    assert np.mean(means**2) == pytest.approx(1, rel=1e-4)
    length = np.linalg.norm(np.diff(means, axis=0), axis=1)
    assert length.max() / length.min() < 1.1
    assert np.bincount(truth.label).tolist() == [50] * 4


@pytest.mark.parametrize("name", speed.DATA)
def test_points_are_of_the_density(name):
    truth = speed.known(name)
    x, owner = truth.draw(40_000, 0)
    size = np.bincount(owner).max()
    k = int(np.bincount(owner).argmax())
    axes, spread = np.asarray(truth.mixture.basis)[k], np.asarray(truth.mixture.spectrum)[k]
    cov = axes @ np.diag(spread) @ axes.T
    found = np.cov((x[owner == k] - np.asarray(truth.mixture.means)[k]).T)
    np.testing.assert_allclose(found, cov, atol=4 * np.abs(cov).max() / np.sqrt(size))
    mean = np.asarray(mixture.log_prob(truth.mixture, x)).mean()
    other = np.asarray(mixture.log_prob(truth.mixture, truth.draw(40_000, 1)[0])).mean()
    assert mean == pytest.approx(other, abs=0.03)


def test_scores_of_true_and_of_lost_points():
    truth = speed.known("spiral")
    x, owner = truth.draw(4096, 9)
    defects, distance, error = speed.score(truth, x, truth.place[owner])
    assert defects < 0.004
    assert distance < 0.06
    # A piece is 1/200 long, and a point may lie nearer to the next one.
    assert error < 2 / 200
    shifted = np.roll(truth.place[owner], 1)
    expected = np.sqrt(np.mean((shifted - truth.place[owner]) ** 2))
    assert speed.score(truth, x, shifted)[2] == pytest.approx(expected, abs=0.01)
    assert speed.score(truth, x + 50, None)[0] == 1
    assert np.isnan(speed.score(truth, x, None)[2])


def test_conditions_have_as_many_components_as_each_other():
    clusters = speed.settings(speed.Problem("spiral", "k-means labels"))
    fitted = speed.settings(speed.Problem("spiral", "mixture"))
    assert clusters.num_components == fitted.num_components == 16
    assert (clusters.features, fitted.features) == ("own", "own")
    with pytest.raises(InputError, match="condition is 'names'; valid are nothing, classes"):
        speed.Problem("grid", "names")
    with pytest.raises(InputError, match="num_steps is 15; valid are multiples of 10"):
        speed.Problem("grid", "mixture", num_steps=15)


def _scores(level, seeds=4):
    noise = np.random.default_rng(0).normal(0, 1e-3, (seeds, 3, 3))
    return level + noise


def test_the_table_by_hand():
    found = {"nothing": _scores(0.2), "classes": _scores(0.1), "mixture": _scores(0.05)}
    found["nothing"][..., 2] = np.nan
    text = speed_report.table(found, np.array([0.001, 0.03, np.nan]))
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]
    # Three times each: two scores of nothing, three of the mixture.
    assert "15 comparisons, paired by seed" in text
    first = rows[2]
    half = scipy.stats.t.ppf(0.975, 3) * scipy.stats.sem(100 * found["nothing"][:, 0, 0])
    assert first[2].startswith(f"{100 * found['nothing'][:, 0, 0].mean():.1f} ± {half:.1f} %")
    assert first[4] == "-"
    assert rows[11][2:] == ["0.10 %", "0.030", "-"]


def test_the_command_goes_on_where_it_was_stopped(monkeypatch, tmp_path, capsys):
    calls = []

    def measure(problem, seed):
        calls.append((problem.condition, seed))
        return {"scores": _scores(0.1, 1)[0], "floor": np.array([0.001, 0.03, 0.0])}

    monkeypatch.setattr(speed, "measure", measure)
    arguments = [f"--out={tmp_path}", "--data=spiral", "--seeds=2"]
    assert run_speed.run([*arguments, "--dry_run"]) == 0
    assert "8 trainings left" in capsys.readouterr().out
    assert run_speed.run(arguments) == 0
    assert calls[:4] == [(condition, 0) for condition in speed.CONDITIONS]
    text = (tmp_path / "spiral.md").read_text()
    assert run_speed.run(arguments) == 0
    assert len(calls) == 8
    assert (tmp_path / "spiral.md").read_text() == text
    assert run_speed.run([*arguments, "--steps=20"]) == 2
    assert run_speed.run([arguments[0], "--data=knot"]) == 2
