"""The samples of an evaluation while it goes on: one that is stopped goes on from those it drew."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable

import jax
import numpy as np

from gmm_diffusion import assembly, devices, processes
from gmm_diffusion import config as config_lib
from gmm_diffusion.conditioning.requests import Request
from gmm_diffusion.errors import RunError
from gmm_diffusion.evaluation import kept
from gmm_diffusion.model.guidance import Guidance
from gmm_diffusion.model.model import Model
from gmm_diffusion.sampling.parallel import PicardInfo
from gmm_diffusion.types import Poll

# Of each set of samples; what is lost at most.
_PORTIONS = 10


class Drawn:
    """Draws samples, in portions that are kept in a folder and found there the next time.

    A portion is named after all that it depends on: the program, the config but for the group
    `evaluation`, the step, the arrays of all models, the seed, and what was asked for.

    Args:
      model: with its config.
      guidance: of the samples.
      folder: None keeps nothing.
    """

    def __init__(self, model: Model, guidance: Iterable[Guidance], folder: pathlib.Path | None):
        self.model, self.guidance, self.folder = model, tuple(guidance), folder
        self.infos: list[PicardInfo] = []
        self._made_with = b""
        if folder is not None and processes.is_first():
            self._made_with = self._identity()

    def _identity(self):
        fields = config_lib.fields(self.model.config).items()
        settings = {f: str(v) for f, v in fields if not f.startswith("evaluation.")}
        text = json.dumps([self.model.step, settings, processes.versions()], sort_keys=True)
        digest = hashlib.sha256(text.encode())
        for leaf in jax.tree.leaves((self.model, self.guidance)):
            digest.update(np.asarray(leaf).tobytes())
        return digest.digest()

    def sample(self, num: int, asked: str | Request, seed: int, poll: Poll | None) -> np.ndarray:
        """`[N, ...]`, images as uint8, and latents as they are.

        What parallel sampling took is added to `infos`. Of several processes, which all call it,
        the first one has the samples.

        Args:
          num: N.
          asked: as of `Model.sample`, with N rows if it is a request.
          seed: likewise.
          poll: called before each batch.

        Raises:
          RunError: samples that are not finite.
        """
        batch, parts = self.model.config.sample.batch_size, len(devices.found())
        # One for all portions, and so one program.
        call = devices.call_size(num, batch, parts)
        size = num if self.folder is None else call * -(-num // (_PORTIONS * call))
        portions = [
            self._portion(first, min(size, num - first), asked, seed, call, poll)
            for first in range(0, num, size)
        ]
        return np.concatenate(portions)

    def _portion(self, first, count, asked, seed, call, poll):
        if isinstance(asked, Request):
            asked = _rows(asked, slice(first, first + count))
        file = self._file(first, count, asked, seed)
        found = None if file is None else kept.read(file)
        if processes.of_first(lambda: found is not None):
            if poll is not None:  # It counts the batches, too.
                for _ in range(0, count, call):
                    poll()
            # The others only help to draw.
            arrays = found or {"x": np.zeros((count, *self.model.shape), np.float32)}
        else:
            arrays = self._draw(first, count, asked, seed, call, poll)
            if file is not None:
                kept.write(file, arrays)
        x = arrays.pop("x")
        if arrays:
            self.infos.append(PicardInfo(**arrays))
        return x

    def _draw(self, first, count, asked, seed, call, poll):
        # The first process may have trained judges, or scored.
        processes.meet()
        samples = assembly.sample(
            self.model, count, asked, seed, self.guidance, poll, first, batch_size=call
        )
        if not np.isfinite(samples.x).all():
            raise RunError("Samples are not finite; the model cannot be evaluated.")
        is_image = samples.x.ndim == 4 and not samples.latent
        x = samples.images() if is_image else samples.x
        info = {} if samples.info is None else _arrays(samples.info)
        return {"x": x, **info}

    def _file(self, first, count, asked, seed):
        """Where the portion is kept; None if it is not, or not by this process."""
        if self.folder is None or not processes.is_first():
            return None
        digest = hashlib.sha256(self._made_with + json.dumps([first, count, seed]).encode())
        for array in asked if isinstance(asked, Request) else ():
            digest.update(b"" if array is None else array.tobytes())
        return self.folder / f"{digest.hexdigest()[:32]}.npz"


def _rows(asked, rows):
    given = {name: array for name, array in asked._asdict().items() if array is not None}
    return asked._replace(**{name: array[rows] for name, array in given.items()})


def _arrays(info):
    return {field.name: np.asarray(getattr(info, field.name)) for field in dataclasses.fields(info)}
