"""Precision, recall and coverage of a set of samples, memorisation, and defects under a density."""

import numpy as np
from scipy.spatial.distance import cdist

from gmm_diffusion.errors import InputError

_BLOCK_VALUES = 1 << 23


def _flat(**sets: np.ndarray) -> list[np.ndarray]:
    """Each `[N, ...]` as finite float64 `[N, F]`, all with the same F."""
    flat: list[np.ndarray] = []
    for name, x in sets.items():
        x = np.asarray(x)
        if x.ndim < 2 or len(x) == 0:
            raise InputError(f"{name} has shape {x.shape}; valid is [N, ...] with N at least 1.")
        x = x.reshape(len(x), -1).astype(np.float64)
        if not np.isfinite(x).all():
            raise InputError(f"{name} holds a value that is not finite; valid are finite numbers.")
        if flat and x.shape[1] != flat[0].shape[1]:
            raise InputError(
                f"{name} has {x.shape[1]} values an example; valid is {flat[0].shape[1]}, as the "
                "other sets have."
            )
        flat.append(x)
    return flat


def _blocks(a: np.ndarray, b: np.ndarray):
    """Distances `[rows, len(b)]` of successive rows of `a`.

    Differences are squared one by one: the expansion into a matrix product is faster, but leaves
    copies of an example at a distance above 0, which precision and memorisation must not.
    """
    rows = max(1, _BLOCK_VALUES // len(b))
    for i in range(0, len(a), rows):
        yield cdist(a[i : i + rows], b)


def ball_radii(x: np.ndarray, k: int, name: str = "reference") -> np.ndarray:
    """Distance of each example `[N, F]` to its k-th nearest neighbour other than itself, `[N]`.

    Raises:
      InputError: k below 1 or above N - 1.
    """
    (x,) = _flat(**{name: x})
    if not 1 <= k < len(x):
        raise InputError(f"k is {k} for {len(x)} examples in {name}; valid is 1 to N - 1.")
    # Index k, since each example is its own nearest at distance 0.
    return np.concatenate([np.partition(d, k, axis=1)[:, k] for d in _blocks(x, x)])


def _share_inside(points: np.ndarray, centers: np.ndarray, radii: np.ndarray) -> float:
    inside = [(d <= radii).any(axis=1) for d in _blocks(points, centers)]
    return float(np.concatenate(inside).mean())


def precision(
    samples: np.ndarray, reference: np.ndarray, k: int = 3, radii: np.ndarray | None = None
) -> float:
    """Share of samples inside the union of the reference's k-nearest-neighbour balls.

    Improved precision (Kynkaanniemi et al. 2019, arXiv 1904.06991, eq. 1 and 2). One minus it is
    the defect rate of images. Copies of the reference score 1: see `memorisation`.

    Args:
      samples: `[N, F]` features, or `[N, ...]`, flattened.
      reference: `[M, F]`, features of real data.
      k: neighbours, from 1 to M - 1.
      radii: `ball_radii` of the reference, where many sets are compared with it.

    Raises:
      InputError: an empty set, sizes that differ, a value that is not finite, or such a k.
    """
    samples, reference = _flat(samples=samples, reference=reference)
    radii = ball_radii(reference, k) if radii is None else radii
    return _share_inside(samples, reference, radii)


def recall(samples: np.ndarray, reference: np.ndarray, k: int = 3) -> float:
    """Share of the reference inside the union of the samples' balls: `precision` with sets swapped.

    It grows with the number of samples, so compare it only between equal numbers.
    """
    samples, reference = _flat(samples=samples, reference=reference)
    return _share_inside(reference, samples, ball_radii(samples, k, "samples"))


def coverage(
    samples: np.ndarray, reference: np.ndarray, k: int = 3, radii: np.ndarray | None = None
) -> float:
    """Share of the reference's balls that hold at least one sample.

    Naeem et al. 2020 (arXiv 2002.09797, eq. 4): unlike recall it is not raised by outlying samples,
    whose balls are large. Arguments and errors as `precision`.
    """
    samples, reference = _flat(samples=samples, reference=reference)
    nearest = np.concatenate([d.min(axis=1) for d in _blocks(reference, samples)])
    radii = ball_radii(reference, k) if radii is None else radii
    return float((nearest <= radii).mean())


def coverage_ceiling(num_samples: int, num_reference: int, k: int = 3) -> float:
    """The expected `coverage` by samples that follow the very law of the reference.

    `1 - prod_{i=1..k} (m - i) / (n + m - i)` with n samples and m examples in the reference (Naeem
    et al. 2020): an example has no sample in its ball if its k nearest of the n + m - 1 others are
    all of the reference, and any k of the others are equally likely to be those.
    """
    i = np.arange(1, k + 1)
    return float(1 - np.prod((num_reference - i) / (num_samples + num_reference - i)))


def memorisation(
    samples: np.ndarray, train: np.ndarray, heldout: np.ndarray, quantile: float = 0.05
) -> float:
    """Share of samples closer to a training example than nearly all held-out examples are.

    The threshold is a quantile of the held-out examples' distances to their nearest training
    example, so that held-out data score about `quantile` and copies of training data score 1.

    Args:
      samples: `[N, ...]`, flattened; images as uint8 or floats, the same as the others.
      train: `[M, ...]`; with mirrored copies where training mirrors.
      heldout: `[L, ...]`, real data that the model has not seen.
      quantile: in (0, 1).

    Raises:
      InputError: an empty set, sizes that differ, a value that is not finite, or such a quantile.
    """
    samples, _, heldout = _flat(samples=samples, train=train[:1], heldout=heldout)
    _check_quantile(quantile)
    ours, theirs = (_nearest(x, train) for x in (samples, heldout))
    return float((ours <= np.quantile(theirs, quantile)).mean())


def _nearest(points, train):
    """Distance of each point to its nearest training example; of these a block is float64."""
    rows = max(1, _BLOCK_VALUES // points.shape[1])
    nearest = np.full(len(points), np.inf)
    for start in range(0, len(train), rows):
        (block,) = _flat(train=train[start : start + rows])
        distances = np.concatenate([d.min(axis=1) for d in _blocks(points, block)])
        nearest = np.minimum(nearest, distances)
    return nearest


def density_defects(
    log_prob_samples: np.ndarray, log_prob_true: np.ndarray, quantile: float = 0.001
) -> float:
    """Share of samples less likely under the true density than all but a few true samples.

    Args:
      log_prob_samples: `[N]`, true log-density of generated samples; NaN or -inf is a defect.
      log_prob_true: `[M]`, true log-density of true samples, M at least 1 / quantile.
      quantile: of the true samples, in (0, 1): the rate that a perfect model has.

    Raises:
      InputError: another shape, an empty set, too few true samples, NaN in them, such a quantile.
    """
    ours, theirs = np.asarray(log_prob_samples), np.asarray(log_prob_true)
    _check_quantile(quantile)
    if ours.ndim != 1 or theirs.ndim != 1 or len(ours) == 0:
        raise InputError(
            f"log_prob_samples and log_prob_true have shapes {ours.shape} and {theirs.shape}; "
            "valid are [N] and [M] with N at least 1."
        )
    if len(theirs) * quantile < 1 - 1e-9:
        raise InputError(
            f"log_prob_true holds {len(theirs)} values; valid are at least "
            f"{int(np.ceil(1 / quantile))} for a quantile of {quantile}."
        )
    if not np.isfinite(theirs).all():
        raise InputError("log_prob_true holds a value that is not finite; valid are numbers.")
    # Counted as not above, so that NaN is a defect.
    return float(1 - np.mean(ours >= np.quantile(theirs, quantile)))


def _check_quantile(quantile: float) -> None:
    if not 0 < quantile < 1:
        raise InputError(f"quantile is {quantile}; valid is a number between 0 and 1.")
