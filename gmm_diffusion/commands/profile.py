"""A trace of one call of the training loop, for TensorBoard's profiler and XProf."""

import logging
import pathlib
import tempfile

import jax

from gmm_diffusion import paths

log = logging.getLogger(__name__)


class Profile:
    """Traces the call in which the update with a given number is made; nothing for number 0.

    A trace that cannot be made or written is no reason to end a run: the log says so.

    Args:
      workdir: the trace goes to `plugins/profile/TIME` in it, where TensorBoard looks.
      number: of the update, from 1.
    """

    def __init__(self, workdir: pathlib.Path, number: int):
        self._workdir, self._number, self._tracing = workdir, number, False
        self._directory = workdir  # On a disk.

    def begin(self, step: int, num: int) -> None:
        """Before a call that makes `num` updates after the first `step` ones."""
        if step < self._number <= step + num:
            try:
                if paths.in_bucket(self._workdir):
                    self._directory = pathlib.Path(tempfile.mkdtemp(prefix="gmm_diffusion_"))
                jax.profiler.start_trace(str(self._directory))
                self._tracing = True
            except (OSError, RuntimeError) as error:
                log.warning("No trace of step %d: %s", self._number, error)

    def end(self) -> None:
        """After a call, once its results are there, and at the end of the run."""
        if not self._tracing:
            return
        self._tracing = False
        try:
            jax.profiler.stop_trace()
            if self._directory != self._workdir:
                paths.move_into(self._directory, self._workdir)
            log.info("The trace of step %d is in %s.", self._number, self._workdir / "plugins")
        except (OSError, RuntimeError) as error:
            log.warning("No trace of step %d: %s", self._number, error)
