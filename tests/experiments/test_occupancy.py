"""Which components of the tree are occupied: null laws by simulation, and losses put in by hand."""

import json

import numpy as np
import pytest
import scipy.stats

from experiments import kept, occupancy, occupancy_report, run_occupancy, tree_figure
from gmm_diffusion import config as config_lib
from gmm_diffusion.data import toy
from gmm_diffusion.errors import InputError
from gmm_diffusion.runs.workdir import write_config

NUM = 8192


@pytest.fixture(scope="module")
def own():
    return occupancy.tree("tree", 1)


def draw(label, num, seed):
    """True points of one class and the component of each within it, by NumPy alone."""
    known = toy.MIXTURES["tree"]()
    rng, rows = np.random.default_rng(seed), np.flatnonzero(known.component_class == label)
    owner = rng.choice(len(rows), num, p=known.weights[rows] / known.weights[rows].sum())
    factor = np.linalg.cholesky(known.covariances[rows])[owner]
    noise = rng.standard_normal((num, 2))
    return known.means[rows][owner] + np.einsum("nij,nj->ni", factor, noise), owner


@pytest.mark.parametrize(("name", "levels"), [("tree", 7), ("branches", 5)])
def test_a_branch_starts_where_one_of_the_depth_before_ends(name, levels):
    tree = occupancy.tree(name, 0)
    means = toy.MIXTURES[name]().means[toy.MIXTURES[name]().component_class == 0]
    starts, ends = {}, {}
    for branch in range(tree.branch.max() + 1):
        places = means[tree.branch == branch]
        step = (places[-1] - places[0]) / (len(places) - 1)
        np.testing.assert_allclose(np.diff(places, axis=0), np.tile(step, (len(places) - 1, 1)))
        starts[branch], ends[branch] = places[0] - step / 2, places[-1] + step / 2
        np.testing.assert_allclose(tree.axes[branch, 0], step / np.linalg.norm(step))
        np.testing.assert_allclose(tree.center[branch], places.mean(axis=0))
    depth = {branch: tree.depth[tree.branch == branch] for branch in starts}
    assert all(len(set(d)) == 1 for d in depth.values())
    assert np.bincount([d[0] for d in depth.values()])[1:].tolist() == [2**i for i in range(levels)]
    for branch, start in starts.items():
        if depth[branch][0] > 1:
            (before,) = [b for b, end in ends.items() if np.allclose(end, start)]
            assert depth[before][0] == depth[branch][0] - 1


def test_the_variance_of_a_branch_is_that_of_its_points(own):
    x, owner = draw(1, 400_000, 0)
    for branch in (0, 1, 64):
        points = x[own.branch[owner] == branch] - own.center[branch]
        found = np.mean((points @ own.axes[branch].T) ** 2, axis=0)
        tolerance = 5 * np.sqrt(2 / len(points))
        np.testing.assert_allclose(found, own.variance[branch], rtol=tolerance)


def test_components_are_drawn_by_bayes_rule(own):
    known = toy.MIXTURES["tree"]()
    rows = np.flatnonzero(known.component_class == 1)
    # Where two branches meet, a hundred points at one place.
    place = own.center[0] + own.axes[0, 0] * 1.7 * np.sqrt(own.variance[0, 0])
    logs = np.array(
        [
            np.log(known.weights[r])
            + scipy.stats.multivariate_normal(known.means[r], known.covariances[r]).logpdf(place)
            for r in rows
        ]
    )
    shares = np.exp(logs - logs.max())
    shares /= shares.sum()
    assert shares.max() < 0.9
    found = occupancy.owners(own, np.tile(place, (4000, 1)), 0)
    counts = np.bincount(found, minlength=len(rows))
    error = np.sqrt(4000 * shares * (1 - shares)) + 1
    assert np.all(np.abs(counts - 4000 * shares) < 5 * error)
    np.testing.assert_array_equal(found, occupancy.owners(own, np.tile(place, (4000, 1)), 0))


def test_the_null_laws_by_simulation(own):
    rng = np.random.default_rng(0)
    counts = rng.multinomial(NUM, own.weights, size=800)
    values = [occupancy.against_multinomial(one, own.weights) for one in counts]
    degrees = len(own.weights) - 1
    # Haldane's variance of Pearson's statistic (Biometrika 29, 1937), exact at any expectation.
    k = degrees + 1
    variance = 2 * degrees + (np.sum(1 / own.weights) - k**2 - 2 * k + 2) / NUM
    error = np.sqrt(variance) / degrees
    assert np.mean(values) == pytest.approx(1, abs=4 * error / np.sqrt(800))
    assert np.std(values) == pytest.approx(error, rel=0.12)
    empty = (counts == 0).sum(axis=1)
    expected = occupancy.expected_empty(own.weights, NUM)
    assert empty.mean() == pytest.approx(expected, abs=4 * empty.std() / np.sqrt(800))
    # By hand: (6 - 5)^2 / 5 + (4 - 5)^2 / 5, one degree of freedom.
    assert occupancy.against_multinomial(np.array([6, 4]), np.array([0.5, 0.5])) == 0.4


def test_true_points_are_as_they_should_be(own):
    x, _ = draw(1, NUM, 1)
    found = occupancy.measure(own, x.astype(np.float32), np.ones(NUM, bool), 0)
    assert found["outliers"] == 0
    assert found["components"] == pytest.approx(1, abs=5 * np.sqrt(2 / 1015))
    # 6 degrees of freedom.
    assert found["depths"] * 6 < scipy.stats.chi2.isf(1e-4, 6)
    np.testing.assert_allclose(found["spread"], 1, atol=0.08)
    np.testing.assert_allclose(found["mass"], 1 / 7, atol=5 * np.sqrt(1 / 7 / NUM))
    expected = occupancy.expected_empty(own.weights, NUM)
    assert found["empty"] == pytest.approx(expected, abs=5 * np.sqrt(expected))


def test_what_was_lost_is_seen(own):
    x, owner = draw(1, NUM, 2)
    branch = own.branch[owner]
    offset = np.einsum("nad,nd->na", own.axes[branch], x - own.center[branch])
    # Drawn together on the middle of each branch, to half its width.
    pulled = x - 0.5 * offset[:, 1:] * own.axes[branch, 1]
    spread = occupancy.spread(own, pulled, owner)
    np.testing.assert_allclose(spread, [1, 0.25], rtol=0.06)
    # Where branches are near each other a point is not always given to its own.
    found = occupancy.measure(own, pulled.astype(np.float32), np.ones(NUM, bool), 0)["spread"]
    assert 0.2 < found[1] < 0.5
    assert found[0] == pytest.approx(1, abs=0.1)
    # Without the last twigs, of whom each has half of what is before.
    short = x[own.depth[owner] < 7].astype(np.float32)
    lost = occupancy.measure(own, short, np.arange(len(short)) >= 100, 0)
    assert lost["outliers"] == pytest.approx(100 / len(short))
    assert lost["mass"][6] < 0.02
    assert lost["empty"] > 400
    # All other depths have 7 / 6 of theirs: by the formula of the divergence.
    assert lost["depths"] * 6 == pytest.approx(len(short) / 6, rel=0.25)
    assert lost["components"] > 1.5
    # A few points far out count among the outliers alone.
    far = np.concatenate([x, [[50, 50]] * 3]).astype(np.float32)
    inside = np.arange(len(far)) < NUM
    np.testing.assert_allclose(occupancy.measure(own, far, inside, 0)["spread"], 1, atol=0.1)


def test_what_is_no_tree():
    for name in ("ring", "moons", "dino"):
        with pytest.raises(InputError, match=f"toy name is '{name}'; valid are tree and branches"):
            occupancy.tree(name, 0)


def scores(seeds, outliers, across):
    noise = 1e-3 * np.random.default_rng(0).normal(size=(seeds, 1))
    return {
        "outliers": np.full(seeds, outliers) + noise[:, 0],
        "empty": np.full(seeds, 51.0),
        "components": np.full(seeds, 1.25),
        "depths": np.full(seeds, 2.0),
        "spread": np.array([1.0, across]) + noise,
        "mass": np.full((seeds, 2), 0.5) + noise,
    }


def test_the_tables_by_hand():
    found = {
        "true points": scores(3, 0.001, 1.0),
        "no guidance": scores(3, 0.06, 0.9),
        "guided": scores(3, 0.03, 0.5),
    }
    text = occupancy_report.tables(found, np.array([0.25, 0.75]))
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]
    half = scipy.stats.t.ppf(0.975, 2) * scipy.stats.sem(found["guided"]["outliers"])
    mean = found["guided"]["outliers"].mean()
    assert rows[4][1] == f"{100 * mean:.1f} ± {100 * half:.1f} \\*"
    assert rows[4][6].endswith("*")
    assert not rows[4][2].endswith("*")
    assert "*" not in "".join(rows[2] + rows[3])
    assert "6 comparisons, paired by seed" in text
    assert rows[10][:3] == ["the law", "25.00", "75.00"]
    assert rows[11][0] == "true points"


def test_the_command_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    assert run_occupancy.run([f"--out={tmp_path}"]) == 2
    assert "it holds no main/seed*, models of configs/sweeps/tree.py" in capsys.readouterr().err
    config = config_lib.default()
    config.data.update(name="toy", toy_name="branches", num_train=2000, num_heldout=1000)
    config.network.name = "mlp"
    for seed in (0, 1):
        for stage in ("main", "guide"):
            write_config(config, tmp_path / stage / f"seed{seed}")
    steps = {"main": config.training.num_steps, "guide": 7}
    monkeypatch.setattr(
        run_occupancy.storage, "last_complete_step", lambda path: steps[path.parents[1].name]
    )
    calls = []

    def model_samples(run_dir, guidance, label, num):
        calls.append((run_dir.name, dict(guidance), label))
        data = toy.load("branches", num_train=4 * num, num_heldout=1, seed=len(calls)).train
        return data.x[data.label == label][:num]

    def exact_samples(data, labels, steps, sigmas, seed):
        order = np.argsort(data.train.label[: len(labels)], kind="stable")
        return data.train.x[order]

    monkeypatch.setattr(tree_figure, "model_samples", model_samples)
    monkeypatch.setattr(tree_figure, "exact_samples", exact_samples)
    monkeypatch.setattr(tree_figure, "noise_range", lambda run_dir: (0.004, 80.0, 5.0))
    ways = {k: run_occupancy.WAYS[k] for k in ("no guidance", "by a smaller model, w = 2")}
    monkeypatch.setattr(run_occupancy, "WAYS", ways)
    arguments = [f"--out={tmp_path}", "--num=300"]
    assert run_occupancy.run(arguments) == 2
    wanted = f"seed0 is at step 7 of {config.training.num_steps}; the sweep must be finished"
    assert wanted in capsys.readouterr().err
    steps["guide"] = config.training.num_steps
    assert run_occupancy.run([*arguments, "--dry_run"]) == 0
    assert "8 ways left" in capsys.readouterr().out
    assert run_occupancy.run(arguments) == 0
    assert len(calls) == 2 * 2 * 2
    assert calls[2][1]["guide"] == str(tmp_path / "guide" / "seed0")
    text = (tmp_path / "occupancy.md").read_text()
    assert "| depth 5 |" in text
    assert "Of 124 components 300 draws leave" in text
    # True points, whatever they are called here.
    file = tmp_path / "occupancy" / "seed0-no-guidance.npz"
    way, _, seed, num, quantile = json.loads(np.load(file)["header"].item())
    assert (way, seed, num, quantile) == ("no guidance", 0, 300, 0.001)
    assert kept.arrays(file, [way, {"kind": "none"}, seed, num, quantile], dict)["outliers"] < 0.02
    assert run_occupancy.run(arguments) == 0
    assert len(calls) == 8
    assert (tmp_path / "occupancy.md").read_text() == text
    assert run_occupancy.run([*arguments[:1], "--num=200"]) == 2
    assert run_occupancy.run([*arguments[:1], "--num=0"]) == 2
