"""What a person watches while a run trains: losses and accuracy on held-out data, and sheets."""

import contextlib
from collections.abc import Callable
from typing import Protocol

import numpy as np

from gmm_diffusion import paths, pictures, processes
from gmm_diffusion.assembly import averages
from gmm_diffusion.commands.parts import Parts
from gmm_diffusion.data import to_uint8
from gmm_diffusion.data.latents import decode
from gmm_diffusion.evaluation import classifier as classifier_evaluation
from gmm_diffusion.evaluation import heldout
from gmm_diffusion.runs import workdir
from gmm_diffusion.runs.metrics_log import MetricsLog, NoLog
from gmm_diffusion.training.state import TrainState
from gmm_diffusion.types import Poll


class Monitor(Protocol):
    """What is watched of one kind of task."""

    def __call__(self, step: int, state: TrainState, poll: Poll) -> None:
        """Scores the state on the host after `step` updates, and writes them and pictures."""


def make_monitor(parts: Parts, metrics_log: MetricsLog | NoLog) -> Monitor:
    """What is written after `training.heldout_every` updates."""
    return MONITORS[parts.config.training.task](parts, metrics_log)


class _ClassifierMonitor:
    """Loss and accuracy on `Dataset.watched`, and how often each class is read as each."""

    def __init__(self, parts, metrics_log):
        self.parts, self.metrics_log = parts, metrics_log
        reader = classifier_evaluation.make_reader(parts.config, parts.fitted)
        self.read = reader(parts.data.watched, parts.config.evaluation.max_samples)

    def __call__(self, step, state, poll):
        params = averages.nearest(self.parts.config, state)
        seen = self.read(params, poll)
        raw = self.read(state.params, poll)
        scores = {
            "heldout_loss/mean": float(seen.cost.mean()),
            "heldout_loss/raw": float(raw.cost.mean()),
            "heldout_accuracy": float(np.mean(seen.read == seen.true)),
        }
        shares = classifier_evaluation.confusion(seen.read, seen.true)
        # The line last: where it is missing, a resumed run does it all again.
        if not processes.is_first():
            return
        image = pictures.grid(to_uint8(2 * shares - 1)[None, :, :, None], scale=16)
        with _sheet(self.parts, step) as path:
            pictures.save_png(path, image)
        self.metrics_log.write(step, scores)
        self.metrics_log.write_images(step, {"confusion": image})


class _Monitor:
    """Losses on `Dataset.watched` and a sheet of samples, of the average that sampling uses.

    If that is not tracked, of the nearest one. The raw parameters' mean loss stands beside, to
    show what averaging gains.
    """

    def __init__(self, parts, metrics_log):
        self.parts, self.metrics_log = parts, metrics_log
        config = parts.config
        self.heldout = heldout.make_heldout_losses(config, parts.data, parts.fitted)
        self.sheet = None
        # Latents that nobody decodes are nothing to look at.
        if parts.data.decoder is not None or not parts.data.is_latent:
            self.sheet = heldout.make_sheet(config, parts.data, parts.fitted)

    def __call__(self, step, state, poll):
        params = averages.nearest(self.parts.config, state)
        losses = self.heldout(params, poll=poll)
        losses["heldout_loss/raw"] = self.heldout(state.params, poll=poll)["heldout_loss/mean"]
        samples = None if self.sheet is None else self.sheet(params, poll=poll)
        if not processes.is_first():
            return
        # Nothing is written before the last poll, and the line last: where it is missing, a resumed
        # run does it all again.
        if samples is not None:
            self._draw(step, samples)
        self.metrics_log.write(step, losses)

    def _draw(self, step, samples):
        data = self.parts.data
        with _sheet(self.parts, step) as path:
            if len(data.shape) != 3:
                pictures.scatter(samples, None, path)
                return
            x = decode(data.decoder, samples) if data.decoder else to_uint8(samples)
            image = pictures.grid(x, scale=4)
            pictures.save_png(path, image)
            self.metrics_log.write_images(step, {"samples": image})


# By `training.task`.
MONITORS: dict[str, Callable[[Parts, MetricsLog | NoLog], Monitor]] = {
    "denoiser": _Monitor,
    "classifier": _ClassifierMonitor,
}


@contextlib.contextmanager
def _sheet(parts, step):
    """The file on a disk to draw the sheet of a step to."""
    path = parts.path / workdir.SAMPLES / f"step_{step}.png"
    path.parent.mkdir(exist_ok=True)
    with paths.whole(path) as temporary:
        yield temporary
