"""Sweeps: what is run, what is left, how long it takes, and how it stops."""

import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from gmm_diffusion import config as config_lib
from gmm_diffusion import main as main_lib
from gmm_diffusion import signals
from gmm_diffusion.errors import InputError
from gmm_diffusion.runs import checkpoint_files
from gmm_diffusion.runs.workdir import evaluation_path, write_config, write_json
from gmm_diffusion.sweep import __main__ as sweep
from gmm_diffusion.sweep import assignments, jobs, plan, probe, runner, times

REPOSITORY = pathlib.Path(__file__).parents[2]
TOY = str(REPOSITORY / "configs" / "toy_gmm.py")


def make(out, *stages):
    return plan.make_jobs(list(stages), out, sweep._load)


GUIDE = {
    "name": "guide",
    "config": TOY,
    "fixed": {"network.width": 8},
    "grid": {"training.seed": [0, 1]},
    "evaluate": False,
}
MAIN = {
    "name": "main",
    "config": TOY,
    "fixed": {"evaluation.blocks": 2},
    "grid": {"training.seed": [0, 1], "network.width": [16, 32], "sample.ema": [0.05, 0.1]},
    "points": [
        {"guidance.kind": "none"},
        {
            "guidance.kind": "auto",
            "guidance.scale": 2.0,
            "guidance.guide": "{out}/guide/seed{training.seed}",
        },
    ],
}


# ---- the plan


def test_training_is_shared_by_all_evaluations_of_a_run(tmp_path):
    planned = make(tmp_path, GUIDE, MAIN)
    trained = [job for job in planned if job.kind == "train"]
    assert [job.workdir.relative_to(tmp_path).as_posix() for job in trained] == [
        "guide/seed0",
        "guide/seed1",
        "main/seed0-width16",
        "main/seed0-width32",
        "main/seed1-width16",
        "main/seed1-width32",
    ]
    evaluated = [job for job in planned if job.kind == "evaluate"]
    assert len(evaluated) == 4 * 2 * 2, "four runs, two averages, two points"
    assert {job.name for job in evaluated} == {
        f"ema{ema}-{point}"
        for ema in ("0.05", "0.1")
        for point in ("kind=none", "kind=auto-scale2-guide=guide_seed")
    }
    # A run's evaluations follow its training, before the next run.
    order = [job.workdir for job in planned]
    assert order == sorted(order, key=order.index)
    assert [job.kind for job in planned[2:7]] == ["train"] + ["evaluate"] * 4


def test_the_commands_are_those_of_a_user(tmp_path):
    planned = make(tmp_path, GUIDE, MAIN)
    last = planned[-1]
    assert last.arguments() == [
        "--mode=evaluate",
        f"--workdir={tmp_path}/main/seed1-width32",
        "--config.evaluation.blocks=2",
        "--config.sample.ema=0.1",
        "--config.guidance.kind=auto",
        "--config.guidance.scale=2.0",
        f"--config.guidance.guide={tmp_path}/guide/seed1",
        "--config.evaluation.name=ema0.1-kind=auto-scale2-guide=guide_seed",
    ]
    trained = planned[2].arguments()
    assert trained[:3] == [
        "--mode=train",
        f"--workdir={tmp_path}/main/seed0-width16",
        f"--config={TOY}",
    ]
    # What evaluations vary is not the training's business, and it is evaluated by them. What they
    # have alike is stored with it, for one that is made by hand.
    assert set(trained[3:]) == {
        "--config.training.seed=0",
        "--config.network.width=16",
        "--config.evaluation.blocks=2",
        "--config.evaluation.at_end=false",
    }
    assert "--config.evaluation.at_end=false" in planned[0].arguments(), "a guide"


def test_a_run_without_evaluations_of_its_own_is_evaluated_at_its_end(tmp_path):
    stage = {"name": "a", "config": TOY, "fixed": {"sample.steps": 5}, "minutes": (2, 1)}
    (job,) = make(tmp_path, stage)
    assert job.planned.evaluation.at_end
    assert job.planned.sample.steps == 5
    assert job.minutes == 3
    assert job.workdir == tmp_path / "a" / "seed0", "the config's own seed"


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"training.seed": 0, "network.width": 64}, "seed0-width64"),
        ({"sample.seed": 1, "training.seed": 2}, "sample.seed1-training.seed2"),
        ({"guidance.scale": -1.50, "sample.churn": 1e-5}, "scale-1.5-churn1e-05"),
        ({"network.channel_mult": (1, 2)}, "channel_mult=1_2"),
        ({"data.flip": True}, "flip=True"),
        ({"evaluation.features": "file:/a b/c.npz"}, "features=file_a_b_c.npz"),
        ({}, ""),
    ],
)
def test_names_are_short_and_file_names(settings, name):
    assert plan.name_of(settings) == name
    check, _ = config_lib.RULES["evaluation.name"]
    assert check(name)


STAGE = {"name": "a", "config": TOY}
BAD_STAGES = {
    "no list": (3, "must be a list of stages"),
    "none": ([], "at least one"),
    "no dict": ([3], "must be a dict"),
    "no name": ([{"config": TOY}], "must have a name"),
    "no config": ([{"name": "a"}], "must have a config"),
    "unknown entry": ([STAGE | {"gird": {}}], "'gird'; valid are name, config, fixed, grid"),
    "wrong entry": ([STAGE | {"grid": [3]}], "grid of a stage is [3]; it must be a dict"),
    "no path": ([STAGE | {"name": "../a"}], "name of a stage is '../a'"),
    "a number for a list": ([STAGE | {"grid": {"training.seed": 3}}], "training.seed: 3; it must"),
    "no values": ([STAGE | {"grid": {"training.seed": []}}], "training.seed: []"),
    "points that are none": ([STAGE | {"points": [3]}], "must be a list of dicts"),
    "one duration": ([STAGE | {"minutes": [3]}], "must be two numbers"),
    "same name": ([STAGE, STAGE], "Two stages have the name 'a'"),
    "unknown setting": ([STAGE | {"fixed": {"training.sed": 3}}], "did you mean training.seed?"),
    "bad value": ([STAGE | {"fixed": {"training.seed": -3}}], "training.seed is -3; it must be"),
    "bad type": ([STAGE | {"fixed": {"training.seed": "a"}}], "it must be of type int"),
    "bad value of an evaluation": (
        [STAGE | {"grid": {"sample.steps": [3, 0]}}],
        "sample.steps is 0; it must be",
    ),
    "unknown template": (
        [STAGE | {"fixed": {"guidance.guide": "{training.sed}"}}],
        "{training.sed} is not a setting",
    ),
    "grid and points": (
        [STAGE | {"grid": {"training.seed": [1]}, "points": [{"training.seed": 2}]}],
        "training.seed of stage a is in grid and in points",
    ),
    "same file": (
        [STAGE | {"grid": {"evaluation.features": ["file:a:1", "file:a_1"]}}],
        "Two points of stage a have the name seed0 features=file_a_1",
    ),
    "varies what no evaluation reads": (
        [STAGE | {"grid": {"sample.condition": ["class:1", "class:2"]}}],
        "varies sample.condition, which no evaluation depends on",
    ),
    "endless": ([STAGE | {"minutes": [math.inf, 1]}], "must be two numbers"),
    "evaluations that are not made": (
        [STAGE | {"evaluate": False, "grid": {"sample.steps": [3, 4]}}],
        "varies sample.steps and has evaluate False",
    ),
}


@pytest.mark.parametrize("name", BAD_STAGES)
def test_bad_stages(name, tmp_path):
    stages, message = BAD_STAGES[name]
    with pytest.raises(InputError) as error:
        plan.make_jobs(stages, tmp_path, sweep._load)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("training.seed=0,1,2", [0, 1, 2]),
        ("sample.ema=0.05, 0.1,0", [0.05, 0.1, 0.0]),
        ("network.channel_mult=(1,2),(1,2,4)", [(1, 2), (1, 2, 4)]),
        ("data.flip=true,False", [True, False]),
        ("sample.condition=class:1,0.5*3+0.5*8", ["class:1", "0.5*3+0.5*8"]),
        ("guidance.guide={out}/a/seed{training.seed}", ["{out}/a/seed{training.seed}"]),
        ("evaluation.name=", [""]),
    ],
)
def test_assignments(text, values):
    field, found = assignments.parse(text)
    assert field == text.partition("=")[0]
    assert found == values
    assert [type(v) for v in found] == [type(v) for v in values]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.seed", "is not GROUP.FIELD=VALUE"),
        ("training.sed=1", "did you mean training.seed?"),
        ("training.seed=1,b", "training.seed is 'b'; it must be of type int"),
        ("training.seed=1.5", "'1.5'"),
        ("training.seed=", "''"),
        ("data.flip=1", "of type bool"),
    ],
)
def test_bad_assignments(text, message):
    with pytest.raises(InputError, match=r".") as error:
        assignments.parse(text)
    assert message in str(error.value)


# ---- what is left


def save(job, step):
    """A checkpoint that is whole, as far as can be told without reading it."""
    folder = job.workdir / "checkpoints" / str(step)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / checkpoint_files.last_file(folder)).touch()


def finish(job, **settings):
    """Leaves behind what the job's command would."""
    if job.kind == "train":
        write_config(job.planned, job.workdir)
        save(job, job.steps)
    if job.kind == "evaluate" or job.planned.evaluation.at_end:
        path = evaluation_path(job.workdir, job.name)
        path.parent.mkdir(exist_ok=True)
        stored = config_lib.sampling_fields(job.planned) | settings
        write_json(path, {"step": job.steps, "settings": stored})


def test_only_what_was_made_with_the_same_settings_is_done(tmp_path):
    planned = make(tmp_path, MAIN)
    train, first = planned[:2]
    assert jobs.fraction_left(train) == 1
    assert not jobs.is_done(train)
    finish(train)
    assert jobs.is_done(train)
    assert not jobs.is_done(first)
    finish(first)
    assert jobs.is_done(first)
    # Not so an evaluation of another number of blocks, or of another step, or half of a file.
    finish(first, **{"evaluation.blocks": 3})
    assert not jobs.is_done(first)
    finish(first)
    path = evaluation_path(first.workdir, first.name)
    result = json.loads(path.read_text())
    write_json(path, result | {"step": 7})
    assert not jobs.is_done(first)
    path.write_text(path.read_text()[:30])
    assert not jobs.is_done(first)
    # More steps: the training goes on, for the share that is left.
    longer = make(tmp_path, MAIN | {"fixed": {"training.num_steps": 16_000}})[0]
    assert jobs.fraction_left(longer) == 0.75
    assert not jobs.is_done(longer)


def test_another_model_in_the_directory_is_refused_before_anything_runs(tmp_path):
    finish(make(tmp_path, GUIDE)[0])
    changed = make(tmp_path, GUIDE | {"fixed": {"network.width": 32}})
    with pytest.raises(InputError, match=r"guide/seed0: .*network.width: 8 -> 32"):
        jobs.check_workdirs(changed)


# ---- times


def test_estimates(tmp_path):
    stage = {"name": "a", "config": TOY, "grid": {"sample.steps": [4, 8]}}
    train, evaluation, _ = make(tmp_path, stage)
    steps = train.steps
    assert times.estimate(train, []) is None
    records = [times.Record("a", "train", 100.0, steps // 2, "probed")]
    assert times.estimate(train, records) == times.Estimate(200.0, "probed")
    assert times.estimate(evaluation, records) is None
    declared = make(tmp_path, stage | {"minutes": (3, 0.5)})
    assert times.estimate(declared[0], records) == times.Estimate(180.0, "declared")
    assert times.estimate(declared[1], records) == times.Estimate(30.0, "declared")
    records += [
        times.Record("a", "train", 60.0, steps),
        times.Record("a", "train", 50.0, steps // 2),
        times.Record("a", "evaluate", 10.0, steps),
        times.Record("a", "evaluate", 14.0, steps * 10),
        times.Record("b", "train", 9999.0, steps),
    ]
    assert times.estimate(declared[0], records) == times.Estimate(80.0, "measured")
    assert times.estimate(evaluation, records) == times.Estimate(12.0, "measured")
    # A quarter of the steps is in a checkpoint.
    write_config(train.planned, train.workdir)
    save(train, steps // 4)
    assert times.estimate(train, records) == times.Estimate(60.0, "measured")
    text = times.table(declared, declared, records)
    assert "3 of 3 to do, about 84 s." in text
    (line,) = [line for line in text.splitlines() if "evaluate" in line]
    assert line.split() == ["a", "evaluate", "2", "2", "12", "s", "24", "s", "(measured)"]
    assert times.total([train], []) == "an unknown time"
    assert times.total([train, evaluation], records[:1]) == "at least 2.5 min"


def test_records_survive_and_a_broken_file_is_none(tmp_path):
    records = [times.Record("a", "train", 1.5, 10), times.Record("a", "train", 2.0, 10, "probed")]
    times.write(tmp_path / "new" / "sweep.json", records)
    assert times.read(tmp_path / "new" / "sweep.json") == records
    assert times.read(tmp_path / "absent.json") == []
    for text in ("", "[]", '{"times": [{"stage": 3}]}', '{"times": 3}'):
        (tmp_path / "sweep.json").write_text(text)
        assert times.read(tmp_path / "sweep.json") == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (90, "1.5 min"), (5400, "1.5 h")]
)
def test_durations_in_words(seconds, text):
    assert times.words(seconds) == text


def test_a_probe_scales_the_rate_of_its_steps(tmp_path, monkeypatch):
    stage = {"name": "a", "config": TOY, "grid": {"sample.steps": [4, 8]}}
    planned = make(tmp_path, stage)
    clock = iter([0.0, 20.0, 20.0, 27.0, 27.0])
    monkeypatch.setattr(probe.time, "monotonic", lambda: next(clock))
    lines = []

    def execute(line):
        lines.append(line)
        workdir = pathlib.Path(next(a for a in line if a.startswith("--workdir=")).split("=")[1])
        workdir.mkdir(exist_ok=True)
        # 1024 examples a step; the first call, which is compiled, is slow.
        rates = [10.0, 102_400.0, 102_400.0]
        rows = [{"step": i, "images_per_second": rate} for i, rate in enumerate(rates)]
        (workdir / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return 0

    train, evaluation = probe.probe(planned, execute)
    # 20 s of start and 500 steps, and another 3,500 of the 4,000 at 100 a second.
    assert train == times.Record("a", "train", pytest.approx(20 + 35), 4000, "probed")
    assert evaluation == times.Record("a", "evaluate", 7.0, 4000, "probed")
    assert "--config.training.num_steps=500" in lines[0]
    assert "--config.sample.steps=4" in lines[1]
    assert probe.probe(planned, lambda line: 1) == [], "what fails has no time"


# ---- the run


def run_all(planned, execute, records=None):
    said, stored = [], []
    with signals.graceful() as interrupt:
        outcome = runner.run(
            planned,
            [] if records is None else records,
            lambda job, cores: execute(job),
            interrupt,
            lambda records: stored.append(list(records)),
            said.append,
            iter(range(0, 10_000, 30)).__next__,
        )
    return outcome, said, stored


def test_a_failure_stops_nothing_but_its_own_run(tmp_path):
    planned = make(tmp_path, GUIDE, MAIN)
    executed = []

    def execute(job):
        executed.append(job)
        if job.workdir.name == "seed0-width16":
            job.log.parent.mkdir(parents=True, exist_ok=True)
            job.log.write_text("step 1\nError: no such thing.\n\n")
            return 2
        if job.workdir.name == "seed1-width32" and "none" in job.name:
            return 0  # And wrote nothing.
        finish(job)
        return 0

    outcome, said, stored = run_all(planned, execute)
    assert len(outcome.left_out) == 4, "evaluations of the run that was not trained"
    assert len(executed) == len(planned) - 4
    assert [job.title for job in outcome.failed] == [
        "main/seed0-width16",
        "main/seed1-width32 ema0.05-kind=none",
        "main/seed1-width32 ema0.1-kind=none",
    ]
    assert any(line.endswith("exit status 2: Error: no such thing.") for line in said)
    assert {r.seconds for r in stored[-1]} == {30}
    # Again: what is done is not done again.
    executed.clear()
    outcome, _, _ = run_all(planned, lambda job: executed.append(job) or finish(job) or 0)
    assert len(executed) == 1 + 4 + 2
    assert not outcome.failed
    outcome, said, _ = run_all(planned, lambda job: 1)
    assert said == []


def test_runs_beside_one_another(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "shares", lambda parallel: [[7], [8]][:parallel])
    planned = make(tmp_path, GUIDE, MAIN)
    both, busy, order = threading.Barrier(2, timeout=20), set(), []

    def execute(job, cores):
        # Nobody passes who has nobody beside: both stages have an even number of trainings.
        if job.kind == "train":
            both.wait()
        assert cores[0] not in busy
        busy.add(cores[0])
        order.append(job)
        finish(job)
        busy.discard(cores[0])
        return int(job.title == "main/seed0-width16")

    records = []
    with signals.graceful() as interrupt:
        outcome = runner.run(planned, records, execute, interrupt, len, len, parallel=2)
    assert [job.title for job in outcome.failed] == ["main/seed0-width16"]
    assert len(order) == len(planned) - len(outcome.left_out) == len(planned) - 4
    assert {job.stage for job in order[:2]} == {"guide"}, "a stage waits for the one before"
    for job in order:
        if job.kind == "evaluate":
            (train,) = [o for o in order if o.kind == "train" and o.workdir == job.workdir]
            assert order.index(train) < order.index(job)
    assert len(records) == len(order) - 1


def test_processors_are_dealt_out(monkeypatch):
    monkeypatch.setattr(runner.os, "sched_getaffinity", lambda _: {2, 3, 5}, raising=False)
    assert runner.shares(1) == [[]]
    assert runner.shares(2) == [[2, 5], [3]]
    assert runner.shares(4) == [[2], [3], [5], [2]], "more runs than processors share them"
    monkeypatch.delattr(runner.os, "sched_getaffinity")
    assert runner.shares(2) == [[], []]


def test_the_time_of_runs_beside_one_another(tmp_path):
    planned = make(tmp_path, GUIDE | {"minutes": (2, 1)})
    assert times.table(planned, planned, [], 2).endswith("2 of 2 to do, about 2.0 min.")


def test_the_time_of_a_training_that_goes_on_is_not_kept(tmp_path):
    planned = make(tmp_path, GUIDE)
    write_config(planned[0].planned, planned[0].workdir)
    save(planned[0], 1000)
    records = []
    run_all(planned, lambda job: finish(job) or 0, records)
    assert [r.stage for r in records] == ["guide"], "that of the other seed alone"


def test_the_command_line(tmp_path, capsys, monkeypatch):
    executed = []

    def command(arguments, log, interrupt, cores):
        mode, workdir, config, *_ = main_lib.parse(["main", *arguments])
        executed.append((mode, pathlib.Path(workdir).relative_to(tmp_path).as_posix()))
        finish(jobs.Job("", mode, pathlib.Path(workdir), "", {}, config))
        return 0

    monkeypatch.setattr(runner, "command", command)
    line = [f"--out={tmp_path / 'out'}", f"--config={TOY}", "training.seed=0,1", "--minutes=2,1"]
    line += ["sample.ema=0.05,0.1", "training.num_steps=100"]
    assert sweep.run([*line, "--dry_run"]) == 0
    assert "6 of 6 to do, about 8.0 min." in capsys.readouterr().out
    assert executed == []
    assert not (tmp_path / "out").exists()
    assert sweep.run(line) == 0
    assert [mode for mode, _ in executed] == ["train", "evaluate", "evaluate"] * 2
    assert executed[-1][1] == "out/toy_gmm/seed1"
    assert (tmp_path / "out/toy_gmm/seed1/evaluations/ema0.1.json").is_file()
    capsys.readouterr()
    assert sweep.run(line) == 0
    assert "0 of 6 to do." in capsys.readouterr().out
    assert len(executed) == 6
    # A sweep file, cut down on the command line.
    (tmp_path / "grid.py").write_text(f"def get_sweep():\n    return {[GUIDE, MAIN]!r}\n")
    line = [f"--out={tmp_path / 'file'}", str(tmp_path / "grid.py"), "training.seed=3"]
    assert sweep.run([*line, "--minutes=1,1", "training.num_steps=7"]) == 0
    assert {workdir for _, workdir in executed[6:]} == {
        "file/guide/seed3",
        "file/main/seed3-width16",
        "file/main/seed3-width32",
    }


BAD_LINES = {
    "no directory": ([f"--config={TOY}"], "--out is missing"),
    "nothing to run": (["--out=x"], "Name one sweep file"),
    "two things to run": (["--out=x", f"--config={TOY}", "a.py"], "Name one sweep file"),
    "unknown option": (["--out=x", "--confg=y"], "Unrecognized arguments: --confg=y"),
    "missing file": (["--out=x", "absent.py"], "'absent.py', which is not a file"),
    "missing config": (["--out=x", "--config=absent.py"], "which is not a file"),
    "endless times": (["--out=x", f"--config={TOY}", "--minutes=inf,1"], "--minutes is 'inf,1'"),
    "twice": (
        ["--out=x", f"--config={TOY}", "training.seed=0,1", "training.seed=5"],
        "training.seed is given twice",
    ),
    "odd times": (["--out=x", f"--config={TOY}", "--minutes=3"], "--minutes is '3'"),
    "no runs at a time": (["--out=x", f"--config={TOY}", "--parallel=0"], "--parallel is '0'"),
    "bad setting": (["--out=x", f"--config={TOY}", "sample.steps=0"], "sample.steps is 0"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_command_lines(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line, message = BAD_LINES[name]
    assert sweep.run(line) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    assert message in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 3", "KeyError"),
        ("def get_sweep(): return 3", "TypeError"),
        ("def get_sweep(): return [3]", "A stage is 3"),
    ],
)
def test_bad_sweep_files(text, message, tmp_path, capsys):
    (tmp_path / "bad.py").write_text(text)
    assert sweep.run([f"--out={tmp_path / 'out'}", str(tmp_path / "bad.py")]) == 2
    assert message in capsys.readouterr().err


# A stand-in for the package's command line, which starts in no time.
STAND_IN = """
import pathlib, signal, sys, time
folder = pathlib.Path(next(a for a in sys.argv if a.startswith("--workdir=")).split("=")[1])
def stop(signum, frame):
    folder.parent.joinpath("stopped").write_text(str(signum))
    sys.exit(128 + signum)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
print("at work", flush=True)
folder.parent.joinpath(f"started_{folder.name}").write_text("")
time.sleep(60)
"""


@pytest.mark.parametrize("parallel", [1, 2])
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_reaches_the_run_and_ends_the_sweep(tmp_path, signum, status, parallel):
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    driver = f"""
        import sys
        from gmm_diffusion.sweep import __main__ as sweep
        popen = sweep.runner.subprocess.Popen
        def stand_in(line, **options):
            return popen([sys.executable, {str(tmp_path / "stand_in.py")!r}, *line[3:]], **options)
        sweep.runner.subprocess.Popen = stand_in
        sys.exit(sweep.run(sys.argv[1:]))
    """
    line = [f"--out={tmp_path / 'out'}", f"--config={TOY}", "--minutes=1,1"]
    line += [f"--parallel={parallel}", "training.seed=0,1,2"]
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(driver), *line],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    ) as process:
        try:
            started = time.monotonic()
            # Each run that is under way: one may start long before the other.
            while len(list(tmp_path.glob("out/toy_gmm/started_*"))) < parallel:
                assert time.monotonic() - started < 60
                time.sleep(0.05)
            process.send_signal(signum)
            out, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == status
    assert "The same command goes on from here." in out
    assert (tmp_path / "out/toy_gmm/stopped").read_text() == str(int(signum))
    log = (tmp_path / "out/toy_gmm/seed0.log").read_text()
    assert log.startswith("$ ")
    assert "--mode=train" in log
    assert log.endswith("at work\n")


def test_real_runs(tmp_path, capsys, monkeypatch):
    # From another directory, and without the package installed.
    monkeypatch.chdir(tmp_path)
    line = [f"--config={TOY}", "--out=out", "--minutes=1,1", "sample.steps=2,3"]
    line += ["training.num_steps=2", "training.steps_per_call=2", "training.heldout_every=0"]
    line += ["network.num_blocks=1", "network.width=8", "conditioning.kind=none"]
    line += ["training.tensorboard=false", "evaluation.max_samples=100"]
    assert sweep.run(line) == 0, capsys.readouterr()
    out, _ = capsys.readouterr()
    assert "[3/3] toy_gmm/seed0 steps3: evaluating" in out
    run = tmp_path / "out" / "toy_gmm" / "seed0"
    assert not (run / "evaluation.json").exists()
    for steps in (2, 3):
        result = json.loads((run / "evaluations" / f"steps{steps}.json").read_text())
        assert result["step"] == 2
        assert result["settings"]["sample.steps"] == steps
        assert result["settings"]["evaluation.name"] == f"steps{steps}"
        # Heun takes two calls a step, and one in the last.
        assert result["cost"]["evaluations"] == 2 * steps - 1
        assert result["cost"]["parameters"] > 100
        assert result["cost"]["training_seconds"] > 0
    assert {r.kind for r in times.read(tmp_path / "out" / "sweep.json")} == {"train", "evaluate"}
    assert sweep.run(line) == 0
    assert "0 of 3 to do." in capsys.readouterr().out


def test_results_of_earlier_versions_that_stored_paths_as_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fixed = {"guidance.kind": "auto", "guidance.guide": "runs/guide"}
    stage = {"name": "a", "config": TOY, "fixed": fixed, "grid": {"sample.ema": [0.05, 0.1]}}
    job = make(tmp_path / "out", stage)[1]
    assert job.planned.guidance.guide == str(tmp_path / "runs" / "guide")
    path = evaluation_path(job.workdir, job.name)
    path.parent.mkdir(parents=True)
    for guide, done in (("runs/guide", True), ("runs/other", False), ("", False)):
        settings = config_lib.sampling_fields(job.planned) | {"guidance.guide": guide}
        write_json(path, {"settings": settings, "step": job.steps})
        assert jobs.is_done(job) is done
