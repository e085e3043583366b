"""Two real processes on this machine, with two pretended devices each."""

import pathlib
import socket
import subprocess
import sys
import time

import quick_compiling
import runs

# What is fitted must be the same in both, too.
SETTINGS = {
    "conditioning__kind": "gmm",
    "conditioning__feature_dim": 2,
    "conditioning__num_components": 4,
    "training__batch_size": 16,
    "training__log_every": 4,
    "checkpoint__every": 4,
    "checkpoint__snapshot_every": 4,
}
# A machine that does much else is slow.
SECONDS = 400


def command(workdir, *more, **changes):
    """The command line of a run of one process."""
    return runs.command(workdir, *more, **(SETTINGS | changes))


def flags(workdir, *more, **changes):
    """What stands behind the program's name in `command`."""
    return command(workdir, *more, **changes)[3:]


def start(first, second=None):
    """Starts two processes with these command lines, of which the second may be the same."""
    group = [f"--coordinator=127.0.0.1:{free_port()}", "--processes=2"]
    return [
        one([*arguments, *group, f"--process={i}"])
        for i, arguments in enumerate((first, second or first))
    ]


def free_port():
    """A port where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def one(arguments, devices=2):
    """One process that is started and not waited for."""
    pretend = {
        "XLA_FLAGS": f"{quick_compiling.FLAGS} --xla_force_host_platform_device_count={devices}"
    }
    return subprocess.Popen(
        arguments,
        cwd=runs.REPOSITORY,
        env=runs.environment() | pretend,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(processes):
    """[(exit status, stdout, stderr)] of processes, none of which outlives this."""
    try:
        ends = [process.communicate(timeout=SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *end) for p, end in zip(processes, ends, strict=True)]


def succeed(processes):
    """`finish`, of processes that must succeed."""
    ends = finish(processes)
    assert [status for status, _, _ in ends] == [0] * len(ends), ends
    return ends


def driver(workdir, *lines):
    """The command line of a process that does several: `lines` of arguments of the program."""
    here = pathlib.Path(__file__).parent
    return [sys.executable, str(here / "driver.py"), str(workdir), *map("\n".join, lines)]


def wait_for(path, processes):
    """Returns when there is such a file, while the processes live."""
    end = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < end, f"no {path}"
        assert all(process.poll() is None for process in processes), finish(processes)
        time.sleep(0.05)


def last_line(text):
    """What is said last."""
    return text.rstrip().splitlines()[-1]
