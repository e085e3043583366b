"""Binary attributes as a laid-out mixture: two components an attribute, absent and present.

Component 2a says that attribute a is absent, 2a + 1 that it is present; an example has weight 1/A
on each component that holds for it (our reading; see docs/method.md).
"""

import numpy as np
from flax import struct

from gmm_diffusion.attribute_names import shows
from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture import ngmg
from gmm_diffusion.types import AnyArray, Array

# Draws of attributes that are thrown away before a request is called impossible.
_MOST_DRAWS = 1000


@struct.dataclass
class AttributeTable:
    """What a conditioner knows of attributes.

    Attributes:
      bank: `[M, A]` uint8, of the examples whose weights are in the bank.
      frequency: `[A]` share of training examples that have each.
      names: A of them.
      exclusive: pairs of names that no example has both of.
      laid_out: whether the mixture is laid out over these attributes, so that any set of them can
        be asked for; otherwise only those that a training example has.
    """

    bank: Array
    frequency: Array
    names: tuple[str, ...] = struct.field(pytree_node=False)
    exclusive: tuple[tuple[str, str], ...] = struct.field(pytree_node=False, default=())
    laid_out: bool = struct.field(pytree_node=False, default=False)


def attribute_weights(attributes: AnyArray) -> Array:
    """Weights of the laid-out mixture: `[N, A]` of 0 and 1 -> `[N, 2A]`, each row of sum 1."""
    pairs = ngmg.attribute_weights(attributes)
    return pairs.reshape(len(pairs), -1) / pairs.shape[1]


def complete(
    table: AttributeTable, asked: dict[str, int], num: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None]:
    """Full sets of attributes with those that were asked for, the others as in training.

    Sets of training examples that have what is asked, if there are any. A laid-out mixture
    completes what no training example has: each attribute that is not named by its training
    frequency, until no pair excludes itself.

    Args:
      table: of the conditioner.
      asked: name -> 0 or 1.
      num: N.
      rng: of the draws.

    Returns:
      `[N, A]` uint8, and `[N]` rows of the bank that they are of, or None.

    Raises:
      InputError: no training example has what is asked and the mixture is not laid out.
    """
    bank = np.asarray(table.bank)
    column = {name: i for i, name in enumerate(table.names)}
    members = np.flatnonzero(shows(bank, asked, table.names))
    uniform = rng.random(num)
    if len(members):
        rows = members[np.minimum((uniform * len(members)).astype(np.int64), len(members) - 1)]
        return bank[rows], rows
    text = ",".join(f"{name}={value}" for name, value in asked.items())
    if not table.laid_out:
        raise InputError(
            f"sample.condition is {text!r}, which no training example has; only a model with "
            "conditioning.kind attributes can put together what it has not seen."
        )
    made = np.zeros((num, len(table.names)), np.uint8)
    open_rows = np.arange(num)
    for _ in range(_MOST_DRAWS):
        # Of a row's own place each time, however many rows there are, and are still open.
        uniform = rng.spawn(1)[0].random((num, len(table.names)))[open_rows]
        drawn = uniform < np.asarray(table.frequency)
        for name, value in asked.items():
            drawn[:, column[name]] = value
        made[open_rows] = drawn
        both = [drawn[:, column[a]] & drawn[:, column[b]] for a, b in table.exclusive]
        open_rows = open_rows[np.any(both, axis=0)] if both else open_rows[:0]
        if not len(open_rows):
            return made, None
    raise InputError(
        f"sample.condition is {text!r}, which training frequencies practically never complete to a "
        "possible set; name more attributes."
    )
