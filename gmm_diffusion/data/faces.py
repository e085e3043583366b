"""Cartoon faces with ten attributes, rendered here: CelebA's questions without its download."""

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

from gmm_diffusion import attribute_names
from gmm_diffusion.data.dataset import Dataset, Split
from gmm_diffusion.data.face_rendering import NAMES, NUISANCE, render
from gmm_diffusion.errors import InputError

EXCLUSIVE = (("Bald", "Bangs"), ("Bald", "Blond_Hair"))
# Share of people with each attribute, before those with an exclusive pair are drawn again.
FREQUENCIES = {
    "Bald": 0.2,
    "Bangs": 0.35,
    "Blond_Hair": 0.35,
    "Eyeglasses": 0.35,
    "Mouth_Slightly_Open": 0.45,
    "Mustache": 0.3,
    "Rosy_Cheeks": 0.35,
    "Smiling": 0.5,
    "Wearing_Hat": 0.3,
    "Wearing_Necktie": 0.35,
}
# Correlations of the normal variables behind the attributes, at strength 1. Pairs as in photographs
# of celebrities, with numbers of our own.
CORRELATED = {
    ("Mouth_Slightly_Open", "Smiling"): 0.8,
    ("Rosy_Cheeks", "Smiling"): 0.5,
    ("Mouth_Slightly_Open", "Rosy_Cheeks"): 0.4,
    ("Bangs", "Blond_Hair"): 0.4,
    ("Bald", "Eyeglasses"): 0.3,
    ("Bald", "Mustache"): 0.3,
    ("Mustache", "Wearing_Necktie"): 0.3,
    ("Eyeglasses", "Wearing_Necktie"): 0.3,
}
# Streams of people: those with one number have nothing in common with those of another.
TRAIN, HELDOUT, UNSEEN, JUDGES_ONLY, VALIDATION = 0, 1, 2, 3, 4
_LEAST_LEFT = 0.01  # Share of people that held-out combinations leave.


def load(
    resolution: int = 32,
    num_train: int = 20_000,
    num_heldout: int = 2000,
    seed: int = 0,
    attributes: Sequence[str] = (),
    correlation: float = 0.5,
    held_out: Sequence[str] = (),
    validation: bool = False,
) -> Dataset:
    """Faces of different people; 20,000 at 32 x 32 take six seconds on one core.

    Args:
      resolution: height and width, a multiple of 8 from 16 to 256; the attributes can be told
        apart from 32 on.
      num_train: images to train on.
      num_heldout: images held out, and as many unseen where there are `held_out` combinations,
        with a fifth of `num_train` for judges alone.
      seed: non-negative; image i of a split depends on the seed, on i and on the next two only.
      attributes: which of `NAMES` are named, in that order; the others vary all the same. Empty
        names all.
      correlation: from 0, where attributes are independent up to exclusive pairs, to 1, where they
        have the correlations of `CORRELATED`.
      held_out: assignments such as "Eyeglasses=1,Wearing_Hat=1" that no other split shows. Equal
        shares of `Dataset.unseen` show each of them, and otherwise what the frequencies say.
      validation: draws as many images as are held out for validation, too.

    Returns:
      Images `[N, H, W, 3]` uint8 with attributes and no labels.

    Raises:
      InputError: a number out of range; an unknown attribute, or one named twice; a held-out
        combination that is malformed, asks for an exclusive pair or leaves nothing to train on.
    """
    for field, value, least in (
        ("num_train", num_train, 1),
        ("num_heldout", num_heldout, 1),
        ("split_seed", seed, 0),
    ):
        if value < least:
            raise InputError(f"data.{field} is {value}; valid is {least} or more.")
    _check_resolution(resolution)
    attribute_names.check_names(attributes, NAMES, "data.attributes")
    names = tuple(attributes) or NAMES
    exclusive = tuple(pair for pair in EXCLUSIVE if set(pair) <= set(names))
    excluded = [attribute_names.parse(text, names, exclusive, "data.held_out") for text in held_out]
    columns = [NAMES.index(name) for name in names]

    def split(num: int, stream: int, given: list[dict[str, int]] | None = None) -> Split:
        index = np.arange(num)
        if given is None:
            shown = draw_attributes(seed, index, stream, correlation, excluded)
        else:
            shown = np.empty((num, len(NAMES)), np.uint8)
            for i, assigned in enumerate(given):
                own = index[i :: len(given)]
                shown[own] = draw_attributes(seed, own, stream, correlation, given=assigned)
        return Split(render_people(seed, index, shown, resolution, stream), None, shown[:, columns])

    chosen = "" if names == NAMES else f", attributes {'+'.join(names)}"
    without = "".join(f", without {text.replace(' ', '')}" for text in held_out)
    return Dataset(
        name=(
            f"faces {resolution}x{resolution} (train {num_train}, heldout {num_heldout}, seed "
            f"{seed}, correlation {correlation:g}{chosen}{without})"
        ),
        train=split(num_train, TRAIN),
        heldout=split(num_heldout, HELDOUT),
        attribute_names=names,
        exclusive=exclusive,
        validation=split(num_heldout, VALIDATION) if validation else None,
        unseen=split(num_heldout, UNSEEN, excluded) if excluded else None,
        judges_only=split(-(-num_train // 5), JUDGES_ONLY, excluded) if excluded else None,
    )


def render_people(
    seed: int,
    index: np.ndarray,
    attributes: np.ndarray | None = None,
    resolution: int = 32,
    stream: int = TRAIN,
) -> np.ndarray:
    """People by number: the same person with any attributes, whoever else is rendered.

    Args:
      seed: non-negative.
      index: `[N]` integers, not negative and below 2**32: which people.
      attributes: `[N, A]` of 0 and 1, columns as in `NAMES`; None takes those of `draw_attributes`.
      resolution: height and width, a multiple of 8 from 16 to 256.
      stream: which people; `TRAIN`, `HELDOUT` and so on are those of the splits of `load`.

    Returns:
      `[N, H, W, 3]` uint8.

    Raises:
      InputError: another resolution, attributes of another shape or other values, or an exclusive
        pair.
    """
    _check_resolution(resolution)
    index = np.asarray(index)
    if attributes is None:
        attributes = draw_attributes(seed, index, stream)
    attributes = np.asarray(attributes)
    if attributes.shape != (len(index), len(NAMES)) or not np.isin(attributes, (0, 1)).all():
        raise InputError(
            f"attributes have shape {attributes.shape}; valid are 0 and 1 of shape "
            f"({len(index)}, {len(NAMES)})."
        )
    for first, second in EXCLUSIVE:
        if attribute_names.shows(attributes, {first: 1, second: 1}, NAMES).any():
            raise InputError(f"attributes ask for {first} and {second}; no face has both.")
    people = [np.random.default_rng([seed, stream, int(i), 0]) for i in index]
    nuisance = np.array([person.random(len(NUISANCE)) for person in people])
    return render(nuisance.reshape(-1, len(NUISANCE)), attributes, resolution)


def draw_attributes(
    seed: int,
    index: np.ndarray,
    stream: int = TRAIN,
    correlation: float = 0.5,
    held_out: Sequence[dict[str, int]] = (),
    given: dict[str, int] | None = None,
) -> np.ndarray:
    """Attributes of people by number, drawn again until they are allowed.

    Normal variables with the correlations of `CORRELATED` times `correlation`, each cut where its
    frequency says; then what is `given` is set.

    Args:
      seed: non-negative.
      index: `[N]` integers, not negative and below 2**32.
      stream: as in `render_people`.
      correlation: from 0 to 1.
      held_out: assignments that nobody shows.
      given: an assignment that everybody shows.

    Returns:
      `[N, A]` uint8, columns as in `NAMES`.

    Raises:
      InputError: another correlation, or almost nobody is allowed.
    """
    if not 0 <= correlation <= 1:
        raise InputError(f"data.correlation is {correlation}; valid is a number from 0 to 1.")
    given = given or {}
    forbidden = [*({first: 1, second: 1} for first, second in EXCLUSIVE), *held_out]
    left = _share_left(forbidden, given)
    if left < _LEAST_LEFT:
        raise InputError(
            f"data.held_out leaves {left:.1%} of all faces to train on; valid is what leaves at "
            f"least {_LEAST_LEFT:.0%}."
        )
    factor = np.linalg.cholesky(latent_correlation(correlation))
    cuts = ndtri([FREQUENCIES[name] for name in NAMES])
    drawn = np.empty((len(index), len(NAMES)), np.uint8)
    pending, attempt = np.arange(len(index)), 0
    while len(pending):
        noise = np.array(
            [
                np.random.default_rng([seed, stream, int(i), 1, attempt]).standard_normal(len(cuts))
                for i in np.asarray(index)[pending]
            ]
        )
        # Not a matrix product, whose rounding depends on how many there are.
        rows = ((noise[:, None, :] * factor).sum(axis=2) < cuts).astype(np.uint8)
        for name, value in given.items():
            rows[:, NAMES.index(name)] = value
        drawn[pending] = rows
        pending = pending[_shows_any(rows, forbidden)]
        attempt += 1
    return drawn


def latent_correlation(strength: float) -> np.ndarray:
    """Correlations `[A, A]` of the normal variables behind the attributes, in `NAMES`' order."""
    matrix = np.eye(len(NAMES))
    for (first, second), value in CORRELATED.items():
        i, j = NAMES.index(first), NAMES.index(second)
        matrix[i, j] = matrix[j, i] = strength * value
    return matrix


def _shows_any(rows: np.ndarray, assignments: Sequence[dict[str, int]]) -> np.ndarray:
    found = np.zeros(len(rows), bool)
    for assigned in assignments:
        found |= attribute_names.shows(rows, assigned, NAMES)
    return found


def _share_left(forbidden: Sequence[dict[str, int]], given: dict[str, int]) -> float:
    """Probability of what is allowed were all attributes independent."""
    rows = (np.arange(2 ** len(NAMES))[:, None] >> np.arange(len(NAMES)) & 1).astype(np.uint8)
    chance = np.array([given.get(name, FREQUENCIES[name]) for name in NAMES])
    weight = np.where(rows == 1, chance, 1 - chance).prod(axis=1)
    return float(weight[~_shows_any(rows, forbidden)].sum())


def _check_resolution(resolution: int) -> None:
    if resolution % 8 or not 16 <= resolution <= 256:
        raise InputError(
            f"data.resolution is {resolution}; faces need a multiple of 8 from 16 to 256."
        )
