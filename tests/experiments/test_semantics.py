"""The experiment on what weights mean: its oracles against Gaussians, its table, its command."""

import jax
import numpy as np
import pytest
import scipy.stats

from experiments import run_semantics, semantics, semantics_report
from gmm_diffusion import mixture
from gmm_diffusion.errors import InputError

MEANS = np.array([[0.0, 0.0], [15.0, 0.0], [0.0, 15.0], [15.0, 15.0]])
SPREAD = np.array([0.5, 1.0, 0.7, 0.4])
SHARE = np.array([0.4, 0.2, 0.3, 0.1])


@pytest.fixture(scope="module")
def known():
    """Four round Gaussians, far apart, of which the fitted mixture is the truth."""
    mix = mixture.GaussianMixture.create(SHARE, MEANS, SPREAD**2, "spherical")
    x = np.asarray(mixture.sample(mix, jax.random.key(0), 20_000))
    weights = np.asarray(mixture.responsibilities(mix, x), float)
    log_density = np.asarray(mixture.log_prob(mix, x), float)
    return semantics.Oracle(x, log_density, weights, weights.mean(axis=0))


def test_the_target_of_a_blend_is_that_mixture_of_gaussians(known):
    w = np.array([0.1, 0.5, 0.3, 0.1])
    x = known.target(w, 20_000, np.random.default_rng(0))
    owner = np.argmin(((x[:, None] - MEANS) ** 2).sum(axis=-1), axis=1)
    np.testing.assert_allclose(np.bincount(owner) / len(x), w, atol=0.015)
    for k in range(4):
        np.testing.assert_allclose(x[owner == k].mean(axis=0), MEANS[k], atol=0.06)
        np.testing.assert_allclose(x[owner == k].std(axis=0), SPREAD[k], rtol=0.07)
    expected = np.log(
        sum(
            w[k] * scipy.stats.multivariate_normal(MEANS[k], SPREAD[k] ** 2).pdf(known.x[:50])
            for k in range(4)
        )
    )
    found = known.log_target(known.weights[:50], known.log_density[:50], w)
    # The base is the mean over a sample, within 2 % of the shares.
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_points_alike_are_those_with_such_weights(known):
    rng = np.random.default_rng(0)
    there = known.alike(np.array([0.0, 1.0, 0.0, 0.0]), 500, rng)
    assert np.linalg.norm(there - MEANS[1], axis=1).max() < 5
    assert known.alike(np.array([0.5, 0.5, 0.0, 0.0]), 500, rng) is None


def test_requests_are_weights_and_draws_have_their_shares(known):
    for kind, asked in semantics.requests(known).items():
        for w in asked:
            assert w.shape == (4,)
            assert w.min() >= 0
            assert w.sum() == pytest.approx(1), kind
    w = np.array([0.2, 0.0, 0.8, 0.0])
    one_hot = semantics.drawn(w, 5000, np.random.default_rng(0))
    assert set(np.unique(one_hot)) == {0, 1}
    np.testing.assert_allclose(one_hot.mean(axis=0), w, atol=0.02)
    with pytest.raises(InputError, match="data are 'knot'; valid are grid, moons"):
        semantics.Problem("knot")


def _scores(seed):
    base = np.random.default_rng(seed).normal(0, 1e-3, (2, 5))
    distance = np.array([[0.1, 0.5, 0.2, 0.1, 0.02]] * 2) + base
    alike = np.array([[0.1, 0.2, 0.3, 0.4], [np.nan] * 4])
    return {"distance": distance, "defects": distance / 10, "alike": alike}


def test_the_table_by_hand():
    found = [_scores(seed) for seed in range(4)]
    stacked = {name: np.stack([f[name] for f in found]) for name in found[0]}
    text = semantics_report.table(["one", "two"], stacked)
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]
    assert "6 comparisons, paired by seed" in text
    first = rows[2]
    assert first[0] == "one"
    starred = ["\\*" in cell for cell in first[1:5]]
    assert starred == [False, True, True, False]
    assert first[2].endswith(f"{10 * stacked['distance'][:, 0, 1].mean():.1f} %")
    assert [row[0] for row in rows if row[0] in ("one", "two")] == ["one", "two", "one"]


def test_the_command_goes_on_where_it_was_stopped(monkeypatch, tmp_path, known, capsys):
    monkeypatch.setattr(semantics, "fit", lambda *_: None)
    monkeypatch.setattr(semantics, "oracle", lambda *_: known)
    kinds = len(semantics.requests(known))

    def scores(problem, models, of, seed):
        return {name: np.resize(v, (kinds, v.shape[1])) for name, v in _scores(seed).items()}

    monkeypatch.setattr(semantics, "scores", scores)
    arguments = [f"--out={tmp_path}", "--data=grid", "--seeds=2"]
    assert run_semantics.run([*arguments, "--dry_run"]) == 0
    assert "4 models left" in capsys.readouterr().out
    assert run_semantics.run(arguments) == 0
    text = (tmp_path / "grid.md").read_text()
    assert "two neighbours, half and half" in text
    monkeypatch.setattr(semantics, "scores", None)
    assert run_semantics.run(arguments) == 0
    assert (tmp_path / "grid.md").read_text() == text
    assert run_semantics.run([*arguments, "--steps=7"]) == 2
