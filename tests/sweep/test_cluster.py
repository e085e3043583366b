"""Sweeps through submitit: what SLURM is told, by stand-ins for it, and whole runs without it."""

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

from gmm_diffusion import extras
from gmm_diffusion.errors import InputError
from gmm_diffusion.report import __main__ as report
from gmm_diffusion.runs import checkpoint_files
from gmm_diffusion.runs.workdir import write_config
from gmm_diffusion.sweep import __main__ as sweep
from gmm_diffusion.sweep import cluster, submitted

REPOSITORY = pathlib.Path(__file__).parents[2]
TOY = str(REPOSITORY / "configs" / "toy_gmm.py")
SMALL = {
    "training.num_steps": 2,
    "training.steps_per_call": 2,
    "training.heldout_every": 0,
    "training.tensorboard": False,
    "network.num_blocks": 1,
    "network.width": 8,
    "conditioning.kind": "none",
    "evaluation.max_samples": 100,
}
GUIDE = {"name": "guide", "config": TOY, "fixed": SMALL, "evaluate": False}
MAIN = {
    "name": "main",
    "config": TOY,
    "fixed": {
        **SMALL,
        "guidance.kind": "auto",
        "guidance.scale": 2.0,
        "guidance.guide": "{out}/guide/seed{training.seed}",
    },
}

REFUSED = "sbatch: error: invalid partition specified: x"
# Numbers from 11 on; what it was given lies in submitted/NUMBER.sh.
SBATCH = """#!/usr/bin/env bash
if [[ -e refuse ]]; then
  echo "$REFUSED" >&2
  exit 1
fi
mkdir -p submitted
number=$((11 + $(ls submitted | wc -l)))
cp "$1" "submitted/$number.sh"
echo "Submitted batch job $number"
"""
SQUEUE = """#!/usr/bin/env bash
echo "$*" >> asked
[[ ! -e down ]] || { echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1; }
cat queue 2>/dev/null || true
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A directory with a sweep of two stages and, on PATH, the programs of SLURM."""
    (tmp_path / "bin").mkdir()
    for name, text in {"sbatch": SBATCH, "squeue": SQUEUE, "srun": "#!/bin/sh\n"}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("REFUSED", REFUSED)
    monkeypatch.chdir(tmp_path)
    write_sweep(tmp_path / "grid.py", GUIDE | SEEDS, MAIN | SEEDS)
    return tmp_path


SEEDS = {"grid": {"training.seed": [0, 1]}}


def write_sweep(path, *stages):
    path.write_text(f"def get_sweep():\n    return {list(stages)!r}\n")


def options_of(script):
    """What a script tells sbatch, and its last line."""
    lines = script.read_text().splitlines()
    flags = [shlex.split(line)[1] for line in lines if line.startswith("#SBATCH ")]
    return dict(flag.removeprefix("--").partition("=")[::2] for flag in flags), lines[-1]


LINE = ["--out=out", "--cluster=slurm", "grid.py"]


def test_a_stage_is_an_array_job_that_waits_for_those_before(slurm, capsys):
    line = [*LINE, "--partition=gpu", "--time=1-2:30", "--gpus=2", "--cpus=8", "--memory=64"]
    assert (
        sweep.run([*line, "--account=me", "--qos=high", "--constraint=a100", "--parallel=3"]) == 0
    )
    out, err = capsys.readouterr()
    assert err == ""
    assert "guide: submitted 2 runs, job 11, logs in " in out
    assert sorted(path.name for path in (slurm / "submitted").iterdir()) == ["11.sh", "12.sh"]
    guide, command = options_of(slurm / "submitted" / "11.sh")
    asked = {
        "array": "0-1%2",  # Never more than there are.
        "partition": "gpu",
        "time": str(26 * 60 + 30),
        "gpus-per-node": "2",
        "cpus-per-task": "8",
        "mem": "64GB",
        "account": "me",
        "qos": "high",
        "constraint": "a100",
        "requeue": "",
        "signal": "USR2@120",
        "open-mode": "append",
        "job-name": "out-guide",
    }
    assert guide.items() >= asked.items()
    assert "dependency" not in guide
    srun = shlex.split(command)
    assert srun[0] == "srun"
    assert "--cpus-per-task=8" in srun
    assert srun[-5:] == [
        sys.executable,
        "-u",
        "-m",
        "submitit.core._submit",
        f"{slurm}/out/.submitit",
    ]
    assert f"PYTHONPATH={REPOSITORY}" in " ".join(srun)
    main, _ = options_of(slurm / "submitted" / "12.sh")
    assert main["dependency"] == "afterany:11"
    # Without flags, what is not asked for is left to SLURM.
    write_sweep(slurm / "grid.py", GUIDE)
    assert sweep.run([*LINE, "--out=alone"]) == 0
    alone, _ = options_of(slurm / "submitted" / "13.sh")
    assert alone["time"] == "240"
    assert not {"array", "partition", "gpus-per-node", "mem", "account"} & set(alone)


def test_nothing_is_submitted_twice(slurm, capsys):
    assert sweep.run([*LINE, "--dry_run"]) == 0
    assert not (slurm / "out").exists()
    assert sweep.run(LINE) == 0
    (slurm / "queue").write_text(
        "11_0 RUNNING\n11_1 PENDING\n12_0 PENDING\n12_1 PENDING\n99 RUNNING\n"
    )
    capsys.readouterr()
    assert sweep.run(LINE) == 0
    assert len(list((slurm / "submitted").iterdir())) == 2
    out, _ = capsys.readouterr()
    assert f"guide/seed0 is RUNNING, job 11_0, log in {slurm}/out/guide/seed0.log" in out
    assert "main/seed1 is PENDING, job 12_1" in out
    assert "--me" in (slurm / "asked").read_text()
    # One guide is done, the other has failed, and half of what waits for them is in the queue.
    finish_guide(slurm / "out" / "guide" / "seed0")
    (slurm / "out" / "guide" / "seed1.log").write_text("Failed: The disk is full.\n\n")
    (slurm / "queue").write_text("12_1 PENDING\n")
    assert sweep.run(LINE) == 0
    out, _ = capsys.readouterr()
    assert "guide/seed1 has ended and is not done" in out
    assert "Failed: The disk is full." in out
    assert "guide: submitted 1 runs, job 13" in out
    assert "main: submitted 1 runs, job 14" in out
    assert "array" not in options_of(slurm / "submitted" / "13.sh")[0]
    assert options_of(slurm / "submitted" / "14.sh")[0]["dependency"] == "afterany:13"
    # A third stage waits for what is left in the queue of both.
    (slurm / "queue").write_text("12_1 PENDING\n13 RUNNING\n14 PENDING\n")
    write_sweep(slurm / "grid.py", GUIDE | SEEDS, MAIN | SEEDS, GUIDE | {"name": "last"})
    assert sweep.run(LINE) == 0
    (last,) = set((slurm / "submitted").iterdir()) - {
        slurm / f"submitted/{i}.sh" for i in range(11, 15)
    }
    assert options_of(last)[0]["dependency"] == "afterany:13:14:12"


def finish_guide(workdir):
    checkpoint = workdir / "checkpoints" / "2"
    checkpoint.mkdir(parents=True)
    (checkpoint / checkpoint_files.last_file(checkpoint)).touch()
    fixed = {"training.seed": 0, "evaluation.at_end": False, **SMALL}
    write_config(sweep._load(TOY, fixed), workdir)


def test_the_report_has_what_is_not_done(slurm, capsys):
    assert sweep.run(LINE) == 0
    (slurm / "queue").write_text("11_0 RUNNING\n12_0 PENDING\n12_1 PENDING\n")
    capsys.readouterr()
    assert report.run([str(slurm)]) == 2
    _, err = capsys.readouterr()
    assert "holds no finished evaluation. guide/seed0 is RUNNING, job 11_0, log in" in err
    # 11_1, a guide without results of its own, has ended.
    assert [line.split()[0] for line in submitted.unfinished(slurm / "out")] == [
        "guide/seed0",
        "main/seed0",
        "main/seed1",
    ]
    (slurm / "queue").write_text("")
    result = slurm / "out" / "main" / "seed1" / "evaluation.json"
    result.parent.mkdir(parents=True)
    result.write_text("{}")
    (line,) = submitted.unfinished(slurm / "out")
    assert line.startswith("main/seed0 has ended and is not done")
    # Where there is no SLURM, as on the machine to which all was copied.
    (slurm / "bin" / "squeue").unlink()
    assert submitted.unfinished(slurm / "out") == [
        "squeue is not found, and does not say which jobs are queued."
    ]


def test_slurm_that_does_not_answer_or_refuses(slurm, capsys):
    (slurm / "refuse").touch()
    assert sweep.run(LINE) == 1
    _, err = capsys.readouterr()
    assert err == f"Failed: Stage guide could not be submitted: {REFUSED}.\n"
    (slurm / "refuse").unlink()
    assert sweep.run(LINE) == 0
    # Who does not know what is queued submits nothing.
    (slurm / "down").touch()
    assert sweep.run(LINE) == 1
    _, err = capsys.readouterr()
    assert "squeue does not say which jobs are queued: slurm_load_jobs error: Unable to" in err
    (slurm / "down").unlink()
    (slurm / "out" / "sweep_jobs.json").write_text('{"runs": [{"ru')
    assert sweep.run(LINE) == 1
    _, err = capsys.readouterr()
    assert "jobs.json cannot be read" in err
    assert len(list((slurm / "submitted").iterdir())) == 2


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("1:30", 2), ("4:00:00", 240), ("2-0", 2880), ("1-2:30", 1590), ("1-0:0:1", 1441)],
)
def test_times_are_those_of_sbatch(text, minutes):
    assert cluster.parameters({"time": text})["timeout_min"] == minutes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--cluster=pbs"], "--cluster is 'pbs'; valid are slurm, local."),
        (["--cluster=slurm", "--time=abc"], "--time is 'abc'; it must be the time of a run"),
        (["--cluster=slurm", "--time=0"], "--time is '0'"),
        (["--cluster=slurm", "--time=-5"], "--time is '-5'"),
        (["--cluster=slurm", "--gpus=two"], "--gpus is 'two'; it must be an integer"),
        (["--cluster=slurm", "--memory=64G"], "--memory is '64G'; it must be GB, such as 32."),
        (["--cluster=slurm", "--partition=a b"], "--partition is 'a b'; it must be one word"),
        (["--cluster=slurm", "--partition="], "--partition is ''"),
        (["--cluster=slurm", "--parallel=0"], "--parallel is '0'"),
        (["--gpus=2"], "--gpus is for a cluster; add --cluster=slurm."),
    ],
)
def test_bad_command_lines(line, message, slurm, capsys):
    assert sweep.run(["--out=out", "grid.py", *line]) == 2
    assert message in capsys.readouterr().err
    assert not (slurm / "out").exists()


def test_without_slurm_or_submitit(slurm, monkeypatch):
    (slurm / "bin" / "sbatch").unlink()
    with pytest.raises(InputError, match="'slurm', and sbatch is not found; type it on a machine"):
        cluster.check("slurm")
    cluster.check("local")
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(
        InputError, match=r"--cluster=local needs submitit; .*\[cluster\]"
    ) as caught:
        cluster.check("local")
    assert extras.advice("cluster") in str(caught.value)


# A stand-in for the package's command line, which a task starts: it takes its time to save.
STAND_IN = """
import pathlib, signal, sys, time
folder = pathlib.Path(next(a for a in sys.argv if a.startswith("--workdir=")).split("=")[1])
def stop(signum, frame):
    time.sleep(1)
    print("saved", flush=True)
    sys.exit(128 + signum)
signal.signal(signal.SIGTERM, stop)
if pathlib.Path("second").exists():
    print("went on", flush=True)
    (folder / "checkpoints" / "2").mkdir(parents=True)
    (folder / "checkpoints" / "2" / "_CHECKPOINT_METADATA").touch()
    (folder / "config.json").write_text("")
    sys.exit(0)
folder.mkdir(parents=True)
print("at work", flush=True)
time.sleep(60)
"""
# As srun would start the task, but for the stand-in.
TASK = """
import subprocess, sys
from submitit.core import submission
popen = subprocess.Popen
def stand_in(line, **options):
    if "gmm_diffusion.main" in line:
        line = [sys.executable, "stand_in.py", *line[3:]]
    return popen(line, **options)
subprocess.Popen = stand_in
submission.process_job(sys.argv[1])
"""


def test_a_task_is_saved_requeued_and_goes_on(slurm):
    """SLURM tells all processes of a task two minutes before its time is up."""
    (slurm / "stand_in.py").write_text(STAND_IN)
    (slurm / "task.py").write_text(TASK)
    (slurm / "bin" / "scontrol").write_text('#!/bin/sh\necho "$*" >> requeued\n')
    (slurm / "bin" / "scontrol").chmod(0o755)
    (slurm / "bin" / "srun").write_text(
        f'#!/usr/bin/env bash\nexec {sys.executable} task.py "${{@: -1}}"\n'
    )
    assert sweep.run(LINE) == 0
    numbers = {"SLURM_JOB_ID": "21", "SLURM_ARRAY_JOB_ID": "11", "SLURM_ARRAY_TASK_ID": "1"}
    script = ["bash", "submitted/11.sh"]
    environment = os.environ | numbers | {"PYTHONPATH": str(REPOSITORY), "SLURM_PROCID": "0"}
    log = slurm / "out" / "guide" / "seed1.log"
    with subprocess.Popen(script, env=environment, process_group=0) as task:
        try:
            wait_for(lambda: log.is_file() and "at work" in log.read_text())
            for pid in pids_of("stand_in.py", "task.py", folder=slurm):
                os.kill(pid, signal.SIGUSR2)
            assert task.wait(timeout=60) != 0
        finally:
            if task.poll() is None:
                os.killpg(task.pid, signal.SIGKILL)
    assert log.read_text().endswith("at work\nsaved\n")
    assert (slurm / "requeued").read_text() == "requeue 11_1\n"
    # From the queue again: another command of the same run, and the task is done.
    (slurm / "second").touch()
    subprocess.run(script, env=environment, check=True, timeout=60)
    assert log.read_text().endswith("went on\n")
    assert not (slurm / "out" / "guide" / "seed0.log").exists()


def pids_of(*names, folder):
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")
            if (process / "cwd").samefile(folder) and set(words) & set(names):
                found.append(int(process.name))
        except OSError:
            continue
    assert len(found) == len(names)
    return found


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_real_runs_on_this_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_sweep(tmp_path / "grid.py", GUIDE, MAIN)
    line = ["--out=out", "--cluster=local", "grid.py"]
    assert sweep.run(line) == 0, logs(tmp_path)
    out, _ = capsys.readouterr()
    assert "main: submitted 1 runs, job " in out
    result = json.loads((tmp_path / "out" / "main" / "seed0" / "evaluation.json").read_text())
    assert result["settings"]["guidance.guide"] == str(tmp_path / "out" / "guide" / "seed0")
    assert sweep.run(line) == 0
    assert "0 of 2 to do." in capsys.readouterr().out
    assert submitted.unfinished(tmp_path / "out") == []


def logs(folder):
    return "\n".join(path.read_text() for path in folder.rglob("*log*") if path.is_file())
