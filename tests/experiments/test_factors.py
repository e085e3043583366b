"""The parts of a mixture: effects against least squares, which runs count, the command."""

import itertools
import pathlib
import runpy

import numpy as np
import pytest
import scipy.stats

from experiments import factors, run_factors
from gmm_diffusion import config as config_lib
from gmm_diffusion.errors import InputError
from gmm_diffusion.report.results import Result
from gmm_diffusion.sweep import __main__ as sweep
from gmm_diffusion.sweep import plan


def settings_of_the_sweep(tmp_path):
    stages = runpy.run_path(str(run_factors.SWEEP))["get_sweep"]()
    jobs = plan.make_jobs(stages, tmp_path, sweep._load)
    return [config_lib.fields(job.planned) for job in jobs]


def test_the_sweep_is_whole_seeds_of_every_condition(tmp_path):
    settings = settings_of_the_sweep(tmp_path)
    seeds = [s["training.seed"] for s in settings]
    assert seeds == sorted(seeds)
    for seed in set(seeds):
        own = [factors.condition_of(s) for s in settings if s["training.seed"] == seed]
        assert len(own) == 10
        assert set(own) == set(factors.CONDITIONS)
    # All but the conditioning is alike.
    assert len({(s["training.num_steps"], s["conditioning.num_components"]) for s in settings}) == 1


def results(seeds, value, tmp_path):
    for settings in settings_of_the_sweep(tmp_path):
        seed, condition = settings["training.seed"], factors.condition_of(settings)
        if seed in seeds:
            own = value(condition, seed)
            metric = {"value": own, "blocks": [own], "floor": 0.125}
            path = pathlib.Path(f"{condition}-{seed}")
            yield Result(path, settings, {"defect_rate_360": metric, "recall_360": metric})


def table_of_values(condition, seed):
    rng = np.random.default_rng([seed, factors.CONDITIONS.index(condition)])
    return float(rng.normal(0.3, 0.05))


def test_effects_are_those_of_least_squares(tmp_path):
    found = list(results((0, 1, 2), table_of_values, tmp_path))
    seeds, values, floor = factors.collect(found, "defect_rate")
    assert (seeds, floor) == ([0, 1, 2], 0.125)
    own = factors.effects(values)
    corners = list(itertools.product((0, 1), repeat=3))
    codes = 2 * np.array(corners) - 1
    columns = {"EM": [0], "soft": [1], "mean embedding": [2]}
    columns |= {"EM x soft": [0, 1], "EM x mean embedding": [0, 2], "soft x mean embedding": [1, 2]}
    columns |= {"EM x soft x mean embedding": [0, 1, 2]}
    design = [np.ones(8), *(codes[:, c].prod(axis=1) for c in columns.values())]
    for i, seed in enumerate(seeds):
        y = [table_of_values(corner, seed) for corner in corners]
        fitted = np.linalg.lstsq(np.stack(design, axis=1), np.array(y), rcond=None)[0]
        # From -1 to 1 is twice a coefficient.
        for name, coefficient in zip(columns, fitted[1:], strict=True):
            assert own[name][i] == pytest.approx(2 * coefficient)
        random = table_of_values(factors.RANDOM, seed)
        gained = own["more labels: at random - classes"][i]
        assert gained == pytest.approx(random - table_of_values(factors.CLASSES, seed))
        (title,) = [t for t in own if t.startswith("labels that mean")]
        assert own[title][i] == pytest.approx(table_of_values((0, 0, 0), seed) - random)
    assert len(own) == 9


def test_a_seed_counts_when_it_is_whole(tmp_path):
    found = list(results((0, 1), table_of_values, tmp_path))
    assert factors.collect(found[:-1], "recall")[0] == [0]
    with pytest.raises(InputError, match=r"so far: 1 classes; .*; 0 EM, soft, mean embedding\.$"):
        factors.collect(found[:9], "recall")
    # Those of another kind, or with draws, are no part of it.
    other = dict(found[0].settings)
    for change in ({"conditioning.kind": "clusters"}, {"conditioning.embedding": "draws"}):
        changed = {**other, "conditioning.kind": "gmm", **change}
        assert factors.condition_of(changed) is None


def test_the_table_by_hand(tmp_path):
    def value(condition, seed):
        # EM takes 0.04 away, always; the rest is noise of the seed, which pairs cancel.
        gained = 0.04 if isinstance(condition, tuple) and condition[0] else 0.0
        return 0.3 - gained + 0.01 * seed + 1e-4 * table_of_values(condition, seed)

    found = list(results((0, 1, 2, 3), value, tmp_path))
    seeds, values, floor = factors.collect(found, "defect_rate")
    text = factors.tables(seeds, values, floor, "defect_rate")
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]
    rows = {line[0]: line[1] for line in lines if len(line) == 2}
    own = values[1, 0, 1]
    half = scipy.stats.t.ppf(0.975, 3) * scipy.stats.sem(own)
    assert rows["EM, hard, mean embedding"] == f"{own.mean():.3f} ± {half:.3f}"
    assert rows["held-out"] == "0.125"
    assert rows["EM"].startswith("-0.040 ± 0.000 ")
    assert rows["EM"].endswith("*")
    assert "*" not in rows["EM x soft"]
    assert text.endswith("all of them counted (Student's test, Holm's correction).")
    assert "4 seeds. 9 comparisons" in text
    one = {c: v[:1] for c, v in values.items()}
    assert "1 seed. No difference is tested" in factors.tables([0], one, floor, "defect_rate")


def test_the_command_trains_first_and_says_its_time(tmp_path, capsys, monkeypatch):
    assert run_factors.run([f"--out={tmp_path / 'out'}", "--dry_run"]) == 0
    assert "50 of 50 to do, about 67.5 min." in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    asked = []
    monkeypatch.setattr(sweep, "run", lambda argv: asked.append(argv) or 1)
    assert run_factors.run([f"--out={tmp_path}", "--parallel=1"]) == 1
    assert asked == [[f"--out={tmp_path}", "--parallel=1", str(run_factors.SWEEP)]]
    # Of a training that did not end there is no table; asked for, that is bad input.
    assert run_factors.run([f"--out={tmp_path}", "--table"]) == 2
    (tmp_path / "digits").mkdir()
    assert run_factors.run([f"--out={tmp_path}", "--table"]) == 2
    assert "no finished evaluation" in capsys.readouterr().err
    found = list(results((0,), table_of_values, tmp_path))
    for result in found:
        metric = result.metrics["recall_360"]
        result.metrics.update({f"{name}_360": metric for name in factors.METRICS})
    monkeypatch.setattr(run_factors.results, "find", lambda _: (found, []))
    assert run_factors.run([f"--out={tmp_path}", "--table"]) == 0
    assert "| EM, soft, mean embedding |" in (tmp_path / "frechet.md").read_text()
