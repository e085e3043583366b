"""The stability experiment: measures by hand, runs together as one by one, its files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import many_classifiers as many
from experiments import (
    rate_search,
    run_stability,
    stability,
    stability_plan,
    stability_report,
)
from gmm_diffusion.data.dataset import Dataset, Split
from gmm_diffusion.errors import InputError
from gmm_diffusion.networks.encoder import MLPEncoder
from gmm_diffusion.networks.initialisation import initialise


@pytest.fixture(scope="module")
def data():
    """Three classes, far apart."""
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(3, dtype=np.int32), 40)
    x = (rng.normal(0, 0.2, (120, 4)) + 2 * np.eye(3, 4)[label]).astype(np.float32)
    return Dataset("three", Split(x[::2], label[::2]), Split(x[1::2], label[1::2]), 3)


def setting(**changes):
    options = {"loss": "cross-entropy", "optimizer": "sgd", "num_steps": 6, "batch_size": 16}
    return many.Setting(**(options | {"width": 8} | changes))


def test_runs_are_what_they_are_one_by_one(data):
    seeds, rates = [3, 4], [0.05, 0.2]
    together = many.train(setting(), data, seeds, rates)
    assert together.loss.shape == together.gradient_norm.shape == (4, 6)
    for i, (seed, rate) in enumerate((s, r) for s in seeds for r in rates):
        one = many.train(setting(), data, [seed], [rate])
        np.testing.assert_allclose(one.loss[0], together.loss[i], rtol=1e-4)
        np.testing.assert_allclose(one.gradient_norm[0], together.gradient_norm[i], rtol=1e-3)
    # A seed's start and first batch are the same at every rate, and of no other seed.
    assert together.loss[0, 0] == pytest.approx(together.loss[1, 0], rel=1e-5)
    assert together.loss[0, 0] != pytest.approx(together.loss[2, 0], rel=1e-3)


def test_the_first_losses_by_hand(data):
    curves = {loss: many.train(setting(loss=loss), data, [5], [0.1]) for loss in many.LOSSES}
    x = data.train.x - data.train.x.mean(axis=0)
    x = x / np.sqrt(np.mean(x**2))
    index = jax.random.randint(jax.random.fold_in(jax.random.key(5), 0), (16,), 0, 60)
    x, label = x[index], data.train.label[np.asarray(index)]
    network = MLPEncoder(3, 8, 8, False)
    params = initialise(lambda key: network.init(key, jnp.zeros((1, 4))), 5)
    out = np.asarray(network.apply({"params": params}, x)[0], float)
    log_sum = np.log(np.exp(out).sum(axis=1))
    expected = {"cross-entropy": np.mean(log_sum - out[np.arange(16), label])}
    # The corners of a simplex of side sqrt(6), and scales of 0.5, 1, 2 and 4 sides.
    centers = np.sqrt(3) * (np.eye(3) - 1 / 3)
    q = ((out - centers[label]) ** 2).sum(axis=1)[:, None] / (6 * np.array([0.25, 1, 4, 16]))
    expected["ngmg"] = np.mean(1 - np.exp(-q / 2))
    expected["ngmg log"] = np.mean(q / 2)
    for loss, value in expected.items():
        assert curves[loss].loss[0, 0] == pytest.approx(value, rel=1e-4), loss


@pytest.mark.parametrize(
    ("loss", "regime", "least"),
    [
        ("ngmg", "label noise", 0.7),
        ("ngmg log", "normalised", 0.9),
        ("cross-entropy", "two dimensions", 0.9),
    ],
)
def test_losses_learn_in_every_regime(data, loss, regime, least):
    rate = {"cross-entropy": 0.3, "ngmg": 3.0, "ngmg log": 0.3}[loss]
    curves = many.train(
        setting(loss=loss, regime=regime, num_steps=80), data, [0], [rate / 4, rate]
    )
    assert curves.accuracy.max() > least
    assert np.isfinite(curves.loss).all()
    assert curves.loss.min() >= -1e-6


def test_labels_are_replaced_in_training_alone(data):
    _, label, _, heldout = many._arrays(setting(regime="label noise"), data)
    # 40 % are drawn again, a third of them as they were.
    assert 0.1 < np.mean(label != data.train.label) < 0.45
    np.testing.assert_array_equal(heldout, data.heldout.label)
    plane, _, held, _ = many._arrays(setting(regime="two dimensions"), data)
    assert np.linalg.matrix_rank(np.asarray(plane), tol=1e-3) == 2
    assert np.linalg.matrix_rank(np.concatenate([plane, held]), tol=1e-3) == 2


def test_measures_by_hand():
    steps = 201
    flat = np.ones(steps)
    spiky = flat.copy()
    spiky[[100, 150]] = [3.1, 2.9]
    broken = flat.copy()
    broken[-1] = np.nan
    norms = np.ones((4, steps))
    norms[1, 60] = 101.0
    curves = many.Curves(np.stack([flat, spiky, broken, flat]), norms, np.array([1, 0.9, 0.8, 0.1]))
    m = stability.measure(curves, chance=0.1)
    assert m.diverged.tolist() == [False, False, True, True]
    np.testing.assert_allclose(m.spikes[:2], [0, 1 / 200])
    # 199 ones and 101: mean 1.5, mean square (199 + 101^2) / 200 = 52.
    np.testing.assert_allclose(m.variation[:2], [0, np.sqrt(52 - 1.5**2) / 1.5])
    np.testing.assert_allclose(m.largest[:2], [1, 101])
    assert (m.raw_mean[1], m.raw_largest[1]) == (pytest.approx(1 + 100 / steps), 101)
    assert np.isnan(m.variation[2])
    vanished = many.Curves(flat[None], np.zeros((1, steps)), np.array([0.1]))
    assert np.isnan(stability.measure(vanished, 0.1).largest[0])


def test_a_gradient_that_falls_steadily_is_steady():
    """Over the median of the whole run its largest would be 2^12 times the usual."""
    norms = 2.0 ** (-np.arange(601) / 25)[None]
    m = stability.measure(many.Curves(norms, norms, np.ones(1)), 0.1)
    # Half a step before the middle of a geometric row at first, 13 steps after it from step 25 on.
    assert m.largest[0] == pytest.approx(2 ** (-1 / 25))
    relative = norms[0, 1:] / stability.running_median(norms)[0]
    np.testing.assert_allclose(relative[24:], 2 ** (-13 / 25))


def test_losses_are_compared_where_both_survive():
    """Two losses that are alike where both survive are alike, whatever others of their rates do."""
    steps, chance = 101, 0.1

    def cell(loss, largest, accuracy):
        norms = np.ones((10, steps))
        norms[:, 50] = largest
        setting_ = setting(loss=loss)
        curves = many.Curves(np.ones((10, steps)), norms, np.asarray(accuracy, float))
        rates = np.array(rate_search.MULTIPLES)
        compared = rate_search.Cell(setting_, rates, curves)
        return compared, compared

    # Two seeds at five multiples. One loses a seed at the last but one, the other all at the last.
    ours = cell("ngmg", [2, 4, 6, 900, 900] * 2, [1, 1, 1, 1, 1, 1, 1, 1, 0, 1])
    other = cell("cross-entropy", [2, 4, 6, 8, 900] * 2, [1, 1, 1, 0, 0, 1, 1, 1, 1, 0])
    parts = stability_report.tables([ours, other], chance).split("\n\n")
    rows = [[field.strip() for field in line.split("|")[3:-1]] for line in parts[2].split("\n")[2:]]
    assert [row[1] for row in rows] == ["0.1", "0.32", "1", "mean"]
    assert [row[4] for row in rows] == [f"{n:.2f} ± 0.00" for n in (2, 4, 6, 4)]
    assert all(row[2] == row[3] and row[4] == row[5] for row in rows)


def test_what_differs_by_more_than_chance_has_a_star():
    """Differences from cross-entropy, paired by seed, all of a table counted."""
    steps, spread = 101, np.array([1.0, 1.2, 0.8, 1.1])

    def cell(loss, largest, accuracy):
        norms = np.ones((20, steps))
        norms[:, 50] = np.repeat(largest, 5)
        curves = many.Curves(np.ones((20, steps)), norms, np.repeat(accuracy, 5))
        compared = rate_search.Cell(setting(loss=loss), np.array(rate_search.MULTIPLES), curves)
        return compared, compared

    cells = [
        cell("cross-entropy", 9 + spread, 0.8 + 0.1 * spread),
        cell("ngmg", 2 + spread, 0.7 + 0.1 * spread),
        cell("ngmg log", 9 + spread[::-1], 0.8 + 0.1 * spread[::-1]),
    ]
    parts = stability_report.tables(cells, 0.1).split("\n\n")
    summary, side = ([line.split(" | ") for line in parts[i].split("\n")[2:]] for i in (0, 2))
    assert [row[5].endswith("\\*") for row in summary] == [False, True, False]
    # Student's quantile of three degrees of freedom is 3.182.
    half = 3.182 * spread.std(ddof=1) / 2
    assert summary[1][5] == f"0.802 ± {0.1 * half:.3f} \\*"
    means = {row[2]: row for row in side if row[3] == "mean"}
    assert means["ngmg"][6] == f"3.02 ± {half:.2f} \\*"
    assert "\\*" not in " ".join(means["ngmg log"])
    assert not any("\\*" in " ".join(row) for row in side if row[3] != "mean")
    assert parts[1].startswith("4 comparisons, paired by seed")
    assert parts[3].startswith("6 comparisons, paired by seed")


def test_a_loss_near_zero_does_not_spike():
    loss = np.full(100, 1e-6)
    loss[0], loss[60] = 1.0, 5e-3
    norms = np.ones((1, 100))
    assert stability.measure(many.Curves(loss[None], norms, np.ones(1)), 0.1).spikes[0] == 0


def test_ranges_by_hand():
    rates = 10.0 ** np.arange(-3, 2)
    accuracy = np.array([[0.2, 0.96, 1.0, 0.98, 0.1], [0.99, 0.5, 1.0, 0.1, 0.99]])
    assert stability.best_rate(rates, accuracy) == pytest.approx(0.1)
    np.testing.assert_allclose(stability.width_of_range(rates, accuracy), [3, 1])


@pytest.mark.parametrize("change", [{"loss": "mse"}, {"optimizer": "lion"}, {"regime": "odd"}])
def test_an_unknown_name_is_refused(data, change):
    ((name, value),) = change.items()
    with pytest.raises(InputError, match=f"{name} is '{value}'; valid are "):
        many.train(setting(**change), data, [0], [0.1])


def test_the_experiment_goes_on_where_it_was_stopped(data, tmp_path, monkeypatch):
    options = {"exponents": {"adam": range(-4, -2)}, "losses": ("cross-entropy",)}
    plan, task = stability_plan.Plan(("clean",), 2, 4, **options), stability_plan.task(data)
    assert len(rate_search.left(plan, task, tmp_path)) == 2
    cells = rate_search.run(plan, task, tmp_path)
    assert rate_search.left(plan, task, tmp_path) == []
    monkeypatch.setattr(stability_plan, "train", None)
    again = rate_search.run(plan, task, tmp_path)
    for pair, other in zip(cells, again, strict=True):
        for one, two in zip(pair, other, strict=True):
            assert one.setting == two.setting
            np.testing.assert_array_equal(one.curves.loss, two.curves.loss)
    found, compared = cells[0]
    best = stability.best_rate(found.rates, found.by_seed(found.curves.accuracy))
    np.testing.assert_allclose(compared.rates / best, np.sqrt(10.0) ** np.arange(-2, 3))
    assert compared.curves.accuracy.shape == (10,)
    text = stability_report.tables(cells, 1 / 3)
    assert text.count("\n\n") == 5
    assert text.count("| clean |") == 1 + 5 + 5
    stability_report.figure(cells, 1 / 3, "clean", tmp_path / "clean.png")
    assert (tmp_path / "clean.png").stat().st_size > 1000
    other = stability_plan.Plan(("clean",), 2, 5, **options)
    with pytest.raises(InputError, match="made with other settings"):
        rate_search.run(other, task, tmp_path)


def test_the_command_says_how_long_it_takes(capsys, tmp_path):
    assert (
        run_stability.run([f"--out={tmp_path}", "--regimes=clean", "--seeds=1", "--dry_run"]) == 0
    )
    assert "12 cells left, about" in capsys.readouterr().out
    assert run_stability.run([f"--out={tmp_path}", "--regimes=clan"]) == 2
    assert "regime is 'clan'" in capsys.readouterr().err
