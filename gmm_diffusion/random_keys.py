"""Random keys of examples, and the number that each use of one folds in.

Each use has a number of its own: a feature that is switched off leaves the random numbers of the
rest as they were. The numbers of one class fold into the same keys. They are never changed: a run
that is resumed, and a seed, mean what they meant.
"""

import enum
from typing import overload

import jax

from gmm_diffusion.types import Array


@enum.unique
class Run(enum.IntEnum):
    """Into `key(training.seed)`, which the normalisation of an embedding uses as it is."""

    STEPS = 1
    MIXTURE = 4


@enum.unique
class Host(enum.IntEnum):
    """Behind a seed in NumPy's `default_rng([seed, number])`, of the run or of samples."""

    FREQUENCIES = 0
    BANK = 1
    REQUEST = 2
    FIT = 3
    COMPONENT = 4


@enum.unique
class Training(enum.IntEnum):
    """Into the key of an example in a train step."""

    NOISE = 0
    SIGMA = 1
    SEMANTICS = 2
    NULL = 3
    DRAWS = 4
    DROPOUT = 5
    CONTRAST = 6
    CLASSIFIER_NOISE = 20
    CLASSIFIER_SIGMA = 21


@enum.unique
class Contrast(enum.IntEnum):
    """Into the key of an example after `Training.CONTRAST`."""

    ZETA = 0
    NOISE = 1
    RATIO = 2


@enum.unique
class Ratio(enum.IntEnum):
    """Into the key of a point whose density ratio is integrated."""

    SHIFT = 0
    NOISE = 1


@enum.unique
class HeldOut(enum.IntEnum):
    """Into the key of an example of the held-out loss."""

    NOISE = 0
    SEMANTICS = 1
    DRAWS = 2


@enum.unique
class Sample(enum.IntEnum):
    """Into the key of a sample, out of the range of the numbers of steps, which fold in, too."""

    DRAWS = 2**31 - 2
    INITIAL_NOISE = 2**31 - 1


@overload
def fold_in(keys: Array, number: Array | int) -> Array:
    """Keys give keys."""


@overload
def fold_in(keys: None, number: Array | int) -> None:
    """None gives None."""


def fold_in(keys: Array | None, number: Array | int) -> Array | None:
    """`[B]` keys folded with one number; None stays None."""
    if keys is None:
        return None
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
