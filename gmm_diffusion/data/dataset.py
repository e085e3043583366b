"""What every dataset looks like, in memory or streamed, and the one rounding of images."""

import dataclasses
import logging
import numbers
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from gmm_diffusion.data.streaming import Streamed
from gmm_diffusion.errors import InputError

log = logging.getLogger(__name__)

# Of streamed examples so many bytes stand for all where a fit or a metric wants them in memory.
_SAMPLE_BYTES = 1 << 27


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples in a fixed order.

    Attributes:
      x: `[N, H, W, C]` uint8 images or float32 latents, or `[N, D]` float32 vectors; or images in
        files, a `streaming.Streamed`, of which `x[rows]` reads some.
      label: `[N]` int32 classes from 0, or None.
      attributes: `[N, A]` uint8, 1 where an example has the attribute and 0 where not, or None.
      features: `[N, F]` float32, what its owner describes each example by, or None.

    Raises:
      InputError: no examples, another shape or type, or labels, attributes or features that do not
        match.
    """

    x: np.ndarray
    label: np.ndarray | None = None
    attributes: np.ndarray | None = None
    features: np.ndarray | None = None

    def __post_init__(self):
        image = self.x.ndim == 4 and self.x.dtype == np.uint8
        floats = self.x.ndim in (2, 4) and self.x.dtype == np.float32
        if not (image or floats):
            raise InputError(
                f"data has shape {self.x.shape} and type {self.x.dtype}; valid are uint8 images "
                "[N, H, W, C], float32 vectors [N, D] and float32 latents [N, H, W, C]."
            )
        if 0 in self.x.shape:
            raise InputError(f"data of shape {self.x.shape} is empty; at least one example needed.")
        if self.label is not None and (
            self.label.shape != self.x.shape[:1] or self.label.dtype != np.int32
        ):
            raise InputError(
                f"labels have shape {self.label.shape} and type {self.label.dtype}; valid is "
                f"int32 of shape ({len(self.x)},)."
            )
        if self.features is not None and (
            self.features.ndim != 2
            or len(self.features) != len(self.x)
            or self.features.dtype != np.float32
            or not self.features.shape[1]
        ):
            raise InputError(
                f"features have shape {self.features.shape} and type {self.features.dtype}; valid "
                f"is float32 of shape ({len(self.x)}, F), F at least 1."
            )
        if self.attributes is None:
            return
        shape, kind = self.attributes.shape, self.attributes.dtype
        if len(shape) != 2 or shape[0] != len(self.x) or kind != np.uint8:
            raise InputError(
                f"attributes have shape {shape} and type {kind}; valid is uint8 of shape "
                f"({len(self.x)}, A)."
            )
        if self.attributes.max(initial=0) > 1:
            raise InputError(
                f"attributes hold the value {self.attributes.max()}; valid are 0 and 1."
            )

    def __len__(self):
        return len(self.x)

    @property
    def streamed(self) -> bool:
        """Whether examples are read whenever they are asked for."""
        return isinstance(self.x, Streamed)

    def take(self, index: np.ndarray | slice) -> "Split":
        """The examples `index [M]`, in that order, or a slice, with what is known of them."""
        if self.streamed:
            return self._of(cast(Streamed, self.x).take(index), index)
        return self.read(index)

    def read(self, index: np.ndarray | slice) -> "Split":
        """`take`, in memory."""
        return self._of(self.x[index], index)

    def held(self, name: str) -> "Split":
        """The same examples in memory; where many are read, with a bar of that name."""
        return self._of(cast(Streamed, self.x).held(name), slice(None)) if self.streamed else self

    def sample(self, most: int | None = None) -> "Split":
        """Evenly spaced examples, in memory: at most so many, and of streamed ones 2^27 bytes."""
        num = len(self) if most is None else min(len(self), most)
        if not self.streamed:
            return self if num == len(self) else self.read(evenly_spaced(len(self), num))
        wanted, num = num, min(num, max(2, _SAMPLE_BYTES // int(np.prod(self.x.shape[1:]))))
        if num < wanted:
            log.info("Of %d streamed examples %d, evenly spaced, stand for all.", len(self), num)
        return self.read(evenly_spaced(len(self), num))

    def _of(self, x, index):
        known = (self.label, self.attributes, self.features)
        return Split(x, *(None if each is None else each[index] for each in known))


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A training split, a held-out split and perhaps one for choices, of one source.

    Attributes:
      name: source and the settings that change its content, for statistics files and messages.
      train: what models, mixtures and judges are fitted on.
      heldout: the test split, real data that nothing is fitted or chosen on: the floor of every
        metric.
      num_classes: number of classes, 0 without labels.
      class_names: one name a class, empty without labels.
      attribute_names: one name an attribute, empty without attributes.
      exclusive: pairs of attribute names that no example has both of.
      unseen: real data with combinations of attributes that training never shows, or None.
      judges_only: more of `unseen`, from which judges alone learn to read it, or None.
      validation: real data that nothing is fitted on, for what is chosen: updates, scales. Or None.
      mixture: the true density, a `mixture.GaussianMixture`, where it is known.
      component_class: `[K]` int32 class of each component of `mixture`, where it is known.
      decoder: `[n, H, W, C]` latents -> pictures, where they have some (`latents.decode`); or None.
    """

    name: str
    train: Split
    heldout: Split
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    attribute_names: tuple[str, ...] = ()
    exclusive: tuple[tuple[str, str], ...] = ()
    unseen: Split | None = None
    judges_only: Split | None = None
    validation: Split | None = None
    mixture: Any = None
    component_class: np.ndarray | None = None
    decoder: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example: `(H, W, C)` or `(D,)`."""
        return self.train.x.shape[1:]

    @property
    def is_image(self) -> bool:
        """Whether examples are uint8 images rather than float32 vectors or latents."""
        return self.train.x.dtype == np.uint8

    @property
    def is_latent(self) -> bool:
        """Whether examples are float32 latents `[H, W, C]`: shaped as images, and no pictures."""
        return len(self.shape) == 3 and not self.is_image

    @property
    def watched(self) -> Split:
        """The split of the losses while training: validation, where there is none held-out data."""
        return self.heldout if self.validation is None else self.validation


# Classes with fewer training examples each, on average, would be names of single examples.
EXAMPLES_A_COMBINATION = 10


def combination_classes(data: Dataset) -> Dataset:
    """Data with attributes and no classes -> each combination in the training split is a class.

    This is what conditioning on classes can make of attributes. Held-out examples whose combination
    training never shows have no class; they join `unseen`, and those of validation are left out. A
    class is named after the attributes that it has, `Smiling+Bald`, or `none`. Data with more
    combinations than a tenth of the training split are returned as they are: such classes would be
    names of single examples.

    Raises:
      InputError: no attributes, classes there already, or a split without an example that has a
        class.
    """
    if not data.attribute_names or data.num_classes:
        raise InputError(
            f"{data.name} has {len(data.attribute_names)} attributes and {data.num_classes} "
            "classes; combinations become classes where there are attributes and no classes."
        )
    assert data.train.attributes is not None
    combinations, label = np.unique(data.train.attributes, axis=0, return_inverse=True)
    if EXAMPLES_A_COMBINATION * len(combinations) > len(label):
        return data
    number = {row.tobytes(): i for i, row in enumerate(combinations)}

    def labelled(split, name):
        """The examples whose combination training shows, with their classes, and the others."""
        found = np.array([number.get(row.tobytes(), -1) for row in split.attributes], np.int32)
        if found.max() < 0:
            raise InputError(
                f"no {name} example of {data.name} has a combination of attributes that the "
                "training split shows; choose fewer attributes."
            )
        known = split.take(found >= 0)
        return dataclasses.replace(known, label=found[found >= 0]), found < 0

    heldout, new = labelled(data.heldout, "held-out")
    unseen, validation = data.unseen, data.validation
    if new.any():
        more = data.heldout.take(new)
        unseen = more if unseen is None else joined(unseen, more)
    if validation is not None:
        validation, _ = labelled(validation, "validation")
    names = [
        "+".join(n for n, has in zip(data.attribute_names, row, strict=True) if has) or "none"
        for row in combinations
    ]
    return dataclasses.replace(
        data,
        train=dataclasses.replace(data.train, label=label.reshape(-1).astype(np.int32)),
        heldout=heldout,
        unseen=unseen,
        validation=validation,
        num_classes=len(names),
        class_names=tuple(names),
    )


def joined(first: Split, second: Split) -> Split:
    """The examples of both, with their attributes and without labels."""
    return Split(
        np.concatenate([first.x, second.x]),
        None,
        np.concatenate([first.attributes, second.attributes]),
    )


def to_float(x: np.ndarray) -> np.ndarray:
    """uint8 of any shape -> float32 in [-1, 1] of that shape; floats only become float32."""
    if x.dtype == np.uint8:
        return x.astype(np.float32) / np.float32(127.5) - np.float32(1)
    return np.asarray(x, np.float32)


def to_uint8(x: np.ndarray) -> np.ndarray:
    """Float in [-1, 1] of any shape -> uint8, clipped and rounded; uint8 passes.

    Every metric and every saved image goes through this one rounding.

    Raises:
      InputError: `x` has a value that is not finite.
    """
    x = np.asarray(x)
    if x.dtype == np.uint8:
        return x
    if not np.isfinite(x).all():
        raise InputError("images hold a value that is not finite; valid are numbers in [-1, 1].")
    # In float64, so that no value near a half rounds differently from how it would on paper.
    return np.rint(np.clip((x.astype(np.float64) + 1) * 127.5, 0, 255)).astype(np.uint8)


def evenly_spaced(num_examples: int, most: int) -> np.ndarray:
    """Indices `[M]` of at most so many of `num_examples`, from the first to the last.

    Not the first ones, which may all be of one class: files often hold one class after the other.
    """
    return np.linspace(0, num_examples - 1, min(num_examples, most)).astype(int)


def with_validation(data: Dataset, fraction: float, seed: int) -> Dataset:
    """Moves a share of the training split into `validation`, the same of every class.

    The held-out split stays as it is, and every class keeps an example to train on.

    Args:
      data: without a validation split.
      fraction: in (0, 1), of the training split.
      seed: non-negative; which examples.

    Raises:
      InputError: as `split_indices`, or no class has an example to spare.
    """
    train = data.train
    _, chosen = split_indices(len(train), fraction, seed, train.label, "data.validation_fraction")
    if train.label is not None:
        emptied = np.setdiff1d(train.label, np.delete(train.label, chosen))
        chosen = chosen[~np.isin(train.label[chosen], emptied)]
    if not len(chosen):
        raise InputError(
            f"data.validation_fraction is {fraction}, and no class of {data.name} has an example "
            "to spare; valid is 0 or a larger dataset."
        )
    return dataclasses.replace(
        data,
        # A judge or statistics of the whole training split are not those of what is left.
        name=f"{data.name} (validation {fraction:g} of train, seed {seed})",
        train=train.take(np.delete(np.arange(len(train)), chosen)),
        validation=train.take(chosen),
    )


def split_indices(
    num_examples: int,
    fraction: float,
    seed: int,
    label: np.ndarray | None = None,
    name: str = "heldout_fraction",
) -> tuple[np.ndarray, np.ndarray]:
    """Deterministic split, with the same share of each class on both sides where there are labels.

    Args:
      num_examples: N.
      fraction: share held out, in (0, 1); the number held out is rounded up.
      seed: non-negative; each class has a permutation of its own.
      label: `[N]` int, or None.
      name: of the fraction, for messages.

    Returns:
      `(train, heldout)`: sorted int64 indices that together are `0..N-1`.

    Raises:
      InputError: a fraction outside (0, 1), a negative seed, or a side left empty.
    """
    if not (isinstance(fraction, numbers.Real) and 0 < fraction < 1):
        raise InputError(f"{name} is {fraction!r}; valid is a number between 0 and 1.")
    if seed < 0:
        raise InputError(f"split_seed is {seed}; valid is 0 or more.")
    total = int(np.ceil(fraction * num_examples))
    if total >= num_examples:
        raise InputError(
            f"{name} is {fraction}, which leaves nothing to train on out of "
            f"{num_examples} examples; valid is a smaller fraction or a larger dataset."
        )
    classes = np.zeros(num_examples, np.int64) if label is None else label
    members = [np.flatnonzero(classes == c) for c in np.unique(classes)]
    quota = np.array([len(m) for m in members]) * (total / num_examples)
    # Largest remainders, so that the shares of the classes add up to the total exactly.
    count = np.floor(quota + 1e-9).astype(int)
    count[np.argsort(count - quota, kind="stable")[: total - count.sum()]] += 1
    heldout = np.zeros(num_examples, bool)
    for c, (indices, n) in enumerate(zip(members, count, strict=True)):
        heldout[np.random.default_rng([seed, c]).permutation(indices)[:n]] = True
    return np.flatnonzero(~heldout), np.flatnonzero(heldout)
