"""How an experiment's command ends: done, failed, refused, or stopped to go on later."""

from collections.abc import Callable

from gmm_diffusion import command_line, signals
from gmm_diffusion.types import Poll


def run(
    work: Callable[[Poll], None], stopped: str = "Stopped. The same command goes on from here."
) -> int:
    """Does `work(poll)`, which calls `poll` where it can stop, and returns the exit status.

    0 done, 1 for a fault of the disk, 2 bad input, 130 or 143 after Ctrl-C or SIGTERM, each but the
    first with a line that says so; a second Ctrl-C ends it at once.

    Args:
      work: the experiment.
      stopped: what is said after the first signal.
    """

    def stop_where_it_can():
        try:
            with signals.graceful() as interrupt:
                work(interrupt.check)
        except signals.Interrupted as interrupted:
            print(stopped)
            return interrupted.exit_status
        return 0

    return command_line.ended(stop_where_it_can)
