"""What a user asks for, in words, and the mixture weights that it means.

  train                      the training marginal, balanced over classes where there are any
  class:7, or 7              a class
  component:12               a component of the mixture
  0.5*class:3+0.5*class:8    a blend; the shares must add to 1
"""

import dataclasses
import re

import numpy as np

from gmm_diffusion.conditioning.conditioner import Conditioner
from gmm_diffusion.errors import InputError

_TERM = re.compile(r"(?:(?P<share>[0-9.eE+-]+?)\*)?(?:(?P<kind>class|component):)?(?P<index>\d+)")
VALID = "'train', 'class:7' (or '7'), 'component:12' or '0.5*class:3+0.5*class:8'"


@dataclasses.dataclass(frozen=True)
class Term:
    """One part of a blend: `share` in (0, 1], `kind` "class" or "component", its index."""

    share: float
    kind: str
    index: int


def parse(text: str) -> tuple[Term, ...]:
    """`text` -> the terms of a blend; an empty tuple for `train`.

    Raises:
      InputError: if `text` is none of the forms, or its shares do not add to 1.
    """
    text = text.replace(" ", "")
    if text == "train":
        return ()
    terms = []
    for part in text.split("+"):
        match = _TERM.fullmatch(part)
        if not match:
            raise InputError(f"sample.condition is {text!r}; it must be {VALID}.")
        try:
            share = float(match["share"] or 1.0)
        except ValueError:
            raise InputError(f"sample.condition is {text!r}; it must be {VALID}.") from None
        terms.append(Term(share, match["kind"] or "class", int(match["index"])))
    total = sum(term.share for term in terms)
    if abs(total - 1.0) > 1e-6 or min(term.share for term in terms) <= 0:
        raise InputError(
            f"sample.condition is {text!r} with shares that add to {total:g}; "
            "they must be positive and add to 1."
        )
    return tuple(terms)


def check(terms: tuple[Term, ...], num_classes: int, num_components: int) -> None:
    """Raises InputError if a term names a class or component that does not exist."""
    for term in terms:
        count = num_classes if term.kind == "class" else num_components
        if term.index >= count:
            valid = f"from 0 to {count - 1}" if count else "absent: this model has none"
            raise InputError(
                f"sample.condition names {term.kind} {term.index}; a {term.kind} must be {valid}."
            )


def weights(
    conditioner: Conditioner, text: str, num: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mixture weights of `num` samples, and the class that each was asked for.

    Under `mixture` semantics a class means `p(k | class)` and a blend the mean of its terms. Under
    `example` semantics a class means the weights of a random training example of that class, and a
    blend the mean of one such draw for each term.

    Args:
      conditioner: the constants, with the stored training weights.
      text: the request.
      num: number of samples, N.
      seed: of the draws from the stored training weights.

    Returns:
      `[N, K]` float32 weights; `[N]` int32 labels, -1 where no single class was asked for.

    Raises:
      InputError: if the request is not valid for this model.
    """
    terms = parse(text)
    check(terms, conditioner.num_classes, conditioner.num_components)
    if not terms:
        return _training_marginal(conditioner, num, seed)
    total = np.zeros((num, conditioner.num_components))
    for i, term in enumerate(terms):
        if term.kind == "component":
            rows = np.eye(conditioner.num_components)[np.full(num, term.index)]
        else:
            rows = _class_rows(conditioner, np.full(num, term.index), seed, i)
        total += term.share * rows
    one_class = len(terms) == 1 and terms[0].kind == "class"
    label = terms[0].index if one_class else -1
    if len(terms) == 1 and terms[0].kind == "component":
        label = int(conditioner.component_class[terms[0].index])
    return total.astype(np.float32), np.full(num, label, np.int32)


def _training_marginal(conditioner, num, seed):
    if conditioner.num_classes:
        labels = np.arange(num, dtype=np.int32) % conditioner.num_classes
        return _class_rows(conditioner, labels, seed, 0).astype(np.float32), labels
    bank = np.asarray(conditioner.bank_weights)
    return bank[_choices(seed, 0, num, len(bank))], np.full(num, -1, np.int32)


def _class_rows(conditioner, labels, seed, term):
    if conditioner.semantics == "mixture":
        return np.asarray(conditioner.class_weights)[labels]
    bank = np.asarray(conditioner.bank_weights)
    bank_labels = np.asarray(conditioner.bank_labels)
    rows = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        asked = labels == label
        members = np.flatnonzero(bank_labels == label)
        rows[asked] = members[_choices(seed, term, len(labels), len(members))[asked]]
    return bank[rows]


def _choices(seed, term, num, count):
    """`[num]` uniform integers below `count`; entry i does not depend on `num`."""
    uniform = np.random.default_rng([seed, 2, term]).random(num)
    return np.minimum((uniform * count).astype(np.int64), count - 1)
