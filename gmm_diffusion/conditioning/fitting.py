"""Fitting the mixture of the conditioning: over all examples, or to each class by itself."""

import jax
import numpy as np

from gmm_diffusion import mixture
from gmm_diffusion.types import Array


def fit_mixture(
    key: Array,
    points: np.ndarray,
    labels: np.ndarray | None,
    num_classes: int,
    num_components: int,
    kind: str,
    **em_options,
) -> tuple[mixture.GaussianMixture, np.ndarray]:
    """One mixture, and the class that each component belongs to.

    Args:
      key: a typed key.
      points: `[N, D]` features of the training split.
      labels: `[N]` classes from 0, to fit each class by itself; None fits all points together.
      num_classes: number of classes; every one must occur.
      num_components: K; with labels a multiple of `num_classes`, shared out evenly.
      kind: covariance kind. Fitted to each class, "tied" means tied within a class, so the
        joined mixture is "full".
      **em_options: of `mixture.fit_em`.

    Returns:
      The mixture, and `[K]` int classes, -1 without labels.

    Raises:
      ValueError: fewer points than components, of all or of a class, which the message names; or
        if EM refuses the points.
    """
    if labels is None:
        _check_enough(-1, len(points), num_components, "components")
        fit = mixture.fit_em(key, points, num_components, kind, allow_degenerate=True, **em_options)
        return fit.mixture, np.full(num_components, -1)
    counts = np.bincount(labels, minlength=num_classes)
    share = num_components // num_classes
    parts = []
    for c in range(num_classes):
        _check_enough(c, counts[c], share, "components")
        # Every class is repeated up to one length, at the same total weight, so that one compiled
        # fit serves all of them.
        copies = np.arange(counts.max()) % counts[c]
        sample_weights = (1.0 / np.bincount(copies))[copies].astype(np.float32)
        try:
            fit = mixture.fit_em(
                jax.random.fold_in(key, c),
                points[labels == c][copies],
                share,
                kind,
                sample_weights=sample_weights,
                # A feature may be the same within a class.
                allow_degenerate=True,
                **em_options,
            )
        except ValueError as error:
            raise ValueError(f"class {c}: {error}") from error
        parts.append(fit.mixture)
    return _join(parts, counts / len(labels), kind), np.repeat(np.arange(num_classes), share)


def fit_clusters(
    points: np.ndarray,
    labels: np.ndarray | None,
    num_classes: int,
    num_components: int,
    num_restarts: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Centres of k-means, over all points or in each class by itself: labels made of features.

    The control that a mixture gains from more than from more labels.

    Args:
      points: `[N, D]` features of the training split.
      labels: `[N]` classes from 0, to cluster each class by itself; None takes all points together.
      num_classes: number of classes; every one must occur.
      num_components: K; with labels a multiple of `num_classes`, shared out evenly.
      num_restarts: fits from different starts, of which the tightest counts.
      seed: of k-means.

    Returns:
      `[K, D]` float32 centres, and `[K]` int classes, -1 without labels.

    Raises:
      ValueError: fewer points than clusters.
    """
    fits, owner = _k_means(points, labels, num_classes, num_components, num_restarts, seed)
    return _centers(fits), owner


def fit_spheres(
    points: np.ndarray,
    labels: np.ndarray | None,
    num_classes: int,
    num_components: int,
    num_restarts: int,
    seed: int,
    covariance_floor: float,
) -> tuple[mixture.GaussianMixture, np.ndarray]:
    """k-means as a mixture: equal weights, and one variance for all, that within the clusters.

    Of all mixtures of equal weights and one variance it is the likeliest where each point belongs
    to one component. The largest responsibility is that of the nearest centre.

    Args:
      points: as of `fit_clusters`, and so the next ones.
      labels: likewise.
      num_classes: likewise.
      num_components: likewise.
      num_restarts: likewise.
      seed: likewise.
      covariance_floor: smallest variance, as a fraction of that of the points.

    Returns:
      The mixture, and `[K]` int classes, -1 without labels.

    Raises:
      ValueError: as `fit_clusters`.
    """
    fits, owner = _k_means(points, labels, num_classes, num_components, num_restarts, seed)
    variance = sum(fit.inertia_ for fit in fits) / points.size
    variance = max(variance, covariance_floor * float(points.var(axis=0, dtype=np.float64).mean()))
    num = len(owner)
    mix = mixture.GaussianMixture.create(
        np.full(num, 1 / num), _centers(fits), np.full(num, variance), "spherical"
    )
    return mix, owner


def _k_means(points, labels, num_classes, num_components, num_restarts, seed):
    """A fit for all points or for each class, and `[K]` classes or -1."""
    from sklearn.cluster import KMeans

    shares = [(-1, points)]
    if labels is not None:
        shares = [(c, points[labels == c]) for c in range(num_classes)]
    each = num_components // len(shares)
    fits = []
    for c, own in shares:
        _check_enough(c, len(own), each, "clusters")
        fits.append(KMeans(each, n_init=num_restarts, random_state=seed).fit(own))
    return fits, np.repeat([c for c, _ in shares], each)


def _check_enough(c, num, least, what):
    """Of class c, or of all data if it is -1."""
    if num < least:
        name = "the data" if c < 0 else f"class {c}"
        raise ValueError(f"{name} has {num} examples for its {least} {what}.")


def _centers(fits):
    return np.concatenate([fit.cluster_centers_ for fit in fits]).astype(np.float32)


def _join(parts, shares, kind):
    covariances = [np.asarray(part.covariances) for part in parts]
    if kind == "tied":
        kind = "full"
        covariances = [
            np.repeat(covariance[None], part.num_components, axis=0)
            for covariance, part in zip(covariances, parts, strict=True)
        ]
    weights = np.concatenate(
        [share * np.asarray(part.weights) for share, part in zip(shares, parts, strict=True)]
    )
    return mixture.GaussianMixture.create(
        weights / weights.sum(),
        np.concatenate([np.asarray(part.means) for part in parts]),
        np.concatenate(covariances),
        kind,
    )
