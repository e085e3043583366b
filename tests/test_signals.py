"""Real signals, sent to this process."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from gmm_diffusion import command_line, signals


@pytest.mark.parametrize(
    ("signum", "status", "name"), [(signal.SIGINT, 130, "SIGINT"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_a_signal_is_recorded_and_raised_at_the_next_check(signum, status, name):
    with signals.graceful() as interrupt:
        interrupt.check()
        assert interrupt.received is None
        os.kill(os.getpid(), signum)
        assert interrupt.received == signum
        with pytest.raises(signals.Interrupted, match=rf"Stopped by {name}\.") as caught:
            interrupt.check()
    assert caught.value.exit_status == status
    assert caught.value.signum == signum


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_stops_at_once(first):
    with signals.graceful():
        os.kill(os.getpid(), first)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_work_that_has_nothing_to_save_is_left_at_once():
    with signals.graceful() as interrupt:
        with pytest.raises(signals.Interrupted), interrupt.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
        # Of several processes, and outside, only a check does.
        with interrupt.at_once(False):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_second_sigterm_is_recorded_only():
    with signals.graceful() as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.received == signal.SIGTERM


def leave_normally():
    pass


def leave_by_an_exception():
    raise ZeroDivisionError


@pytest.mark.parametrize("leave", [leave_normally, leave_by_an_exception])
def test_former_handlers_return(leave):
    def mine(signum, frame):
        pass

    before = signal.signal(signal.SIGTERM, mine)
    # A test run in the background starts with SIGINT ignored.
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        try:
            with signals.graceful():
                assert signal.getsignal(signal.SIGTERM) is not mine
                assert signal.getsignal(signal.SIGINT) is not interrupt
                leave()
        except ZeroDivisionError:
            pass
        assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGTERM, before)


def test_outside_the_main_thread_nothing_is_installed():
    seen = []

    def work():
        with signals.graceful() as interrupt:
            seen.append(signal.getsignal(signal.SIGTERM))
            interrupt.check()
            seen.append(interrupt.received)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, None]


def test_a_ctrl_c_while_importing_is_the_systems():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with contextlib.suppress(ZeroDivisionError), signals.importing():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
            leave_by_an_exception()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        for other in (signal.SIG_IGN, lambda signum, frame: None):
            signal.signal(signal.SIGINT, other)
            with signals.importing():
                assert signal.getsignal(signal.SIGINT) is other
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("module", ["main", "make_stats", "inspect_data"])
def test_a_command_that_imports_ends_in_silence(module, tmp_path):
    """A jax that sends the signal, and would lose it as an exception."""
    (tmp_path / "jax.py").write_text(
        "import os, signal\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    pass\n"
        "raise SystemExit('It went on.')\n"
    )
    out = {"main": "--workdir", "make_stats": "--out", "inspect_data": "--out"}[module]
    script = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        f"from gmm_diffusion import {module}\n"
        f"{module}.run(['x', '--config=tiny', {f'{out}={tmp_path}/x'!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_a_ctrl_c_that_was_lost_comes_again(monkeypatch, capsys):
    """As in JAX's callback of the garbage collector, which no exception leaves."""

    def lose(*_):
        gc.callbacks.remove(lose)
        raise KeyboardInterrupt

    def work(argv):
        gc.callbacks.append(lose)
        gc.collect()
        time.sleep(20)

    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert command_line.run(["x"], __file__, work) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "Interrupted.\n"
