"""How an experiment's command ends, whatever it does."""

import errno
import os
import signal

import pytest

from experiments import stoppable
from gmm_diffusion.errors import InputError, RunError

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/x.npz")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (InputError("It is wrong."), 2, "Error: It is wrong.\n"),
        (RunError("It broke."), 1, "Failed: It broke.\n"),
        (FULL, 1, "Failed: out/x.npz: No space left on device.\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
    ],
)
def test_a_failure_is_one_sentence(error, status, said, capsys):
    def fail(poll):
        raise error

    assert stoppable.run(fail) == status
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_it_at_its_next_poll(signum, status, capsys):
    def work(poll):
        os.kill(os.getpid(), signum)
        poll()

    assert stoppable.run(work, "Stopped here.") == status
    assert capsys.readouterr().out == "Stopped here.\n"


def test_what_is_done_is_done():
    assert stoppable.run(lambda poll: None) == 0
