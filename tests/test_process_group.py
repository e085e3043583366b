"""Flags and environments that name the processes of a run; nothing is started."""

import pytest

from gmm_diffusion import main, process_group
from gmm_diffusion.errors import InputError
from gmm_diffusion.process_group import ProcessGroup, announced
from gmm_diffusion.processes import joining

SLURM = {
    "SLURM_JOB_ID": "12",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_MCA_orte_hnp_uri": "1314521088.0;tcp://10.0.0.1:3"}
JOB = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}


def test_flags_name_the_processes():
    arguments = ["--coordinator=node1:1234", "--processes=4", "--process=3", "--wait=20"]
    command = main.parse(["main", "--config=tiny", "--workdir=new", *arguments])
    assert command.group == ProcessGroup("node1:1234", 4, 3, 20)
    assert not command.group.alone
    assert main.parse(["main", "--config=tiny", "--workdir=new"]).group == ProcessGroup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coordinator": "a:1"}, "--coordinator=HOST:PORT, --processes=N and --process=I go"),
        ({"count": 2}, "go together"),
        ({"index": 0}, "go together"),
        ({"coordinator": "a:1", "count": 2}, "go together"),
        ({"count": 0}, r"--processes is 0; it must be 1 or more\."),
        ({"coordinator": "a", "count": 2, "index": 0}, r"--coordinator is 'a'; it must be HOST"),
        ({"coordinator": "a:0", "count": 2, "index": 0}, r"--coordinator is 'a:0'"),
        ({"coordinator": "a:99999", "count": 2, "index": 0}, r"--coordinator is 'a:99999'"),
        ({"coordinator": "a:1", "count": 2, "index": 2}, r"--process is 2; it must be 0 to 1"),
        ({"coordinator": "a:1", "count": 2, "index": -1}, r"--process is -1"),
        ({"wait": 0}, r"--wait is 0; it must be 1 or more seconds\."),
    ],
)
def test_processes_that_cannot_be_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        ProcessGroup(**options)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        (SLURM, True),
        (SLURM | {"SLURM_NTASKS": "1"}, False),
        # A batch script, which runs once whatever it has asked for.
        ({k: v for k, v in SLURM.items() if k != "SLURM_STEP_NODELIST"}, False),
        (MPI, True),
        (MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, False),
        (JOB, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
    ],
)
def test_environments_announce_several_processes(environment, expected, monkeypatch):
    monkeypatch.setattr(process_group.importlib.util, "find_spec", lambda name: name)
    assert announced(environment | {"JAX_PLATFORMS": "cpu"}) == expected


def test_one_process_that_is_told_so_asks_nobody(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert not ProcessGroup().alone
    assert ProcessGroup(count=1).alone
    with joining.joined(ProcessGroup(count=1)):
        pass


@pytest.mark.parametrize(
    ("tasks", "expected"), [("1(x2)", [0, 1, 2, 3]), ("1", [0, 1, 2, 3]), ("4(x2)", None)]
)
def test_the_only_task_of_a_node_has_all_its_devices(tasks, expected, monkeypatch):
    """JAX gives each task of SLURM one device, as is right where there is one for each."""
    calls = []
    monkeypatch.setattr(joining.jax.distributed, "initialize", lambda **o: calls.append(o))
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", tasks)
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "4")
    before = joining.jax.config.jax_enable_preemption_service
    try:
        joining._connect(ProcessGroup(wait=5), joining.RunError)
    finally:
        joining.jax.config.update("jax_enable_preemption_service", before)
    (options,) = calls
    assert options.get("local_device_ids") == expected
    assert "coordinator_address" not in options


def test_a_cluster_that_does_not_answer_is_one_sentence(monkeypatch):
    left = []
    monkeypatch.setattr(joining.ending.atexit, "register", lambda *call: left.append(call))

    def initialize(**options):
        raise ValueError("coordinator_address should be defined.\nmore")

    monkeypatch.setattr(joining.jax.distributed, "initialize", initialize)
    with pytest.raises(joining.RunError, match=r"cannot be found: coordinator.* be defined\.$"):
        joining._connect(ProcessGroup(wait=5), joining.RunError)
    assert [call[1:] for call in left] == [(1,)]
