"""What a training run is made of."""

import dataclasses
import pathlib

import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion.data import Dataset
from gmm_diffusion.model.fitted import FittedStatistics


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run is made of once everything that can be refused has been checked.

    Attributes:
      config: its settings.
      path: its directory.
      data: in memory.
      fitted: to the training split, now or when the run began.
      weights: of the training split, where they were made with that; else None, see
        `assembly.split_weights`.
    """

    config: ConfigDict
    path: pathlib.Path
    data: Dataset
    fitted: FittedStatistics
    weights: np.ndarray | None
