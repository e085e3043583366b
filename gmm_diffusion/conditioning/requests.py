"""What a user asks for, in words, and the mixture weights that it means.

  train                      the training marginal, balanced over classes where there are any
  class:7, or 7              a class
  component:12               a component of the mixture
  0.5*class:3+0.5*class:8    a blend; the shares must add to 1
  class:3=0.5,class:8=0.5    the same, in letters that no shell reads
  Smiling=1,Bald=0           attributes; those that are not named are as in training
  like:IMAGE.png             the weights of an image; more like this one
  features:FILE.npy          the weights of each row, for one sample after the other

The last two are terms of a blend, too: 0.5*like:a.png+0.5*class:3. Their paths are without the
signs + , and =.

Under `mixture` semantics `p(x | w) = sum_k w_k p(x | k)`, so there are two ways to ask for `w`:

  drawn      each sample is asked for one component of its own, `k ~ w`
  literal    each sample is asked for `w` itself

Both mean the same law; drawn, a sample does not leave it to the network to choose a component.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gmm_diffusion import attribute_names
from gmm_diffusion.conditioning.attributes import attribute_weights, complete
from gmm_diffusion.conditioning.conditioner import Conditioner
from gmm_diffusion.errors import InputError
from gmm_diffusion.random_keys import Host

# An index of more digits is none, and int() refuses thousands of them.
_TERM = re.compile(
    r"(?:(?P<share>[0-9.eE+-]+?)\*)?"
    r"(?:(?:(?P<kind>class|component):)?(?P<index>\d{1,9})|(?P<file>like|features):(?P<path>.+))"
)
_SHARE = re.compile(r"(?P<part>(class|component):\d+|(like|features):[^=]+)=(?P<share>[0-9.eE+-]+)")
_OF_FILES = re.compile(r"(^|[*+,])\s*(like|features)\s*:")
_ASSIGNMENTS = re.compile(r"[^=,]+=[01](,[^=,]+=[01])*")
VALID = (
    "'train', 'class:7' (or '7'), 'component:12', '0.5*class:3+0.5*class:8', "
    "'class:3=0.5,class:8=0.5', 'Smiling=1,Bald=0', 'like:IMAGE.png' or 'features:FILE.npy'"
)


@dataclasses.dataclass(frozen=True)
class Term:
    """One part of a blend: `share` in (0, 1], its `kind`, and which of these.

    A "class" or "component" has an `index`, a "like" or "features" the `path` of a file.
    """

    share: float
    kind: str
    index: int = 0
    path: str = ""


@dataclasses.dataclass(frozen=True)
class Attributes:
    """Assignments of attributes, `Smiling=1,Bald=0`, not yet compared with a model's names."""

    text: str


class Request(NamedTuple):
    """What N samples were asked for.

    Attributes:
      weights: `[N, K]` float32, what the network is told: one-hot where a component was drawn.
      label: `[N]` int32, -1 where no single class was asked for.
      attributes: `[N, A]` uint8, or None where there are none.
    """

    weights: np.ndarray
    label: np.ndarray
    attributes: np.ndarray | None = None


def parse(text: str) -> tuple[Term, ...] | Attributes:
    """`text` -> the terms of a blend, or attributes; an empty tuple for `train`.

    Raises:
      InputError: if `text` is none of the forms, or its shares do not add to 1.
    """
    # Names of attributes may have spaces within.
    attributes = re.sub(r"\s*([=,])\s*", r"\1", text.strip())
    if _OF_FILES.search(text):
        # And so may paths.
        text = re.sub(r"\s*([=,+*:])\s*", r"\1", text.strip())
    else:
        text = re.sub(r"\s", "", text)
    if text == "train":
        return ()
    parts = text.split("+")
    if "=" in text:
        pieces = text.split(",")
        shares = [match for match in map(_SHARE.fullmatch, pieces) if match]
        if len(shares) < len(pieces):
            if not _ASSIGNMENTS.fullmatch(attributes):
                raise InputError(f"sample.condition is {attributes!r}; it must be {VALID}.")
            return Attributes(attributes)
        parts = [f"{share['share']}*{share['part']}" for share in shares]
    terms = []
    for part in parts:
        match = _TERM.fullmatch(part)
        if not match:
            raise InputError(f"sample.condition is {text!r}; it must be {VALID}.")
        try:
            share = float(match["share"] or 1.0)
        except ValueError:
            raise InputError(f"sample.condition is {text!r}; it must be {VALID}.") from None
        kind = match["file"] or match["kind"] or "class"
        terms.append(Term(share, kind, int(match["index"] or 0), match["path"] or ""))
    total = sum(term.share for term in terms)
    if abs(total - 1.0) > 1e-6 or min(term.share for term in terms) <= 0:
        raise InputError(
            f"sample.condition is {text!r} with shares that add to {total:g}; "
            "they must be positive and add to 1."
        )
    return tuple(terms)


def check(
    terms: tuple[Term, ...] | Attributes, num_classes: int, num_components: int
) -> tuple[Term, ...]:
    """The terms, each of a class or component that exists; files are not looked at.

    Raises:
      InputError: one does not, or they are attributes: see `weights` for a model that has some.
    """
    if isinstance(terms, Attributes):
        raise InputError(f"sample.condition is {terms.text!r}; this model knows no attributes.")
    for term in terms:
        if term.path:
            if not num_components:
                raise InputError(
                    f"sample.condition names {term.kind}:{term.path}; this model has no mixture."
                )
            continue
        count = num_classes if term.kind == "class" else num_components
        if term.index >= count:
            valid = f"from 0 to {count - 1}" if count else "absent: this model has none"
            raise InputError(
                f"sample.condition names {term.kind} {term.index}; a {term.kind} must be {valid}."
            )
    return terms


def weights(
    conditioner: Conditioner,
    text: str,
    num: int,
    seed: int,
    component: str = "drawn",
    weigh: Callable[[Term], np.ndarray] | None = None,
) -> Request:
    """Mixture weights of `num` samples, and what each was asked for.

    Under `mixture` semantics a class means `w = p(k | class)` and a blend the mean of its terms;
    `drawn` tells the network a component `k ~ w` of each sample's own. Under `example` semantics a
    class means the weights of a random training example of that class, and a blend the mean of one
    such draw for each term. Attributes mean the weights of training examples that have them; a
    mixture laid out over attributes takes any possible set of them. A file means the weights of its
    examples in turn, sample i those of example `i mod M`.

    Args:
      conditioner: the fitted statistics, with the stored training weights.
      text: the request.
      num: number of samples, N.
      seed: of the draws from the stored training weights, and of components.
      component: drawn or literal, of `mixture` semantics; elsewhere it changes nothing.
      weigh: the weights `[M, K]` of the examples in the file of a term; None knows no files.

    Raises:
      InputError: if the request is not valid for this model.
    """
    if component not in ("drawn", "literal"):
        raise InputError(f"sample.component is {component!r}; it must be drawn or literal.")
    asked = _literal(conditioner, text, num, seed, weigh)
    if conditioner.semantics == "mixture" and component == "drawn":
        return asked._replace(weights=_one_component(asked.weights, seed))
    return asked


def _literal(conditioner, text, num, seed, weigh):
    terms = parse(text)
    if isinstance(terms, Attributes) and conditioner.attributes is not None:
        return _with_attributes(conditioner, terms.text, num, seed)
    terms = check(terms, conditioner.num_classes, conditioner.num_components)
    if not terms:
        return _training_marginal(conditioner, num, seed)
    total = np.zeros((num, conditioner.num_components))
    for i, term in enumerate(terms):
        if term.path:
            if weigh is None:
                raise InputError(f"sample.condition names a file, {term.path!r}; here it must not.")
            found = weigh(term)
            rows = found[np.arange(num) % len(found)]
        elif term.kind == "component":
            rows = np.eye(conditioner.num_components)[np.full(num, term.index)]
        else:
            rows = _class_rows(conditioner, np.full(num, term.index), seed, i)
        total += term.share * rows
    one_class = len(terms) == 1 and terms[0].kind == "class"
    label = terms[0].index if one_class else -1
    if len(terms) == 1 and terms[0].kind == "component":
        label = int(conditioner.component_class[terms[0].index])
    return Request(total.astype(np.float32), np.full(num, label, np.int32))


def of_attributes(conditioner: Conditioner, attributes: np.ndarray) -> Request:
    """Full sets of attributes `[N, A]` as requests to a mixture that is laid out over them.

    Raises:
      InputError: the mixture is another one.
    """
    table = conditioner.attributes
    if table is None or not table.laid_out:
        raise InputError("Sets of attributes need a model with conditioning.kind attributes.")
    weights = np.asarray(attribute_weights(attributes))
    return Request(weights, np.full(len(weights), -1, np.int32), np.asarray(attributes, np.uint8))


def _with_attributes(conditioner, text, num, seed):
    table = conditioner.attributes
    asked = attribute_names.parse(text, table.names, table.exclusive)
    made, rows = complete(table, asked, num, np.random.default_rng([seed, Host.REQUEST, 0]))
    if table.laid_out:
        return of_attributes(conditioner, made)
    return _bank_rows(conditioner, rows)


def _bank_rows(conditioner, rows):
    table = conditioner.attributes
    return Request(
        np.asarray(conditioner.bank_weights)[rows],
        np.asarray(conditioner.bank_labels)[rows],
        None if table is None else np.asarray(table.bank)[rows],
    )


def _training_marginal(conditioner, num, seed):
    # Combinations of attributes are classes of very different sizes: they stay as frequent as they
    # are. Classes that somebody named are balanced.
    if conditioner.num_classes and conditioner.attributes is None:
        labels = np.arange(num, dtype=np.int32) % conditioner.num_classes
        return Request(_class_rows(conditioner, labels, seed, 0).astype(np.float32), labels)
    return _bank_rows(conditioner, _choices(seed, 0, num, len(conditioner.bank_weights)))


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


def _one_component(weights, seed):
    """`[N, K]` one-hot in a component drawn from each row; row i does not depend on N."""
    cumulative = np.cumsum(weights, axis=1, dtype=np.float64)
    # Never above the total: rounding cannot choose a component without weight.
    level = np.random.default_rng([seed, Host.COMPONENT]).random(len(weights)) * cumulative[:, -1]
    drawn = (cumulative <= level[:, None]).sum(axis=1)
    return np.eye(weights.shape[1], dtype=np.float32)[drawn]


def _choices(seed, term, num, count):
    """`[num]` uniform integers below `count`; entry i does not depend on `num`."""
    uniform = np.random.default_rng([seed, Host.REQUEST, term]).random(num)
    return np.minimum((uniform * count).astype(np.int64), count - 1)
