"""One training run at a time in a directory, whatever became of the one before."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from gmm_diffusion.errors import InputError, RunError
from gmm_diffusion.runs import lock

HOLD = """
import sys, time
from gmm_diffusion.runs import lock
with lock.hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path/run`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "run"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_is_told_of_the_first(tmp_path, holder):
    message = rf"run is in use: process {holder.pid} on .+, started at 20\d\d-\d\d-.*, trains there"
    start = time.monotonic()
    with pytest.raises(InputError, match=message), lock.hold(tmp_path / "run"):
        pass
    assert time.monotonic() - start < 5


def test_a_stopped_process_still_holds_it(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(lock, "_WATCH_SECONDS", 0.1)
    os.kill(holder.pid, signal.SIGSTOP)
    with pytest.raises(InputError, match="is in use"), lock.hold(tmp_path / "run"):
        pass
    os.kill(holder.pid, signal.SIGCONT)


def test_a_kill_leaves_nothing_that_blocks(tmp_path, holder):
    holder.kill()
    holder.wait()
    path = tmp_path / "run" / lock.NAME
    owner = json.loads(path.read_text())
    # The number of the dead process may have been given out again: here, to ourselves.
    path.write_text(json.dumps(owner | {"pid": os.getpid()}))
    start = time.monotonic()
    with lock.hold(tmp_path / "run"):
        assert json.loads(path.read_text())["token"] != owner["token"]
    assert time.monotonic() - start < 5
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_what_the_file_holds_blocks_nothing(tmp_path, content):
    (tmp_path / lock.NAME).write_bytes(content)
    with lock.hold(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


def test_a_directory_that_was_made_for_it_goes_again(tmp_path):
    with lock.hold(tmp_path / "runs" / "run"):
        pass
    assert not list(tmp_path.iterdir())
    with lock.hold(tmp_path / "run"):
        (tmp_path / "run" / "config.json").write_text("{}")
    assert os.listdir(tmp_path / "run") == ["config.json"]


@pytest.fixture
def no_flock(monkeypatch):
    """As on a shared disk without locks; seconds become hundredths."""

    def flock(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(lock, "_TOUCH_SECONDS", 0.05)
    monkeypatch.setattr(lock, "_WATCH_SECONDS", 0.5)


def test_without_locks_a_living_process_is_seen_by_its_touch(tmp_path, no_flock):
    with (
        lock.hold(tmp_path),
        pytest.raises(InputError, match=rf"process {os.getpid()} on .* trains there"),
        lock.hold(tmp_path),
    ):
        pass


def test_a_clock_that_is_set_back_still_moves(tmp_path, no_flock, monkeypatch):
    (tmp_path / lock.NAME).write_text(json.dumps({"pid": 1, "host": "elsewhere", "boot": "x"}))
    stop = threading.Event()

    def touch_backwards():
        seconds = time.time()
        while not stop.wait(0.05):
            seconds -= 1000
            os.utime(tmp_path / lock.NAME, (seconds, seconds))

    thread = threading.Thread(target=touch_backwards)
    thread.start()
    try:
        with pytest.raises(InputError, match="process 1 on elsewhere"), lock.hold(tmp_path):
            pass
    finally:
        stop.set()
        thread.join()


def test_another_machine_that_died_blocks_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_WATCH_SECONDS", 0.5)
    (tmp_path / lock.NAME).write_text(json.dumps({"pid": 1, "host": "elsewhere", "boot": "x"}))
    start = time.monotonic()
    with lock.hold(tmp_path):
        assert time.monotonic() - start > 0.5


def test_who_was_taken_for_dead_stops(tmp_path):
    with lock.hold(tmp_path) as held:
        held.check()
        owner = {"pid": 7, "host": "elsewhere", "started": "now", "token": "other"}
        (tmp_path / lock.NAME).write_text(json.dumps(owner))
        with pytest.raises(RunError, match=r"process 7 on elsewhere, .* has taken over"):
            held.check()
    assert (tmp_path / lock.NAME).exists(), "it is that of the other"
