"""The training images in the feature spaces of the metrics: read once, and kept for the next."""

import contextlib
import hashlib
import json
import pathlib

import numpy as np

from gmm_diffusion.data import Dataset
from gmm_diffusion.errors import InputError, RunError
from gmm_diffusion.evaluation import kept
from gmm_diffusion.metrics import features, frechet, manifold
from gmm_diffusion.metrics.features import Extractor
from gmm_diffusion.metrics.frechet import Statistics
from gmm_diffusion.runs import data_fingerprint

# Of the folder beside the judges.
FOLDER = "reference"


class Reference:
    """What the metrics need of the training images.

    A file is named after all that it depends on: the data, the feature space, how many images and
    neighbours.

    Args:
      data: shaped as the samples.
      folder: None keeps nothing.
    """

    def __init__(self, data: Dataset, folder: pathlib.Path | None):
        self._folder = folder
        # A checksum of streamed data is of some examples; the name is of all of their files.
        known = None if folder is None else [data.name, data_fingerprint.checksums(data)]
        self._data = json.dumps(known)

    def balls(self, extractor: Extractor, x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Features `[N, F]` of images `x [N, ...]`, and the distances `[N]` of k-th neighbours."""
        file = self._file("balls", extractor, len(x), k)
        found = file and kept.read(file)
        if not found or found.keys() != {"features", "radii"}:
            read = extractor.extract(x)
            found = {"features": read, "radii": manifold.ball_radii(read, k)}
            if file:
                kept.write(file, found)
        return found["features"], found["radii"]

    def statistics(self, extractor: Extractor, x: np.ndarray) -> Statistics:
        """Mean and covariance of the features of images `x [N, ...]`, N at least 2."""
        file = self._file("statistics", extractor, len(x))
        if file:
            with contextlib.suppress(InputError, RunError):
                return frechet.load(file)
        made = features.statistics(extractor, x)
        if file:
            # A disk that takes no file ends no evaluation.
            with contextlib.suppress(OSError):
                file.parent.mkdir(parents=True, exist_ok=True)
                frechet.save(made, file)
        return made

    def _file(self, kind, extractor, *counts):
        if self._folder is None:
            return None
        text = json.dumps([kind, extractor.id, extractor.resize, counts, self._data])
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"
