"""What is read from the logs of denoisers with a classifier: by hand, from files made by hand."""

import json
import types

import numpy as np
import pytest

from experiments import denoiser_runs, run_denoiser
from gmm_diffusion import config as config_lib
from gmm_diffusion.data import Split
from gmm_diffusion.errors import InputError


def make_run(path, weight, loss, norms, losses, agreement, nonfinite=0, seed=0):
    config = config_lib.default()
    config.training.seed = seed
    config.ngmg.weight = weight
    config.classifier.loss = loss
    path.mkdir(parents=True)
    (path / "config.json").write_text(config.to_json_best_effort())
    name = "classifier_gradient_norm" if weight else "gradient_norm"
    rows = [
        {"step": i, "denoising_loss": value, "gradient_norm": 9.0, name: norm, "nonfinite": 0}
        for i, (norm, value) in enumerate(zip(norms, losses, strict=True))
    ]
    rows[-1]["nonfinite"] = nonfinite
    rows.insert(2, {"step": 1, "heldout_loss/mean": 3.0})
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = {f"{n}_360": {"value": agreement} for n in denoiser_runs.METRICS}
    (path / "evaluation.json").write_text(json.dumps({"metrics": metrics}))


def test_runs_are_read_and_averaged(tmp_path):
    flat = [1.0] * 4
    make_run(tmp_path / "a" / "s0", 0.1, "ngmg", [1, 3, 1, 3], flat, 0.8)
    make_run(tmp_path / "a" / "s1", 0.1, "ngmg", [1, 3, 1, 3], [1, 1, 1, 4], 0.6, 2, seed=1)
    make_run(tmp_path / "b", 0.0, "ngmg", [2, 2, 2, 2], flat, 0.9)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.json").write_text("{}")
    groups = denoiser_runs.read(tmp_path, lambda run: {"s0": 0.75, "s1": 0.85}[run.name])
    assert set(groups) == {("none", 0.0, 0.0), ("ngmg", 0.1, 0.01)}
    first, second = groups["ngmg", 0.1, 0.01]
    # 3, 1 and 3 over the medians before them, 1, 2 and 1: mean 13/6, mean square 73/12.
    assert first["variation"] == pytest.approx((73 / 12 - (13 / 6) ** 2) ** 0.5 / (13 / 6))
    assert first["largest"] == 3.0
    assert (first["diverged"], second["diverged"]) == (False, True)
    # Of what has diverged neither gradients nor spikes count.
    assert first["spikes"] == 0
    assert np.isnan([second[name] for name in ("variation", "largest", "spikes")]).all()
    assert groups["none", 0.0, 0.0][0]["variation"] == 0
    lines = denoiser_runs.table(groups).splitlines()
    # Student's quantile of one degree of freedom is 12.706.
    start = "| NGMG | 0.1 | 0.01 | 2 | 1 of 2 | 0.800 ± 0.635 | 0.544 | 3.000 |"
    assert lines[2].startswith(start)
    assert "| 0.700 ± 1.271 |" in lines[2]
    assert lines[3].startswith("| none | - | - | 1 | 0 of 1 | - |")


@pytest.mark.parametrize(("accuracy", "diverged"), [(0.19, True), (0.21, False)])
def test_a_classifier_that_reads_less_than_twice_chance_has_diverged(tmp_path, accuracy, diverged):
    make_run(tmp_path / "a", 0.1, "ngmg", [1] * 4, [1, 1, 1, 4], 0.9)
    ((run,),) = denoiser_runs.read(tmp_path, lambda _: accuracy).values()
    assert run["diverged"] is diverged
    # The last of three losses that have others before them.
    spikes = float("nan") if diverged else 100 / 3
    assert run["spikes"] == pytest.approx(spikes, nan_ok=True)


def test_the_accuracy_is_of_classes_and_is_kept(tmp_path, monkeypatch):
    """Shares of four components: two of class 0, two of class 1."""
    shares = np.array([[0.3, 0.3, 0.4, 0.0], [0.0, 0.3, 0.3, 0.4], [np.nan, 0.0, 0.6, 0.4]])
    model = types.SimpleNamespace(
        conditioner=types.SimpleNamespace(component_class=np.array([0, 0, 1, 1])),
        center=lambda x: x - 1,
        classify=lambda x: shares[x[:, 0].astype(int)],
    )
    (tmp_path / "run").mkdir()
    result = tmp_path / "run" / "evaluation.json"
    result.write_text('{"step": 300}')
    loaded = []
    monkeypatch.setattr(denoiser_runs.gd, "load", lambda run: loaded.append(run) or model)
    split = Split(x=np.float32([[1], [2], [3], [2]]), label=np.int32([0, 1, 1, 0]))
    for _ in range(2):
        found = denoiser_runs.heldout_accuracy(tmp_path / "run", split, tmp_path / "a")
        # The largest single share of the first is one of class 1.
        assert found == 0.5
    assert loaded == [str(tmp_path / "run")]
    # A run that goes on is another model.
    result.write_text('{"step": 600}')
    denoiser_runs.heldout_accuracy(tmp_path / "run", split, tmp_path / "a")
    assert len(loaded) == 2


def test_changes_are_paired_by_seed(tmp_path):
    flat = [1.0] * 4
    for seed, agreement in ((0, 0.5), (1, 0.9), (2, 0.7)):
        make_run(tmp_path / f"n{seed}", 0.0, "ngmg", [2] * 4, flat, agreement, seed=seed)
        better = agreement + 0.1 + 0.001 * seed
        make_run(tmp_path / f"e{seed}", 0.1, "ngmg", [1, 3] * 2, flat, better, seed=seed)
        # Its seeds 2 and 3 are finished; of the last there is no other.
        make_run(
            tmp_path / f"c{seed}", 0.1, "cross_entropy", [1, 3] * 2, flat, agreement, seed=seed + 2
        )
    text = denoiser_runs.changes(denoiser_runs.read(tmp_path, lambda _: 0.9))
    rows = {line.split(" | ")[0]: line.split(" | ")[1:] for line in text.splitlines()}
    assert rows["| NGMG - none"][:2] == ["0.1", "0.01"]
    # Differences 0.1, 0.101, 0.102; the half width is 4.303 * 0.001 / sqrt(3).
    assert rows["| NGMG - none"][2:7] == ["-", "-", "-", "-", "+0.101 ± 0.002 \\*"]
    # Seed 2 alone is in both: 0.802 and 0.5.
    assert rows["| NGMG - cross-entropy"][2:7] == [*["+0.000"] * 4, "+0.302"]
    # Four metrics of NGMG and none; a single pair is no test.
    assert text.splitlines()[-1].startswith("4 comparisons, paired by seed")


def test_no_runs_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no finished run"):
        denoiser_runs.read(tmp_path, lambda _: 0.9)


def test_the_command_plans_every_run(tmp_path, capsys):
    assert run_denoiser.run([f"--out={tmp_path}", "--dry_run"]) == 0
    assert "45 of 45 to do" in capsys.readouterr().out


def test_the_table_is_of_the_folder_that_the_sweep_takes(tmp_path, monkeypatch):
    """The last --out, in one word or two."""
    read = []
    monkeypatch.setattr(run_denoiser.sweep, "run", lambda argv: 0)
    monkeypatch.setattr(run_denoiser.denoiser_runs, "read", lambda out, _: read.append(out))
    monkeypatch.setattr(run_denoiser.denoiser_runs, "table", lambda found: "")
    monkeypatch.setattr(run_denoiser.denoiser_runs, "changes", lambda found: "")
    assert run_denoiser.run(["--out=elsewhere", "--out", str(tmp_path)]) == 0
    assert read == [tmp_path]
