"""Reports: intervals, what is averaged with what, the table, the pictures."""

import dataclasses
import json

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from gmm_diffusion import config as config_lib
from gmm_diffusion.errors import InputError
from gmm_diffusion.report import __main__ as report
from gmm_diffusion.report import plots, results, summary, table
from gmm_diffusion.runs.workdir import evaluation_path, write_config, write_json

STEP = "sample.step"
SCALES, AVERAGES, SEEDS = (1.0, 1.5, 3.0), (0.05, 0.1), (0, 1, 10)


def value_of(kind, scale, ema, seed):
    return scale + 10 * ema + 0.01 * seed**2 + (kind == "mixture")


def evaluated(run, seed, name, value, blocks=(1.0, 2.0), **settings):
    """Writes what a training and an evaluation leave behind."""
    config = config_lib.default()
    config.training.seed = seed
    write_config(config, run)
    for field, setting in settings.items():
        group, last = field.split("__")
        config[group][last] = setting
    config.evaluation.name = name
    metrics = {
        "frechet_360": {"value": value, "blocks": list(blocks), "floor": 0.25},
        "recall_360": {"value": 0.5, "blocks": [0.5], "floor": 0.75},
    }
    path = evaluation_path(run, name)
    path.parent.mkdir(exist_ok=True)
    stored = config_lib.sampling_fields(config)
    write_json(path, {"step": 1, "metrics": metrics, "settings": stored})
    return path


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Evaluations of three trainings with two kinds of guidance, three scales, two averages."""
    folder = tmp_path_factory.mktemp("grid")
    for seed in SEEDS:
        for kind in ("auto", "mixture"):
            for scale in SCALES:
                for ema in AVERAGES:
                    evaluated(
                        folder / "main" / f"seed{seed}",
                        seed,
                        f"{kind}{scale}-{ema}",
                        value_of(kind, scale, ema, seed),
                        guidance__kind=kind,
                        guidance__scale=scale,
                        guidance__guide=f"runs/guide/seed{seed}" if kind == "auto" else "",
                        sample__ema=ema,
                    )
    return folder


def rows(text):
    """The Markdown table as lists of cells, the header first and without its rule."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert set(cells[1]) == {"---"}
    assert len({len(row) for row in cells}) == 1
    return [cells[0], *cells[2:]]


# ---- numbers


@pytest.mark.parametrize("n", [2, 3, 7, 40])
def test_intervals_are_those_of_student(n):
    values = np.random.default_rng(n).normal(3, 2, n)
    low, high = scipy.stats.t.interval(
        0.95, n - 1, loc=values.mean(), scale=scipy.stats.sem(values)
    )
    half = summary.half_width(list(values))
    assert values.mean() - half == pytest.approx(low)
    assert values.mean() + half == pytest.approx(high)


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(4000, 3))
    covered = [abs(s.mean()) < summary.half_width(s) for s in samples]
    assert np.mean(covered) == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 4000))


def test_an_interval_is_over_seeds_or_else_over_blocks():
    several = summary.summarise([1.0, 3.0], [5.0, 5.0], 0.5)
    # The quantile of one degree of freedom is tan(0.475 pi); the standard error is 1.
    assert several == summary.Summary(
        2.0, pytest.approx(np.tan(0.475 * np.pi)), "seeds", 0.5, (1.0, 3.0)
    )
    single = summary.summarise([2.0], [1.0, 3.0], 0.5)
    assert single == summary.Summary(2.0, several.half, "blocks", 0.5, (2.0,))
    assert summary.summarise([2.0], [2.0], 0.5) == summary.Summary(2.0, None, "", 0.5, (2.0,))


def test_parallel_sampling_reports_its_rounds_and_evaluations(tmp_path):
    path = evaluated(tmp_path / "run", 0, "", 1.0, sample__steps=12)
    assert "rounds" not in results.find([str(tmp_path)])[0][0].metrics
    stored = json.loads(path.read_text())
    cost = {"rounds": 5.5, "evaluations": 40.25, "sequential_evaluations": 23}
    write_json(path, stored | {"cost": cost})
    metrics = results.find([str(tmp_path)])[0][0].metrics
    assert metrics["rounds"] == {"value": 5.5, "blocks": [5.5], "floor": 12}
    assert metrics["evaluations"] == {"value": 40.25, "blocks": [40.25], "floor": 23}
    # As older versions wrote it.
    write_json(path, stored | {"cost": {"rounds": 5.5, "evaluations": 40.25}})
    assert "evaluations" not in results.find([str(tmp_path)])[0][0].metrics


# ---- what is averaged with what


def test_groups_differ_in_all_but_the_seed(grid):
    found, skipped = results.find([str(grid)])
    assert len(found) == 36
    assert skipped == []
    fields = results.varying(found)
    # A guide's path names the seed, and is no setting of its own for it.
    assert set(fields) == {"guidance.kind", "guidance.scale", "guidance.guide", "sample.ema"}
    fields = ["guidance.kind", "guidance.scale", "sample.ema"]
    groups = summary.group(found, fields, ["guidance.guide"])
    assert [group.key for group in groups] == [
        (kind, scale, ema) for kind in ("auto", "mixture") for scale in SCALES for ema in AVERAGES
    ]
    for group in groups:
        values = [value_of(*group.key, seed) for seed in SEEDS]
        found_here = group.metrics["frechet_360"]
        assert found_here.mean == pytest.approx(np.mean(values))
        half = scipy.stats.t.ppf(0.975, 2) * scipy.stats.sem(values)
        assert found_here.half == pytest.approx(half)
        assert (found_here.over, found_here.seeds, found_here.floor) == ("seeds", 3, 0.25)


def test_what_follows_from_a_kind_has_no_column(grid, tmp_path):
    found, _ = results.find([str(grid)])
    fields = results.varying(found)
    assert results.implied(found, fields) == ["guidance.guide"]
    assert results.implied(found, ["guidance.guide", "guidance.scale"]) == []
    assert report.run([str(grid), f"--out={tmp_path}"]) == 0
    text = (tmp_path / "report.md").read_text()
    assert set(rows(text)[0][:3]) == {"kind", "scale", "ema"}
    assert "guidance.guide" in text, "said, but not shown"
    assert report.run([str(grid), f"--out={tmp_path}", "--x", "guidance.guide"]) == 0
    assert "guide" in rows((tmp_path / "report.md").read_text())[0], "asked for"


def test_different_settings_are_not_averaged(grid):
    found, _ = results.find([str(grid)])
    with pytest.raises(InputError, match=r"differ in sample.ema \(0.05, 0.1\); add --by"):
        summary.group(found, ["guidance.kind", "guidance.scale"], ["sample.ema"])


def test_evaluations_of_earlier_versions_had_one_judge_and_the_test_split(tmp_path):
    paths = [evaluated(tmp_path / f"run{i}", i, "", 1.0) for i in range(2)]
    stored = json.loads(paths[0].read_text())
    for field in ("evaluation.judges", "evaluation.split"):
        del stored["settings"][field]
    write_json(paths[0], stored)
    old, new = results.find([str(tmp_path)])[0]
    assert (old.settings["evaluation.judges"], new.settings["evaluation.judges"]) == (1, 5)
    assert old.settings["evaluation.split"] == new.settings["evaluation.split"] == "heldout"
    assert results.varying([old, new]) == ["evaluation.judges"]


def test_steps_of_a_run_that_went_on_are_not_averaged(tmp_path):
    run = tmp_path / "run"
    config = config_lib.default()
    for step in (20, 30):
        config.training.num_steps = step
        path = evaluated(run, 0, f"at{step}", float(step))
        write_json(path, json.loads(path.read_text()) | {"step": step})
    write_config(config, run)
    found, _ = results.find([str(run)])
    assert results.varying(found) == [STEP]
    with pytest.raises(InputError, match=r"sample\.step \(20, 30\)"):
        summary.group(found, [], results.varying(found))
    # Several lengths, each at its end, differ in their length alone.
    found = [
        dataclasses.replace(r, settings=r.settings | {"training.num_steps": r.settings[STEP]})
        for r in found
    ]
    assert results.varying(found) == ["training.num_steps"]


def test_other_data_are_not_averaged_and_the_same_elsewhere_are(tmp_path):
    """The place alone says nothing: what each run noted of its data does."""
    split = {"examples": 20, "labels": 1, "attributes": None, "features": None}
    noted = {"shape": [2], "kind": "float32", "classes": [], "attributes": []}
    for i, (folder, deviation) in enumerate([("a", 1.0), ("b", 1.0000001), ("c", 5.0)]):
        run = tmp_path / f"run{i}"
        path = evaluated(run, i, "", 1.0)
        stored = json.loads((run / "config.json").read_text())
        stored["data"]["data_dir"] = folder
        write_json(run / "config.json", stored)
        write_json(
            run / "data.json", noted | {"splits": {"train": split | {"deviation": deviation}}}
        )
        assert path.exists()
    found, _ = results.find([str(tmp_path)])
    assert results.varying(found[:2]) == []
    assert results.varying(found) == ["data.data_dir"]


def test_floors_of_two_splits_are_not_averaged(tmp_path):
    for i, split in enumerate(("heldout", "validation")):
        evaluated(tmp_path / f"run{i}", i, "", 1.0, evaluation__split=split)
    found, _ = results.find([str(tmp_path)])
    with pytest.raises(InputError, match=r"evaluation\.split \(heldout, validation\)"):
        summary.group(found, [], results.varying(found))


def test_evaluations_of_one_seed_count_once(tmp_path):
    evaluated(tmp_path / "a", 0, "first", 1.0)
    evaluated(tmp_path / "a", 0, "again", 3.0)
    evaluated(tmp_path / "b", 1, "", 5.0)
    found, _ = results.find([str(tmp_path)])
    assert results.varying(found) == []
    (group,) = summary.group(found, [], [])
    assert group.metrics["frechet_360"].mean == 3.5, "of 2 and 5"
    assert group.metrics["frechet_360"].seeds == 2


def test_files_that_are_not_whole_are_skipped(tmp_path, capsys):
    evaluated(tmp_path / "a", 0, "", 1.0)
    good = evaluated(tmp_path / "a", 0, "good", 1.0)
    content = json.loads(good.read_text())
    for name, text in {
        "empty": "",
        "half": good.read_text()[:100],
        "list": "[]",
        "without": json.dumps({"step": 3}),
        "unknown": json.dumps(content | {"settings": content["settings"] | {"": 10**400}}),
        "far": json.dumps(content | {"step": 10**400}),
        "odd": json.dumps(content | {"metrics": {"frechet_360": {"value": None}}}),
    }.items():
        (good.parent / f"{name}.json").write_text(text)
    (tmp_path / "stray").mkdir()
    (tmp_path / "stray" / "evaluation.json").write_text(good.read_text())
    # An evaluation from before settings were stored has those of its run.
    write_json(good, {k: v for k, v in content.items() if k != "settings"})
    found, skipped = results.find([str(tmp_path), str(tmp_path / "a")])
    assert len(found) == 2
    assert len(skipped) == 8
    assert all("\n" not in line for line in skipped)
    assert report.run([str(tmp_path)]) == 0
    assert capsys.readouterr().err.count("Skipped") == 8


# ---- the table


def test_the_table_has_the_numbers(grid, tmp_path, capsys):
    line = [str(grid), f"--out={tmp_path}", "--by", "guidance.kind", "guidance.scale"]
    assert report.run([*line, "--where", "sample.ema=0.10", "--metric", "frechet"]) == 0
    text = (tmp_path / "report.md").read_text()
    assert text in capsys.readouterr().out + "\n"
    header, *body = rows(text)
    assert header == ["kind", "scale", "seeds", "frechet_360"]
    assert len(body) == 6
    for kind, scale, seeds, cell in body:
        values = [value_of(kind, float(scale), 0.1, seed) for seed in SEEDS]
        mean, half, floor = cell.replace("±", " ").replace("(", " ").strip(")").split()
        assert seeds == "3"
        assert float(mean) == pytest.approx(np.mean(values), rel=1e-3)
        half_width = scipy.stats.t.ppf(0.975, 2) * scipy.stats.sem(values)
        assert float(half) == pytest.approx(half_width, rel=0.05)
        assert float(floor) == 0.25
    assert table.ONE_SEED not in text


def test_differences_are_those_of_the_same_seed(grid, tmp_path, capsys):
    line = [str(grid), f"--out={tmp_path}", "--metric", "frechet", "--against"]
    assert report.run([*line, "guidance.kind=auto", "guidance.scale=1.0"]) == 0
    text = (tmp_path / "report.md").read_text()
    header, *body = rows(text)
    # What the seed adds is gone, and so is its spread; averages are compared with themselves.
    for row in body:
        named = dict(zip(header, row, strict=True))
        expected = float(named["scale"]) - 1 + (named["kind"] == "mixture")
        assert named["frechet_360"].startswith(f"{expected:.4g} ± ")
        assert float(named["frechet_360"].split()[2]) < 1e-12
    assert len(body) == 2 * (len(SCALES) * 2 - 1)
    assert "differences from the runs with guidance.kind=auto, guidance.scale=1.0" in text
    # All differ by 0, 0.5, 1, ..., exactly but for rounding: the one that is 0 is no difference.
    starred = [row[header.index("frechet_360")].endswith("\\*") for row in body]
    expected = [float(row[1]) - 1 + (row[0] == "mixture") != 0 for row in body]
    assert starred == expected
    assert "10 comparisons, paired by seed" in text
    assert report.run([*line, "training.seed=0"]) == 2
    assert "leaves no pair" in capsys.readouterr().err


def test_a_floor_that_differs_within_a_table_is_said(grid, tmp_path):
    line = [str(grid), f"--out={tmp_path}", "--metric", "frechet", "recall"]
    assert report.run(line) == 0
    assert "The floor of" not in (tmp_path / "report.md").read_text()
    other = evaluated(tmp_path / "other", 0, "", 1.0, sample__ema=0.2)
    stored = json.loads(other.read_text())
    stored["metrics"]["frechet_360"]["floor"] = 0.26
    write_json(other, stored)
    assert report.run([str(tmp_path / "other"), *line]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "The floor of frechet_360 is not the same in every row" in text


def test_one_seed_is_said(grid, tmp_path):
    assert report.run([str(grid), f"--out={tmp_path}", "--where", "training.seed=1"]) == 0
    text = (tmp_path / "report.md").read_text()
    assert table.ONE_SEED in text
    header, *body = rows(text)
    assert {row[header.index("recall_360")] for row in body} == {"0.5 ± - (0.75)"}


def test_names_and_values_as_text():
    assert table.short_names(["sample.seed", "training.seed", "sample.ema"]) == [
        "sample.seed",
        "training.seed",
        "ema",
    ]
    for value, text in [(1.0, "1"), (0.05, "0.05"), ("", '""'), ("a", "a"), ((1, 2.5), "(1, 2.5)")]:
        assert table.show(value) == text
    assert table.show(True) == "True"
    assert table.cell(None) == "-"


# ---- pictures


@pytest.fixture(scope="module")
def groups(grid):
    found, _ = results.find([str(grid)])
    fields = ["guidance.kind", "guidance.scale", "sample.ema"]
    return fields, summary.group(found, fields, [])


def test_curves_have_a_line_for_each_kind(groups):
    fields, found = groups
    figure = plots.curves(found, fields, "frechet_360", "guidance.scale")
    (axes,) = figure.axes
    lines = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert len(lines) == 4, "two kinds, two averages"
    assert len(axes.collections) == 4, "a band each"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "auto, 0.05",
        "auto, 0.1",
        "mixture, 0.05",
        "mixture, 0.1",
        "real held-out data",
    ]
    np.testing.assert_allclose(lines[0].get_xdata(), SCALES)
    expected = [np.mean([value_of("auto", s, 0.05, seed) for seed in SEEDS]) for s in SCALES]
    np.testing.assert_allclose(lines[0].get_ydata(), expected)
    (floor,) = [line for line in axes.get_lines() if line.get_linestyle() == "--"]
    assert set(floor.get_ydata()) == {0.25}


def test_curves_over_names(groups):
    fields, found = groups
    figure = plots.curves(found, fields, "frechet_360", "guidance.kind")
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["auto", "mixture"]
    assert len([line for line in axes.get_lines() if line.get_marker() == "o"]) == 6


def test_heat_maps_have_a_panel_for_each_kind(groups):
    fields, found = groups
    figure = plots.heatmap(found, fields, "frechet_360", ["guidance.scale", "sample.ema"])
    *panels, _ = figure.axes
    assert [axes.get_title() for axes in panels] == ["auto", "mixture"]
    for axes in panels:
        (image,) = axes.get_images()
        expected = [
            [np.mean([value_of(axes.get_title(), s, ema, seed) for seed in SEEDS]) for s in SCALES]
            for ema in AVERAGES
        ]
        np.testing.assert_allclose(image.get_array(), expected)
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "1.5", "3"]
        assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0.05", "0.1"]
    # A combination that has not been run stays empty.
    figure = plots.heatmap(found[1:], fields, "frechet_360", ["guidance.scale", "sample.ema"])
    assert np.ma.masked_invalid(figure.axes[0].get_images()[0].get_array()).mask.sum() == 1


def test_bars_have_one_for_each_group(groups):
    fields, found = groups
    figure = plots.bars(found, fields, "frechet_360")
    (axes,) = figure.axes
    widths = [patch.get_width() for patch in axes.patches]
    np.testing.assert_allclose(widths, [group.metrics["frechet_360"].mean for group in found])
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["real held-out data"]
    (changes,) = plots.bars(found, fields, "frechet_360", changes=True).axes
    assert changes.get_xlabel() == "change of frechet_360"
    assert [t.get_text() for t in changes.get_legend().get_texts()] == ["no change"]
    rounds = [dataclasses.replace(g, metrics={"rounds": g.metrics["frechet_360"]}) for g in found]
    (costs,) = plots.bars(rounds, fields, "rounds").axes
    assert [t.get_text() for t in costs.get_legend().get_texts()] == ["one step after another"]
    note = "In brackets behind rounds is what the same sampler takes one step after another."
    assert note in table.markdown(rounds, fields, ["rounds"])
    assert note not in table.markdown(found, fields, ["frechet_360"])
    (alone,) = plots.bars([dataclasses.replace(found[0], key=())], [], "frechet_360").axes
    assert [tick.get_text() for tick in alone.get_yticklabels()] == ["the run"]


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (["--x", "guidance.scale"], "curves"),
        (["--heatmap", "guidance.scale", "sample.ema"], "heatmap"),
        ([], "bars"),
    ],
)
def test_pictures_are_written(options, kind, grid, tmp_path, capsys):
    assert report.run([str(grid), "--out", str(tmp_path / "new" / "out"), *options]) == 0
    out = capsys.readouterr().out
    for metric in ("frechet_360", "recall_360"):
        path = tmp_path / "new" / "out" / f"{kind}_{metric}.png"
        assert str(path) in out
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert np.asarray(image.convert("L")).std() > 5, "something is drawn"
    assert len(list(path.parent.iterdir())) == 3


# ---- bad input

BAD_LINES = {
    "no directory": ([], "DIR is missing"),
    "not a directory": (["{out}/absent"], "which is no folder"),
    "no runs": (["{out}"], "holds no finished evaluation"),
    "near metric": (["{grid}", "--metric", "frechett"], "did you mean frechet?"),
    "near metric with its count": (["{grid}", "--metric", "recal_360"], "did you mean recall_360?"),
    "unknown metric": (["{grid}", "--metric", "zzz"], "there are frechet_360, recall_360."),
    "unknown setting": (["{grid}", "--x", "guidance.scal"], "did you mean guidance.scale?"),
    "unknown condition": (["{grid}", "--where", "sample.em=1"], "did you mean sample.ema?"),
    "no condition": (["{grid}", "--where", "sample.ema"], "must be FIELD=VALUE"),
    "absent value": (["{grid}", "--where", "sample.ema=7"], "there are 0.05, 0.1."),
    "two pictures": (
        ["{grid}", "--x", "sample.ema", "--heatmap", "sample.ema", "guidance.scale"],
        "use one at a time",
    ),
    "one field twice": (["{grid}", "--heatmap", "sample.ema", "sample.ema"], "sample.ema twice"),
    "one field": (["{grid}", "--heatmap", "sample.ema"], "expected 2 arguments"),
    "mixed settings": (["{grid}", "--by", "guidance.kind"], "differ in "),
    "unknown option": (["{grid}", "--meric", "recall"], "Unrecognized arguments"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_command_lines(name, grid, tmp_path, capsys):
    line, message = BAD_LINES[name]
    line = [text.replace("{grid}", str(grid)).replace("{out}", str(tmp_path)) for text in line]
    assert report.run(line) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    assert len(err.splitlines()) == 1
    assert message in err
    assert not list(tmp_path.iterdir())
    assert not (grid / "report").exists()


def test_a_place_that_cannot_be_written(grid, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert report.run([str(grid), f"--out={tmp_path / 'file'}"]) == 2
    assert "which is a file" in capsys.readouterr().err


def test_help(capsys):
    assert report.run(["--help"]) == 0
    assert "--heatmap FIELD FIELD" in capsys.readouterr().out
