"""What is read from the logs of denoisers with a classifier: by hand, from files made by hand."""

import json

import pytest

from experiments import denoiser_runs, run_denoiser
from gmm_diffusion import config as config_lib
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
    groups = denoiser_runs.read(tmp_path)
    assert set(groups) == {("none", 0.0, 0.0), ("ngmg", 0.1, 0.01)}
    first, second = groups["ngmg", 0.1, 0.01]
    # 3, 1 and 3 over the medians before them, 1, 2 and 1: mean 13/6, mean square 73/12.
    assert first["variation"] == pytest.approx((73 / 12 - (13 / 6) ** 2) ** 0.5 / (13 / 6))
    assert first["largest"] == 3.0
    assert (first["spikes"], second["spikes"]) == pytest.approx((0, 100 / 3))
    assert (first["diverged"], second["diverged"]) == (False, True)
    assert groups["none", 0.0, 0.0][0]["variation"] == 0
    lines = denoiser_runs.table(groups).splitlines()
    assert lines[2].startswith("| ngmg | 0.1 | 0.01 | 2 | 1 of 2 | 0.544 ± 0.000 | 3.000 ± 0.000 |")
    # Student's quantile of one degree of freedom is 12.706.
    assert "| 0.700 ± 1.271 |" in lines[2]
    assert lines[3].startswith("| none | - | - | 1 | 0 of 1 |")


def test_changes_are_paired_by_seed(tmp_path):
    flat = [1.0] * 4
    for seed, agreement in ((0, 0.5), (1, 0.9), (2, 0.7)):
        make_run(tmp_path / f"n{seed}", 0.0, "ngmg", [2] * 4, flat, agreement, seed=seed)
        better = agreement + 0.1 + 0.001 * seed
        make_run(tmp_path / f"e{seed}", 0.1, "ngmg", [1, 3] * 2, flat, better, seed=seed)
        # Its seeds 2 and 3 are finished; of the last there is no other.
        make_run(
            tmp_path / f"c{seed}", 0.1, "cross-entropy", [1, 3] * 2, flat, agreement, seed=seed + 2
        )
    text = denoiser_runs.changes(denoiser_runs.read(tmp_path))
    rows = {line.split(" | ")[0]: line.split(" | ")[1:] for line in text.splitlines()}
    assert rows["| ngmg - none"][:2] == ["0.1", "0.01"]
    # Differences 0.1, 0.101, 0.102; the half width is 4.303 * 0.001 / sqrt(3).
    assert rows["| ngmg - none"][2:6] == ["-", "-", "-", "+0.101 ± 0.002 \\*"]
    # Seed 2 alone is in both: 0.802 and 0.5.
    assert rows["| ngmg - cross-entropy"][2:6] == ["+0.000", "+0.000", "+0.000", "+0.302"]
    # Four metrics of NGMG and none; a single pair is no test.
    assert text.splitlines()[-1].startswith("4 comparisons, paired by seed")


def test_no_runs_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no finished run"):
        denoiser_runs.read(tmp_path)


def test_the_command_plans_every_run(tmp_path, capsys):
    assert run_denoiser.run([f"--out={tmp_path}", "--dry_run"]) == 0
    assert "27 of 27 to do" in capsys.readouterr().out


def test_the_table_is_of_the_folder_that_the_sweep_takes(tmp_path, monkeypatch):
    """The last --out, in one word or two."""
    read = []
    monkeypatch.setattr(run_denoiser.sweep, "run", lambda argv: 0)
    monkeypatch.setattr(run_denoiser.denoiser_runs, "read", lambda out: read.append(out))
    monkeypatch.setattr(run_denoiser.denoiser_runs, "table", lambda found: "")
    monkeypatch.setattr(run_denoiser.denoiser_runs, "changes", lambda found: "")
    assert run_denoiser.run(["--out=elsewhere", "--out", str(tmp_path)]) == 0
    assert read == [tmp_path]
