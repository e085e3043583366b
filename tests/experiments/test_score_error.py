"""The experiment on the score's error: its mixtures, its error by hand, and its command."""

import numpy as np
import pytest

from experiments import run_score_error, score_error, score_error_report
from gmm_diffusion.errors import InputError


def test_mixtures_are_standardised():
    for data in score_error.DATA:
        mix = score_error.known(data)
        weights, means = np.asarray(mix.weights), np.asarray(mix.means)
        np.testing.assert_allclose(weights @ means, 0, atol=1e-5)
        trace = np.asarray(mix.spectrum).sum(axis=1)
        square = weights @ ((means**2).sum(axis=1) + trace) / mix.dim
        assert square == pytest.approx(1, rel=1e-4)
    with pytest.raises(InputError, match="data is 'moon'; valid are 'two modes' and 'tree'"):
        score_error.known("moon")


def test_the_error_of_a_network_that_knows_nothing():
    """It denoises as if the data were white; two modes have a closed form."""
    problem = score_error.Problem(num_steps=1, width=8, batch_size=64)
    params = score_error.train(problem, 0)
    params["network"]["out_gain"] = 0.0 * params["network"]["out_gain"]
    x, sigma = np.array([[0.3], [-2.0], [1.0]], np.float32), np.array([0.2, 1.0, 3.0], np.float32)
    spread, place = 0.15, np.sqrt(1 - 0.15**2)
    total = spread**2 + sigma**2
    mean = place * np.tanh(place * x[:, 0] / total)
    exact = mean + spread**2 / total * (x[:, 0] - mean)
    white = x[:, 0] / (1 + sigma**2)
    best = score_error.exact("two modes", x, sigma)
    np.testing.assert_allclose(best[:, 0], exact, rtol=1e-4)
    found = score_error.error(problem, params, x, sigma, best)
    np.testing.assert_allclose(found, ((white - exact) / sigma) ** 2, rtol=1e-3, atol=1e-5)


def test_the_table_by_hand():
    errors = {0.0: {"in": np.array([[4.0], [16.0]])}, 0.5: {"in": np.array([[1.0], [1.0]])}}
    row = score_error_report.table(errors, np.array([0.1])).splitlines()[2]
    # Student's quantile of one degree of freedom is 12.7, and the standard error of 2 and 4 is 1.
    assert row == "| in | 0.1 | 3 ± 13 | 1 ± 0 |"


def test_the_command(tmp_path, capsys):
    arguments = [f"--out={tmp_path}", "--data=two modes", "--weights=0,0.5", "--seeds=1"]
    assert run_score_error.run([*arguments, "--steps=2"]) == 0
    assert (tmp_path / "two_modes.png").stat().st_size > 1000
    assert (tmp_path / "two_modes.md").read_text().count("\n") == 2 + 3 * 8
    assert run_score_error.run([*arguments, "--steps=2"]) == 0
    assert "is there already" in capsys.readouterr().out
    assert run_score_error.run([*arguments, "--steps=3"]) == 2
    assert run_score_error.run([f"--out={tmp_path}", "--data=moon"]) == 2
