"""The scripts of launch/: what they type, and how runs under them end and go on."""

import io
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import yaml
from PIL import Image

REPOSITORY = pathlib.Path(__file__).parents[1]
LAUNCH = REPOSITORY / "launch"
TPU = ["--name=cifar", "--zone=us-central1-a", "--type=v5litepod-4"]

# A run that says what it is asked, and takes its time to save when it is told to end.
RUN = """#!/usr/bin/env bash
trap 'sleep 0.2; echo saved; exit 143' TERM
echo "run: $*"
for ((i = 0; i < 300; i++)); do
  [[ ! -e finish ]] || exit "$(cat finish)"
  sleep 0.1
done
"""


def bash(*arguments, **options):
    environment = os.environ | options.pop("env", {})
    return subprocess.run(
        list(map(str, arguments)),
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        **options,
    )


def executable(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return path


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def checkout(tmp_path):
    """A folder with the scripts, and stand-ins for what they call in `bin`."""
    folder = tmp_path / "checkout"
    (folder / "launch").mkdir(parents=True)
    (folder / "bin").mkdir()
    for script in LAUNCH.glob("*.s*"):
        executable(folder / "launch" / script.name, script.read_text())
    executable(folder / "bin" / "run", RUN)
    return folder


def path_of(checkout):
    return f"{checkout / 'bin'}:{os.environ['PATH']}"


# TPUs.


def dry_run(action, *options, arguments=()):
    done = bash(LAUNCH / "tpu_vm.sh", action, *TPU, "--dry-run", *options, "--", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return [shlex.split(line) for line in done.stdout.splitlines()]


def test_a_tpu_is_asked_for():
    place = ["cifar", "--zone=us-central1-a", "--project=p"]
    create, *wait = dry_run("create", "--spot", "--project=p")
    assert create == [
        *("gcloud", "compute", "tpus", "queued-resources", "create", *place),
        *("--node-id=cifar", "--accelerator-type=v5litepod-4"),
        *("--runtime-version=v2-alpha-tpuv5-lite", "--spot"),
    ]
    request, machine = wait
    assert request[3:] == ["queued-resources", "describe", *place, "--format=value(state.state)"]
    assert machine[3:] == ["tpu-vm", "describe", *place, "--format=value(state)"]
    assert "--spot" not in dry_run("create")[0]


@pytest.mark.parametrize(
    ("kind", "version"),
    [("v6e-8", "v2-alpha-tpuv6e"), ("v5p-8", "v2-alpha-tpuv5"), ("v4-32", "tpu-ubuntu2204-base")],
)
def test_each_type_has_its_software(kind, version):
    assert f"--runtime-version={version}" in dry_run("create", f"--type={kind}")[0]
    assert "--runtime-version=mine" in dry_run("create", "--version=mine")[0]


def remote(line):
    """Workers and command of an ssh."""
    assert line[3:6] == ["tpu-vm", "ssh", "cifar"]
    flags = dict(word.split("=", 1) for word in line if word.startswith("--"))
    return flags["--worker"], flags["--command"].removeprefix("cd gmm_diffusion && ")


def test_all_workers_are_set_up_and_checked():
    copy, *lines = dry_run("install", "--workers=4")
    assert copy[3:5] == ["tpu-vm", "scp"]
    assert copy[6:] == ["cifar:gmm_diffusion.tar.gz", "--zone=us-central1-a", "--worker=all"]
    workers, commands = zip(*map(remote, lines), strict=True)
    assert set(workers) == {"all"}
    assert (
        "pip install --python .venv/bin/python 'jax[tpu]' --editable '.[data,gcs]'"
        in (commands[-2])
    )
    assert commands[-1] == ".venv/bin/python -m gmm_diffusion.check_env --expect=tpu --processes=4"


def test_arguments_reach_the_run_as_they_are():
    arguments = ["--config=configs/cifar_gmm.py", "--config.sample.condition=it's $HOME"]
    (line,) = dry_run("run", "--bucket=gs://b/my runs", arguments=arguments)
    workers, command = remote(line)
    assert workers == "all"
    # As the shell of the worker understands it.
    start = f'launch() {{ printf \'%s\\n\' "$MIRROR" "$@"; }}; {command}'
    start = start.replace("launch/detached.sh start", "launch")
    assert bash("bash", "-c", start).stdout.splitlines() == ["gs://b/my runs", *arguments]


def test_watching_fetching_and_deleting():
    assert remote(*dry_run("watch")) == ("0", "launch/detached.sh watch")
    (fetch,) = dry_run("fetch")
    assert fetch[3:8] == ["tpu-vm", "scp", "--recurse", "cifar:gmm_diffusion/runs/*", "runs/cifar"]
    (delete,) = dry_run("delete")
    assert delete[3:6] == ["queued-resources", "delete", "cifar"]
    assert delete[-2:] == ["--force", "--quiet"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["destroy"], "'destroy' is not an action; valid are create, install, run, watch, fetch,"),
        (["create", *TPU, "--sopt"], "--sopt is not an option"),
        (["create", *TPU, "--name=My_TPU"], "--name is 'My_TPU'; it must be"),
        (["create", "--name=a", "--type=v4-8"], "--zone is missing"),
        (["create", "--name=a", "--zone=z"], "--type is missing"),
        (["run", *TPU, "--bucket=/b"], "--bucket is '/b'; it must be gs://BUCKET/PATH."),
        (["run", *TPU, "--bucket=gs://b/x", "--workers=2"], "--workdir in a bucket or"),
        (["run", *TPU, "--workers=0"], "--workers is '0'; it must be 1 or more."),
    ],
)
def test_what_tpu_vm_refuses(arguments, sentence):
    done = bash(LAUNCH / "tpu_vm.sh", *arguments, "--dry-run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ")
    assert sentence in done.stderr


# It notes what it is called for, and answers with the next line of a file of answers.
GCLOUD = """#!/usr/bin/env bash
echo "$*" >>calls
case $* in
*describe* | *status*)
  answer=$(head -n 1 answers)
  sed -i 1d answers
  case $answer in
  absent) echo "ERROR: NOT_FOUND: no such resource" >&2; exit 1 ;;
  broken) echo "ERROR: the network is down" >&2; exit 1 ;;
  esac
  echo "$answer" ;;
*watch*) exit 1 ;;
esac
"""
CREATED = ["PROVISIONING", "ACTIVE", "READY"]
ALL = {
    "to its end": (["absent", *CREATED, "0"], 0, ["create", "run", "watch", "fetch", "delete"]),
    "over a preemption": (
        ["absent", *CREATED, "broken", "ACTIVE", "PREEMPTED", *CREATED, "0"],
        0,
        ["create", "run", "watch", "delete", "create", "run", "watch", "fetch", "delete"],
    ),
    "a preemption that the run has seen": (
        ["absent", *CREATED, "143", "SUSPENDED", *CREATED, "0"],
        0,
        ["create", "run", "watch", "delete", "create", "run", "watch", "fetch", "delete"],
    ),
    "over a lost line": (
        ["ACTIVE", "READY", "running", "broken", "ACTIVE", "READY", "0"],
        0,
        ["run", "watch", "run", "watch", "fetch", "delete"],
    ),
    "a run that fails": (["ACTIVE", "READY", "1"], 1, ["run", "watch", "fetch"]),
    "a run that was killed": (["ACTIVE", "READY", "lost"], 1, ["run", "watch", "fetch"]),
    "a request that fails": (["absent", "FAILED"], 1, ["create"]),
}


@pytest.mark.parametrize("name", ALL)
def test_a_run_on_a_tpu(name, checkout):
    answers, status, wanted = ALL[name]
    executable(checkout / "bin" / "gcloud", GCLOUD)
    (checkout / "answers").write_text("".join(f"{answer}\n" for answer in answers))
    bash("git", "init", "-q", cwd=checkout)
    done = bash(
        checkout / "launch" / "tpu_vm.sh",
        *("all", *TPU, "--", "--config=x"),
        cwd=checkout,
        env={"PATH": path_of(checkout), "SECONDS_BETWEEN": "0"},
    )
    assert done.returncode == status, done.stderr
    assert (checkout / "answers").read_text() == ""
    calls = (checkout / "calls").read_text().splitlines()
    marks = {
        "create": "resources create",
        "run": "detached.sh start --config=x",
        "watch": "detached.sh watch",
        "fetch": "scp --recurse",
        "delete": "resources delete",
    }
    made = [what for call in calls for what, mark in marks.items() if mark in call]
    assert made == wanted
    # A new machine is set up before the run is started there.
    for i, call in enumerate(calls):
        if "resources create" in call and status == 0:
            rest = calls[i:]
            checked = next(j for j, c in enumerate(rest) if "check_env" in c)
            assert checked < next(j for j, c in enumerate(rest) if "detached.sh start" in c)
    if status:
        assert "Failed: " in done.stderr


# A run that outlives its terminal.


@pytest.fixture
def detached(checkout):
    def call(*arguments, **environment):
        return bash(
            checkout / "launch" / "detached.sh",
            *arguments,
            cwd=checkout.parent,
            env={"PYTHON": "bin/run", "PATH": path_of(checkout)} | environment,
        )

    yield call
    call("stop")


def test_a_detached_run(detached, checkout):
    assert detached("watch").returncode == detached("status").returncode == 2
    done = detached("start", "--config=x", "--config.sample.condition=a b")
    assert done.returncode == 0
    assert detached("status").stdout == "running\n"
    assert "is going on as process" in detached("start").stdout
    (checkout / "finish").write_text("2")
    done = detached("watch")
    assert done.returncode == 2
    assert done.stdout == "run: -m gmm_diffusion.main --config=x --config.sample.condition=a b\n"
    assert detached("status").stdout == "2\n"
    (checkout / "finish").unlink()
    detached("start")
    wait_for(lambda: "run:" in (checkout / ".detached" / "log").read_text())
    detached("stop")
    assert (checkout / ".detached" / "log").read_text().endswith("saved\n")
    assert detached("status").stdout == "143\n"


def test_a_detached_run_that_is_killed(detached, checkout):
    detached("start")
    pid = int((checkout / ".detached" / "pid").read_text())
    wait_for(lambda: "run:" in (checkout / ".detached" / "log").read_text())
    os.killpg(pid, signal.SIGKILL)
    assert detached("watch").returncode == 1
    assert detached("status").stdout == "lost\n"


# A bucket that is the folder `bucket`; nobody can reach it where there is a file `down`.
BUCKET = """#!/usr/bin/env bash
[[ ! -e down ]] || { echo "ERROR: no network" >&2; exit 1; }
case "$1 $2" in
"storage ls") [[ -d bucket ]] || { echo "ERROR: URLs matched no objects." >&2; exit 1; } ;;
"storage rsync")
  from=${4/#gs:*/bucket} to=${5/#gs:*/bucket}
  mkdir -p "$to"
  cp -r "$from/." "$to" ;;
esac
"""


def test_a_detached_run_with_a_mirror(detached, checkout):
    executable(checkout / "bin" / "gcloud", BUCKET)
    (checkout / "finish").write_text("0")
    mirror = {"MIRROR": "gs://b/x"}
    # A new one: there is nothing to be fetched, and its directory is copied at the end.
    assert detached("start", **mirror).returncode == 0
    (checkout / "runs" / "a").mkdir(parents=True)
    (checkout / "runs" / "a" / "file").write_text("1")
    assert detached("watch").returncode == 0
    assert (checkout / "bucket" / "a" / "file").read_text() == "1"
    # What is here is newer than the copy, which follows while the run goes on.
    (checkout / "runs" / "a" / "file").write_text("2")
    (checkout / "finish").unlink()
    detached("start", SECONDS_BETWEEN="0.2", **mirror)
    wait_for(lambda: (checkout / "bucket" / "a" / "file").read_text() == "2")
    assert detached("status").stdout == "running\n"
    (checkout / "finish").write_text("0")
    detached("watch")
    # On a new machine the copy comes first; where it is out of reach, nothing starts from nothing.
    bash("rm", "-r", checkout / "runs")
    (checkout / "down").touch()
    done = detached("start", **mirror)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "Error: MIRROR is gs://b/x, which cannot be listed: ERROR: no net"
    )
    (checkout / "down").unlink()
    detached("start", **mirror)
    assert (checkout / "runs" / "a" / "file").read_text() == "2"
    detached("watch")


# Clusters.

SRUN = """#!/usr/bin/env bash
echo "srun $*" >>calls
while [[ $1 == --* ]]; do shift; done
[[ $* != *check_env* ]] || exit "$(cat check 2>/dev/null || echo 0)"
exec "$@"
"""


@pytest.fixture
def slurm(checkout):
    executable(checkout / "bin" / "srun", SRUN)
    executable(checkout / "bin" / "scontrol", '#!/usr/bin/env bash\necho "scontrol $*" >>calls\n')
    process = subprocess.Popen(
        ["bash", str(checkout / "launch" / "slurm.sbatch"), "--config=x"],
        cwd=checkout,
        env=os.environ
        | {"PATH": path_of(checkout), "PYTHON": "bin/run"}
        | {"SLURM_SUBMIT_DIR": str(checkout), "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2"},
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def calls_of(checkout):
    return (checkout / "calls").read_text().splitlines()


def test_a_job_that_ends(slurm, checkout):
    (checkout / "finish").write_text("2")
    out, _ = slurm.communicate(timeout=30)
    assert out == "run: -m gmm_diffusion.main --config=x\n"
    assert slurm.returncode == 2
    check, run = calls_of(checkout)
    assert check.endswith("bin/run -m gmm_diffusion.check_env --processes=2")
    assert "--ntasks=2 --ntasks-per-node=1" in run


def test_a_job_whose_time_is_up_goes_back_into_the_queue(slurm, checkout):
    assert slurm.stdout.readline().startswith("run: ")
    slurm.send_signal(signal.SIGUSR1)
    out, _ = slurm.communicate(timeout=30)
    assert out == "saved\n"
    assert slurm.returncode == 143
    assert calls_of(checkout)[-1] == "scontrol requeue 7"


def test_a_job_on_nodes_that_are_not_ready(checkout, request):
    (checkout / "check").write_text("2")
    slurm = request.getfixturevalue("slurm")
    slurm.communicate(timeout=30)
    assert slurm.returncode == 2
    assert len(calls_of(checkout)) == 1


def test_the_signal_that_slurm_is_asked_for_is_caught():
    text = (LAUNCH / "slurm.sbatch").read_text()
    assert "#SBATCH --signal=B:USR1@" in text
    assert re.search(r"^trap '.*' USR1$", text, re.M)


def test_local_processes():
    done = bash(
        LAUNCH / "local_processes.sh",
        *("2", "--expect=cpu"),
        env={
            "PYTHON": sys.executable,
            "MODULE": "gmm_diffusion.check_env",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        },
    )
    assert done.returncode == 0, done.stderr
    for i in range(2):
        assert f"processes          2, this one is {i}\n" in done.stdout
    assert done.stdout.count("devices            4 x cpu") == 2


def test_local_processes_end_together(checkout):
    run = RUN.replace('"run: $*"', '"run: ${*: -3}"')
    executable(
        checkout / "bin" / "run",
        f"{run.splitlines()[0]}\n[[ $1 != -c ]] || {{ echo 5; exit; }}\n{run}",
    )
    process = subprocess.Popen(
        [str(checkout / "launch" / "local_processes.sh"), "2", "--config=x"],
        env=os.environ | {"PYTHON": "bin/run"},
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = sorted(process.stdout.readline() for _ in range(2))
    assert lines == [f"run: --processes=2 --process={i} --config=x\n" for i in range(2)]
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert out == "saved\nsaved\n"
    assert process.returncode == 143


@pytest.mark.parametrize("count", ["", "0", "two"])
def test_a_number_that_is_none(count):
    done = bash(LAUNCH / "local_processes.sh", count)
    assert done.returncode == 2
    assert done.stderr == f"Error: '{count}' is not a number of processes; it must be 1 or more.\n"


def test_the_jobset_agrees_with_itself():
    jobset = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    (script,) = container["args"]
    machines = spec["completions"]
    assert spec["parallelism"] == machines
    assert f"--processes={machines}" in script
    rows, columns = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    assert int(rows) * int(columns) == machines * container["resources"]["limits"]["google.com/tpu"]
    # The name that JobSet gives to the first machine, in the domain of its own name.
    (port,) = container["ports"]
    name = jobset["metadata"]["name"]
    address = f"{name}-{job['name']}-0-0.{name}:{port['containerPort']}"
    assert f"--coordinator={address} " in script
    assert bash("bash", "-n", "-c", script).returncode == 0
    (mount,) = container["volumeMounts"]
    assert [volume["name"] for volume in pod["volumes"]] == [mount["name"]]
    assert f"--workdir={mount['mountPath']}/" in script


def test_the_image_has_what_it_needs():
    text = (REPOSITORY / "Dockerfile").read_text()
    sources = [s for line in re.findall(r"^COPY (.*) \S+$", text, re.M) for s in line.split()]
    assert all((REPOSITORY / source).exists() for source in sources)
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert {f"!{source}" for source in sources} <= set(ignored)
    # What setup.py reads.
    assert {"README.md", "setup.py", "gmm_diffusion", "configs"} <= set(sources)


# What makes of configs/cifar_gmm.py a run of seconds.
TOY = {
    "data.flip": "false",
    "conditioning.num_components": "10",
    "conditioning.feature_dim": "4",
    "conditioning.em_starts": "1",
    "conditioning.em_iterations": "5",
    "conditioning.embedding_features": "16",
    "network.channels": "8",
    "network.channel_mult": "(1,)",
    "network.num_blocks": "1",
    "network.attention_resolutions": "()",
    "network.attention_middle": "false",
    "network.dtype": "float32",
    "network.log_variance_features": "16",
    "optimizer.warmup_steps": "2",
    "training.batch_size": "8",
    "training.steps_per_call": "2",
    "training.log_every": "2",
    "training.heldout_every": "0",
    "training.tensorboard": "false",
    "checkpoint.every": "1000",
    "checkpoint.snapshot_every": "0",
    "sample.steps": "2",
    "evaluation.judges": "1",
    "evaluation.judge_epochs": "1",
    "evaluation.loss_levels": "1",
}


def jpegs(path, train=6, test=3):
    """An archive as of CIFAR-10: ten classes of 8x8 images, each of a brightness of its own."""
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w:gz") as archive:
        for split, count in (("test", test), ("train", train)):
            for c in range(10):
                for i in range(count):
                    pixels = rng.integers(0, 40, (8, 8, 3)) + 20 * c
                    stream = io.BytesIO()
                    Image.fromarray(pixels.astype(np.uint8)).save(stream, "JPEG", quality=95)
                    member = tarfile.TarInfo(f"{split}/class{c}/{i:04}.jpg")
                    member.size = stream.tell()
                    stream.seek(0)
                    archive.addfile(member, stream)
    return path


def test_slices_on_a_lent_gpu(tmp_path):
    """Two calls: the first is ended while it trains, the second goes on to the evaluation."""
    archive, out = jpegs(tmp_path / "cifar.tar.gz"), tmp_path / "out"
    environment = os.environ | {"PYTHON": sys.executable, "SAMPLES": "20", "RUNS": "cifar_gmm"}
    fields = [f"--config.{name}={value}" for name, value in TOY.items()]
    command = [LAUNCH / "cifar_gpu.sh", archive, out, *fields]
    log = out / "cifar_gmm" / "metrics.jsonl"

    def steps():
        return [json.loads(line)["step"] for line in log.read_text().splitlines()]

    with subprocess.Popen(
        [*command, "--config.training.num_steps=1000000"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as first:
        wait_for(lambda: first.poll() is not None or (log.exists() and steps()), 240)
        first.send_signal(signal.SIGTERM)
        text, _ = first.communicate(timeout=120)
    assert first.returncode == 75, text
    assert "The slice is over" in text
    assert not (out / "cifar_gmm.done").exists()
    last = max(map(int, (p.name for p in (out / "cifar_gmm" / "checkpoints").glob("[0-9]*"))))
    assert last >= max(steps())
    second = subprocess.run(
        [*command, f"--config.training.num_steps={last + 2}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert second.returncode == 0, second.stderr
    assert f"from step {last}." in second.stderr
    assert "All is done" in second.stdout
    result = json.loads((out / "cifar_gmm" / "evaluation.json").read_text())
    assert (result["step"], result["samples_per_block"]) == (last + 2, 20)
    again = subprocess.run(
        [*command, f"--config.training.num_steps={last + 2}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (again.returncode, again.stdout.splitlines()[0]) == (
        0,
        f"cifar_gmm is done: {out}/cifar_gmm",
    )
    x, label = (np.load(out / "cifar10" / f"{name}.npy") for name in ("x_heldout", "label_heldout"))
    assert (x.shape, x.dtype) == ((30, 8, 8, 3), np.uint8)
    np.testing.assert_array_equal(label, np.repeat(np.arange(10), 3))
    np.testing.assert_allclose(x.mean(axis=(1, 2, 3)), 20 * label + 19.5, atol=6)


def test_what_the_slices_refuse(tmp_path):
    script = LAUNCH / "cifar_gpu.sh"
    environment = {"PYTHON": sys.executable}
    for arguments, message in (
        ([], "type launch/cifar_gpu.sh ARCHIVE OUT"),
        (["--config.training.seed=1", tmp_path / "out"], "type launch/cifar_gpu.sh ARCHIVE OUT"),
        ([tmp_path / "none.tar.gz", tmp_path / "out"], "none.tar.gz cannot be used: "),
    ):
        done = bash(script, *arguments, env=environment)
        assert done.returncode == 2
        assert message in done.stderr
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as archive:
        archive.add(__file__, "readme.txt")
    done = bash(script, tmp_path / "other.tar.gz", tmp_path / "out", env=environment)
    assert done.returncode == 2
    assert "it holds readme.txt; valid are train/CLASS/*, test/CLASS/*" in done.stderr
    whole = (tmp_path / "other.tar.gz").read_bytes()
    (tmp_path / "other.tar.gz").write_bytes(whole[: len(whole) // 2])
    done = bash(script, tmp_path / "other.tar.gz", tmp_path / "out", env=environment)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = bash(script, "a", "b", env=environment | {"SLICE": "soon"})
    assert "SLICE is soon" in done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "other.tar.gz"]
