"""One process cannot go on without the other: how both end, and that nothing is lost."""

import signal
import time

import pairs
import pytest
import runs

LONG = {"training__num_steps": 10**6, "conditioning__kind": "none"}


def started(workdir):
    """Two processes that have trained a little, of a run that would go on for long."""
    both = pairs.start(pairs.command(workdir, **LONG))
    try:
        pairs.wait_for(workdir / "checkpoints" / "8", both)
    except BaseException:
        pairs.finish(both)
        raise
    return both


def assert_goes_on(workdir):
    """The same command, but for its end, resumes the run."""
    step = runs.newest(workdir)[0]
    assert step >= 8
    settings = LONG | {"training__num_steps": step + 4}
    pairs.succeed(pairs.start(pairs.command(workdir, **settings)))
    assert runs.newest(workdir)[0] == step + 4


def test_a_signal_to_one_stops_all_at_the_same_step(tmp_path):
    workdir = tmp_path / "run"
    both = started(workdir)
    both[1].send_signal(signal.SIGTERM)
    ends = pairs.finish(both)
    assert [status for status, _, _ in ends] == [143, 143], ends
    step = runs.newest(workdir)[0]
    assert f"Interrupted at step {step}; saved." in ends[0][2]
    assert ends[1][2] == ""
    assert not (workdir / "training.lock").exists()
    assert_goes_on(workdir)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other(victim, tmp_path):
    workdir = tmp_path / "run"
    both = started(workdir)
    both[victim].kill()
    begin = time.monotonic()
    ends = pairs.finish(both)
    assert time.monotonic() - begin < 60
    status, _, errors = ends[1 - victim]
    assert status == 1
    line = pairs.last_line(errors)
    assert line.startswith("Failed: ")
    assert "Another process of the run is lost" in line or "another process is lost" in line
    assert "Traceback" not in errors
    if victim == 1:
        assert_goes_on(workdir)


def refused(first, second, status):
    """The sentences with which both processes end."""
    ends = pairs.finish(pairs.start(first, second))
    assert [end[0] for end in ends] == [status, status], ends
    assert not any("Traceback" in errors for _, _, errors in ends)
    return [pairs.last_line(errors) for _, _, errors in ends]


def test_other_settings_are_refused(tmp_path):
    workdir = tmp_path / "run"
    lines = refused(
        pairs.command(workdir), pairs.command(workdir, optimizer__learning_rate=0.25), 2
    )
    assert lines == 2 * [
        "Error: Settings must be the same in all processes: optimizer.learning_rate is 0.01 in "
        "process 0 and 0.25 in process 1."
    ]
    assert not workdir.exists()


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    arguments = pairs.command(tmp_path / "run", training__batch_size=18)
    for line in refused(arguments, None, 2):
        assert line.endswith("training.batch_size is 18; it must be a multiple of the 4 devices.")
    assert not (tmp_path / "run").exists()


def test_a_directory_that_is_not_shared_is_refused(tmp_path):
    first, second = (pairs.command(tmp_path / name) for name in ("here", "there"))
    for line in refused(first, second, 2):
        assert f"--workdir {tmp_path / 'there'} is not the same directory for all" in line


@pytest.mark.parametrize("index", [0, 1])
def test_processes_that_do_not_come_are_given_up(index, tmp_path):
    where = f"--coordinator=127.0.0.1:{pairs.free_port()}"
    flags = [where, "--processes=2", f"--process={index}", "--wait=2"]
    arguments = [*pairs.command(tmp_path / "run"), *flags]
    ((status, _, errors),) = pairs.finish([pairs.one(arguments)])
    assert status == 1
    assert pairs.last_line(errors).startswith("Failed: After 2 seconds ")
    assert not (tmp_path / "run").exists()
