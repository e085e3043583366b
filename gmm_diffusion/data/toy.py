"""Points in the plane from mixtures with classes: data whose density is known exactly."""

import itertools
from typing import NamedTuple

import numpy as np

from gmm_diffusion.data.dataset import Dataset, Split
from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture import GaussianMixture

_STREAM = 2  # Apart from the streams of orders and flips in `batches`.


class KnownMixture(NamedTuple):
    """A Gaussian mixture whose components belong to classes, in float64.

    Attributes:
      weights: `[K]`, sum 1.
      means: `[K, 2]`.
      covariances: `[K, 2, 2]`.
      component_class: `[K]` int32 from 0, every class at least once.
    """

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    component_class: np.ndarray


def _standardised(weights, means, covariances, component_class) -> KnownMixture:
    """The same shape with mean 0 and mean square 1 an entry, exactly."""
    weights = np.asarray(weights, np.float64) / np.sum(weights)
    means = means - weights @ means
    square = weights @ ((means**2).sum(axis=1) + np.trace(covariances, axis1=1, axis2=2)) / 2
    return KnownMixture(
        weights,
        means / np.sqrt(square),
        covariances / square,
        np.asarray(component_class, np.int32),
    )


def _round(std: float, num: int) -> np.ndarray:
    return np.tile(std**2 * np.eye(2), (num, 1, 1))


def _elongated(angle: np.ndarray, along: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Covariances `[K, 2, 2]` with those standard deviations along and across `angle [K]`."""
    tangent = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    normal = np.stack([-np.sin(angle), np.cos(angle)], axis=-1)
    outer = [u[:, :, None] * u[:, None, :] for u in (tangent, normal)]
    return along[:, None, None] ** 2 * outer[0] + across[:, None, None] ** 2 * outer[1]


def _ring() -> KnownMixture:
    """8 equal Gaussians on a circle; opposite ones share one of 4 classes."""
    angle = np.arange(8) * np.pi / 4
    means = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return _standardised(np.ones(8), means, _round(0.08, 8), np.arange(8) % 4)


def _grid() -> KnownMixture:
    """25 equal Gaussians on a 5 x 5 grid; each row is a class."""
    row, column = np.divmod(np.arange(25), 5)
    return _standardised(np.ones(25), np.stack([column, row], axis=-1) * 1.0, _round(0.1, 25), row)


def _moons() -> KnownMixture:
    """Two interleaved half circles of 8 elongated Gaussians, a class each."""
    angle = (np.arange(8) + 0.5) * np.pi / 8
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    lower = np.array([1.0, 0.5]) - upper
    tangents = np.tile(angle + np.pi / 2, 2)
    covariances = _elongated(tangents, np.full(16, np.pi / 16), np.full(16, 0.06))
    means = np.concatenate([upper, lower])
    return _standardised(np.ones(16), means, covariances, np.repeat([0, 1], 8))


def _branches() -> KnownMixture:
    """Two trees of 31 thin branches, a class each; each branch is four Gaussians long."""
    return _trees(levels=5, per_branch=4, width=0.035, taper=0.75, wobble=0.0)


def _tree() -> KnownMixture:
    """Two trees of 127 thin branches, a class each; 1,016 Gaussians a class."""
    return _trees(levels=7, per_branch=8, width=0.07, taper=0.8, wobble=0.18)


def _trees(levels: int, per_branch: int, width: float, taper: float, wobble: float) -> KnownMixture:
    """Two trees that start at one point and grow apart, a class each.

    In the spirit of the example in Karras et al. 2024 (arXiv 2406.02507, fig. 1 and appendix C),
    with numbers of our own: each branch forks into two, shorter, thinner and half as likely.

    Args:
      levels: generations of branches.
      per_branch: Gaussians in a row along a branch.
      width: standard deviation across the first branch.
      taper: ratio of the widths of a branch and the one before.
      wobble: standard deviation of the angles and of the relative lengths about their means.
    """
    rows, rng = [], np.random.default_rng(0)

    def grow(start, angle, length, width, share, level, label):
        direction = np.array([np.cos(angle), np.sin(angle)])
        for i in range(per_branch):
            place = start + direction * length * (i + 0.5) / per_branch
            along = length / (2 * per_branch)
            rows.append((share / per_branch, *place, angle, along, width, label))
        if level == levels:
            return
        end = start + direction * length
        for turn in (-0.55, 0.45):
            bend, stretch = wobble * rng.standard_normal(2)
            grow(
                end,
                angle + turn + bend,
                0.7 * length * np.exp(stretch),
                taper * width,
                0.5 * share,
                level + 1,
                label,
            )

    for label, angle in ((0, 0.35), (1, 0.35 + np.pi)):
        grow(np.zeros(2), angle, 1.0, width, 1.0, 1, label)
    weights, x, y, angle, along, across, label = np.array(rows).T
    covariances = _elongated(angle, along, across)
    return _standardised(weights, np.stack([x, y], axis=-1), covariances, label)


# An outline of our own, of a dinosaur with a long neck, from the snout to the tip of the tail.
_BACK = (
    (0.0, 7.0), (0.3, 7.6), (0.9, 7.9), (1.5, 7.6), (1.8, 7.0), (2.1, 6.0), (2.5, 5.0), (3.2, 4.3),
    (4.3, 4.6), (5.5, 4.8), (6.7, 4.5), (7.7, 3.9), (8.8, 3.1), (10.0, 2.4), (11.2, 1.9),
    (12.6, 1.8),
)  # fmt: skip
# And from there along the legs and the belly to the mouth.
_BELLY = (
    (11.2, 1.3), (10.0, 1.6), (8.9, 2.1), (8.1, 2.4), (8.0, 1.2), (8.1, 0.0), (7.0, 0.0),
    (6.9, 1.2), (6.6, 2.0), (5.6, 1.8), (4.7, 1.9), (4.6, 1.1), (4.7, 0.0), (3.6, 0.0), (3.5, 1.3),
    (3.0, 2.4), (2.2, 3.6), (1.5, 4.9), (1.2, 5.9), (0.9, 6.3), (0.2, 6.4), (0.9, 6.8),
)  # fmt: skip


def _dino() -> KnownMixture:
    """The closed outline of a dinosaur, thin Gaussians in a row; back and belly are classes.

    Each line between two corners has pieces of at most 0.4, as likely as they are long; their
    width, 0.05, is 0.017 once standardised.
    """
    corners = np.array([*_BACK, *_BELLY, _BACK[0]])
    pieces, label = [], []
    for number, (start, end) in enumerate(itertools.pairwise(corners)):
        count = int(np.ceil(np.linalg.norm(end - start) / 0.4))
        places = (np.arange(count)[:, None] + 0.5) / count
        step = np.tile((end - start) / count, (count, 1))
        pieces.append(np.stack([start + places * (end - start), step]))
        label += [int(number >= len(_BACK) - 1)] * count
    means, steps = np.concatenate(pieces, axis=1)
    length = np.linalg.norm(steps, axis=1)
    angle = np.arctan2(steps[:, 1], steps[:, 0])
    covariances = _elongated(angle, length / 2, np.full(len(length), 0.05))
    return _standardised(length, means, covariances, label)


MIXTURES = {
    "ring": _ring,
    "grid": _grid,
    "moons": _moons,
    "branches": _branches,
    "tree": _tree,
    "dino": _dino,
}


def load(
    name: str = "ring",
    num_train: int = 65536,
    num_heldout: int = 8192,
    seed: int = 0,
    validation: bool = False,
) -> Dataset:
    """Independent points of one of `MIXTURES`, with mean 0 and mean square 1 a coordinate.

    Args:
      name: a key of `MIXTURES`.
      num_train: points to train on.
      num_heldout: points held out.
      seed: non-negative; the splits have streams of their own, so that another number of points in
        one leaves the other unchanged.
      validation: draws as many points as are held out for validation, too.

    Returns:
      Vectors `[N, 2]` float32 with classes, the true `GaussianMixture` of kind "full" and the class
      of each of its components.

    Raises:
      InputError: an unknown name, a number below 1 or a negative seed.
    """
    if name not in MIXTURES:
        raise InputError(f"toy name is {name!r}; valid are {', '.join(MIXTURES)}.")
    for field, value, least in (
        ("num_train", num_train, 1),
        ("num_heldout", num_heldout, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise InputError(f"{field} is {value}; valid is {least} or more.")
    known = MIXTURES[name]()
    mixture, component_class = density(name)
    num_classes = int(known.component_class.max()) + 1

    def draw(num: int, stream: int) -> Split:
        return _draw(known, num, np.random.default_rng([seed, stream, _STREAM]))

    return Dataset(
        name=f"toy {name} (train {num_train}, heldout {num_heldout}, seed {seed})",
        train=draw(num_train, 0),
        heldout=draw(num_heldout, 1),
        validation=draw(num_heldout, 2) if validation else None,
        num_classes=num_classes,
        class_names=tuple(str(c) for c in range(num_classes)),
        mixture=mixture,
        component_class=component_class,
    )


def density(name: str) -> tuple[GaussianMixture, np.ndarray]:
    """The true mixture of one of `MIXTURES`, of kind "full", and `[K]` int32 component classes."""
    known = MIXTURES[name]()
    mix = GaussianMixture.create(known.weights, known.means, known.covariances, "full")
    return mix, known.component_class


def _draw(known: KnownMixture, num: int, rng: np.random.Generator) -> Split:
    component = rng.choice(len(known.weights), size=num, p=known.weights)
    factor = np.linalg.cholesky(known.covariances)[component]
    x = known.means[component] + np.einsum("nij,nj->ni", factor, rng.standard_normal((num, 2)))
    return Split(x.astype(np.float32), known.component_class[component])
