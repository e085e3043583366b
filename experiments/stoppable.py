"""How an experiment's command ends: done, failed, refused, or stopped to go on later."""

import signal
import sys
from collections.abc import Callable

from gmm_diffusion import signals
from gmm_diffusion.errors import InputError, RunError
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
    try:
        with signals.graceful() as interrupt:
            work(interrupt.check)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"Failed: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"Failed: {where}{error.strerror or error}.", file=sys.stderr)
        return 1
    except signals.Interrupted as interrupted:
        print(stopped)
        return interrupted.exit_status
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0
