"""The experiment on rounds: its protocol against published numbers, its counts, its command."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from experiments import rounds, rounds_report, rounds_runs, run_rounds
from gmm_diffusion import config as config_lib
from gmm_diffusion import mixture
from gmm_diffusion.diffusion.preconditioning import expand_like
from gmm_diffusion.errors import InputError

SMALL = rounds.Protocol("ring", num_samples=6, num_steps=30, num_rounds=30)


def test_levels_are_those_of_the_published_schedule():
    """Ho et al. 2020: variances from 1e-4 to 0.02; the share of data left, 4.0e-5, by a loop."""
    kept, shares = 1.0, []
    for step in range(1000):
        kept *= 1 - (1e-4 + (0.02 - 1e-4) * step / 999)
        shares.append(kept)
    assert kept == pytest.approx(4.04e-5, rel=0.01)
    found = rounds.levels(1000)
    expected = [np.sqrt((1 - share) / share) for share in reversed(shares)]
    np.testing.assert_allclose(found[:-1], expected, rtol=1e-6)
    assert found[-1] == 0
    # A tenth of each step's noise, for data scaled to unit variance with it: 0.001 to 0.014.
    low, high = found[1:-1], found[:-2]
    tolerance = 0.1 * low * np.sqrt((1 - (low / high) ** 2) / (1 + low**2))
    assert tolerance.min() == pytest.approx(0.001, abs=4e-4)
    assert tolerance.max() == pytest.approx(0.0141, rel=0.01)
    few = rounds.levels(50)
    assert (len(few), few[-1]) == (51, 0)
    assert np.all(np.diff(few) < 0)


@dataclasses.dataclass(frozen=True)
class Off:
    """The exact denoiser, wrong by 0.3 of the noise along the first axis."""

    def __call__(self, params, x, sigma, cond=None, keys=None):
        best = mixture.denoise(rounds.known("ring"), x, sigma)
        return best + 0.3 * expand_like(sigma, x) * jnp.asarray([[1.0, 0.0]])


def test_a_models_figures():
    exact = rounds.Denoiser(rounds.Exact("ring"))
    found = rounds.measure(SMALL, exact, {}, 0, lambda: None)
    assert found["mmd"].shape == found["error"].shape == (30,)
    needed = np.isfinite(found["error"])
    np.testing.assert_allclose(found["error"][needed], 0, atol=2e-3)
    assert found["found"] == 1
    assert 1 < found["rounds"] <= needed.sum() <= 30
    # In the end they are the sequential sampler's, to a tenth of the last noise.
    assert found["mmd"][-1] == pytest.approx(found["sequential"], abs=0.02)
    off = rounds.measure(SMALL, rounds.Denoiser(Off()), {}, 0, lambda: None)
    needed = np.isfinite(off["error"])
    np.testing.assert_allclose(off["error"][needed], 0.3 / np.sqrt(2), rtol=1e-2)


def test_the_ends_of_the_last_round_are_samples():
    protocol = dataclasses.replace(SMALL, tolerance=0.0)
    exact = rounds.Denoiser(rounds.Exact("ring"))
    *_, last = rounds.states(protocol, exact, {}, 3)
    x = np.asarray(rounds.one_by_one(protocol, exact, {}, 3))
    np.testing.assert_allclose(rounds.ends(last), x, atol=1e-4)
    assert np.linalg.norm(x[0] - x[1]) > 0.01


def test_rounds_that_are_cut_short_are_said():
    protocol = dataclasses.replace(SMALL, num_rounds=2)
    found = rounds.measure(protocol, rounds.Denoiser(rounds.Exact("ring")), {}, 0, lambda: None)
    assert found["mmd"].shape == (2,)
    assert (found["rounds"], found["found"]) == (2, 0)


def test_a_denoiser_of_centred_points():
    x, sigma = jnp.asarray([[1.0, 2.0]]), jnp.asarray([0.5])
    made = rounds.Denoiser(lambda params, x, sigma, cond: params * x, (0.5, -1.0))
    np.testing.assert_allclose(made(3.0, x, sigma), [[2.0, 8.0]])


def test_the_first_round_below_a_threshold():
    curve = np.array([0.5, 0.2, 0.3, 0.1])
    assert [rounds.rounds_to(curve, t) for t in (0.6, 0.2, 0.1, 0.05)] == [1, 2, 4, 5]


def test_counts_of_updates_and_rows():
    problem = rounds_runs.Problem()
    # The published batch: 128 points, and two of 128 evaluations of two levels each.
    assert (128 + 2 * 128 * 2) / 128 == problem.ratio == 5
    with_, without = (rounds_runs.Arm("noise", "likelihood", c) for c in (True, False))
    assert rounds_runs.models(problem, with_) == {"with": 20_000}
    assert rounds_runs.models(problem, without) == {
        "without": 20_000,
        "without, equal compute": 100_000,
    }
    assert rounds_runs.rows(problem, with_) == rounds_runs.rows(problem, without) == 100_000
    tuned = dataclasses.replace(with_, tuned=True)
    assert list(rounds_runs.models(problem, tuned).values()) == [2000, 5000, 10_000]
    assert tuned.name == "noise_likelihood_with_tuned"
    for settings, text in (
        ({"updates": 1500}, "updates is 1500; valid are multiples of 1000"),
        ({"updates": 0}, "updates is 0; valid are multiples of 1000"),
        ({"num_points": 100}, "num_points is 100; valid are multiples of"),
    ):
        with pytest.raises(InputError, match=text):
            rounds_runs.Problem(**settings)
    with pytest.raises(InputError, match="networks has 'velocity'; valid are noise, edm"):
        rounds_runs.Arm("velocity", "likelihood", False)


@pytest.mark.parametrize("network", rounds_runs.NETWORKS)
@pytest.mark.parametrize("tuned", [False, True])
def test_settings_are_what_the_names_say(tmp_path, network, tuned):
    problem = rounds_runs.Problem()
    arm = rounds_runs.Arm(network, "likelihood", True, tuned)
    made = rounds_runs.config(problem, arm, 3, tmp_path)
    config_lib.validate(made)
    assert made.diffusion.preconditioning == network
    assert made.diffusion.weighting == "likelihood"
    assert (made.contrastive.zeta_law, tuple(made.contrastive.zeta)) == ("logistic", (0.011, 90.0))
    # The law's ends are where the widest smoothing is asked for, and below the lowest level.
    ends = np.exp(3 * made.diffusion.sigma_log_std * np.array([-1, 1]))
    assert ends[0] < rounds.levels(1000)[-2]
    assert ends[1] > np.hypot(90.0, rounds.levels(1000)[0])
    assert made.training.init_from == (str(tmp_path) if tuned else "")
    if tuned:
        # Inverse square root of time from a quarter of 20,000 updates to 100,000.
        assert made.optimizer.learning_rate == pytest.approx(0.01 / np.sqrt(20))


def _figures(level, seeds=3):
    columns = len(rounds_report.HEAD)
    noise = np.random.default_rng(0).normal(0, 0.01, (2 * seeds, columns))
    return np.full((seeds, columns), level) + noise[:seeds]


def test_the_tables_by_hand():
    found = {("noise", "likelihood"): {"without": _figures(10.0), "with": _figures(8.0)}}
    found["noise", "likelihood"]["with"] += np.random.default_rng(1).normal(0, 0.01, (3, 8))
    found["noise", "likelihood"]["with"][0, -1] = np.nan
    text = rounds_report.tables(found, np.full((3, 8), 61.0), [1e-3, 3e-3, 2e-3], 60)
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]
    assert rows[2][3] == "> 60"
    values = found["noise", "likelihood"]["without"][:, 0]
    half = scipy.stats.t.ppf(0.975, 2) * scipy.stats.sem(values)
    assert rows[3][:4] == ["noise", "likelihood", "without", f"{values.mean():.1f} ± {half:.1f}"]
    assert rows[4][-1] == "-"
    assert rows[5][6] == "2.00"
    assert rows[9][2] == "with - without"
    assert rows[9][3].startswith("-2.0 ±")
    assert rows[9][3].endswith("\\*")
    assert rows[9][-1] == "-"
    assert "More than 60 rounds count as 61. 7 comparisons, paired by seed" in text


def test_which_models_are_compared():
    names = ["without", "without, equal compute", "with", "without, 2 % more", "with, 2 % more"]
    assert rounds_report.pairs(names) == [
        ("with", "without"),
        ("with, 2 % more", "without, 2 % more"),
        ("with", "without, equal compute"),
    ]


def test_figures_are_those_of_a_measurement():
    found = {
        "mmd": np.array([0.1, 0.005, 0.002, 0.002]),
        "error": np.array([0.9, 0.5, 0.3, np.nan]),
        "sequential": np.array(0.0015),
        "rounds": np.array(3.5),
        "found": np.array(1.0),
    }
    found = rounds_report.figures(found)
    np.testing.assert_allclose(found[:7], [2, 3, 5, 1.5, 3.5, 0.9, 0.3])
    assert np.isnan(found[7])


def test_a_training_is_sampled_from_its_files(tmp_path):
    """All of it once, far too briefly: from the start, and from a finished run."""
    problem = rounds_runs.Problem(
        "ring", 20, 8, batch_size=32, points=4, num_points=16, updates_a_call=1
    )
    arm = rounds_runs.Arm("noise", "likelihood", True, tuned=True)
    found = rounds_runs.trained(problem, arm, 0, tmp_path)
    assert list(found) == ["with, 2 % more", "with, 5 % more", "with, 10 % more"]
    assert [model.step for _, model in found.values()] == [2, 5, 10]
    denoiser, model = found["with, 10 % more"]
    assert model.config.training.init_from == str(tmp_path / "noise_likelihood_without_0")
    protocol = dataclasses.replace(SMALL, num_rounds=2)
    values = rounds.measure(protocol, denoiser, model.params, 0, lambda: None)
    assert np.isfinite(values["error"]).all()
    x, sigma = jnp.ones((1, 2)), jnp.ones(1)
    mean = np.asarray(model.fitted.transform.mean)[None]
    np.testing.assert_allclose(
        denoiser(model.params, x, sigma), model.denoise(x - mean, sigma) + mean, rtol=1e-5
    )


def test_the_command_goes_on_where_it_was_stopped(monkeypatch, tmp_path, capsys):
    calls = []

    def trained(problem, arm, seed, folder):
        calls.append((arm.name, seed))
        made = rounds.Denoiser(rounds.Exact(problem.data))
        model = types.SimpleNamespace(params={})
        return {name: (made, model) for name in rounds_runs.models(problem, arm)}

    monkeypatch.setattr(rounds_runs, "trained", trained)
    arguments = [
        f"--out={tmp_path}", "--data=ring", "--seeds=2", "--networks=noise", "--samples=4",
        "--weightings=likelihood", "--rounds=2", "--sampling_steps=25", "--updates=1000",
    ]  # fmt: skip
    assert run_rounds.run([*arguments, "--dry_run"]) == 0
    assert "18 models of 8 trainings" in capsys.readouterr().out
    assert run_rounds.run(arguments) == 0
    assert calls[:4] == [
        (f"noise_likelihood_{name}", 0)
        for name in ("without", "with", "without_tuned", "with_tuned")
    ]
    text = (tmp_path / "ring.md").read_text()
    assert "exact denoiser" in text
    assert run_rounds.run(arguments) == 0
    assert len(calls) == 8
    assert (tmp_path / "ring.md").read_text() == text
    capsys.readouterr()
    for wrong, said in (
        ("--rounds=3", "was made with other settings"),
        ("--updates=30", "updates is 30; valid are multiples of 1000"),
        ("--data=knot", "data is 'knot'; valid are ring"),
        ("--networks=velocity", "networks has 'velocity'; valid are"),
        ("--zeta=1", "zeta is '1'; valid are two numbers, LOW,HIGH"),
        ("--zeta=0.1,200", "contrastive.zeta is (0.1, 200.0); it must stay below half"),
        ("--zeta_law=flat", "contrastive.zeta_law is 'flat'; it must be one of"),
        ("--weight=-1", "contrastive.weight is -1.0; it must be"),
        ("--seeds=0", "seeds is 0; valid are"),
        ("--sampling_steps=10", "sampling_steps is 10; valid are"),
    ):
        assert run_rounds.run([*arguments, wrong]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
