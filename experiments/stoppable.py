"""How an experiment's command ends: done, refused, or stopped to go on later."""

import sys
from collections.abc import Callable

from gmm_diffusion import signals
from gmm_diffusion.errors import InputError
from gmm_diffusion.types import Poll


def run(work: Callable[[Poll], None]) -> int:
    """Does `work(poll)`, which calls `poll` where it can stop, and returns the exit status.

    0 done, 2 bad input, 130 or 143 after Ctrl-C or SIGTERM, each of the last with a line that says
    so.
    """
    try:
        with signals.graceful() as interrupt:
            work(interrupt.check)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except signals.Interrupted as interrupted:
        print("Stopped. The same command goes on from here.")
        return interrupted.exit_status
    return 0
