"""Whether samples are what was asked for, as read by a judge."""

import numpy as np
from scipy.special import ndtri

from gmm_diffusion.errors import InputError


def wilson_interval(
    hits: np.ndarray | int, count: np.ndarray | int, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Confidence interval of a share (Wilson 1927): inside [0, 1], and not a point at 0 or 1.

    Args:
      hits: `[...]`, at most `count`.
      count: `[...]`; 0 gives (0, 1).
      confidence: in (0, 1).

    Raises:
      InputError: a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; valid is a number between 0 and 1.")
    hits, count = np.asarray(hits, np.float64), np.asarray(count, np.float64)
    z2 = ndtri((1 + confidence) / 2) ** 2
    center = (hits + z2 / 2) / (count + z2)
    # The variance of the share times count^2, written so that count 0 divides nothing.
    spread = hits * (1 - hits / np.maximum(count, 1)) + z2 / 4
    half = np.sqrt(z2 * spread) / (count + z2)
    return np.clip(center - half, 0, 1), np.clip(center + half, 0, 1)


def agreement(
    requested: np.ndarray, predicted: np.ndarray, num_classes: int, confidence: float = 0.95
) -> dict:
    """Share of samples whose predicted class is the requested one, overall and per class.

    Args:
      requested: `[N]` int classes, from 0 to `num_classes - 1`.
      predicted: `[N]` int classes, by a judge that the model was not trained or guided with.
      num_classes: number of classes.
      confidence: of the Wilson intervals, in (0, 1).

    Returns:
      `{"agreement", "low", "high", "count"}` as numbers and `"per_class"`, a list with one dict of
      the same keys a requested class; `agreement` is None for a class that was never requested.

    Raises:
      InputError: shapes that differ, no samples, or a class out of range.
    """
    requested, predicted = np.asarray(requested), np.asarray(predicted)
    if requested.ndim != 1 or requested.shape != predicted.shape or len(requested) == 0:
        raise InputError(
            f"requested and predicted have shapes {requested.shape} and {predicted.shape}; valid "
            "are equal shapes [N] with N at least 1."
        )
    for name, label in (("requested", requested), ("predicted", predicted)):
        if label.min() < 0 or label.max() >= num_classes:
            raise InputError(
                f"{name} holds classes from {label.min()} to {label.max()}; valid are 0 to "
                f"{num_classes - 1}."
            )
    count = np.bincount(requested, minlength=num_classes)
    hits = np.bincount(requested[requested == predicted], minlength=num_classes)

    def row(hit: int, of: int) -> dict:
        low, high = wilson_interval(hit, of, confidence)
        return {
            "agreement": float(hit / of) if of else None,
            "low": float(low),
            "high": float(high),
            "count": int(of),
        }

    per_class = [row(h, c) for h, c in zip(hits, count, strict=True)]
    return {**row(hits.sum(), count.sum()), "per_class": per_class}


def attribute_agreement(requested: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """How far samples have the attributes that were asked for.

    Args:
      requested: `[N, A]` of 0 and 1.
      predicted: `[N, A]` of 0 and 1, by a judge that the model was not trained or guided with.

    Returns:
      `attribute_agreement`, the share of pairs of sample and attribute that are right, and
      `attribute_defects`, the share of samples with one wrong attribute at least.

    Raises:
      InputError: shapes that differ, or no samples.
    """
    if requested.ndim != 2 or requested.shape != predicted.shape or 0 in requested.shape:
        raise InputError(
            f"requested and predicted have shapes {requested.shape} and {predicted.shape}; valid "
            "are equal shapes [N, A] with N and A at least 1."
        )
    right = requested == predicted
    return {
        "attribute_agreement": float(right.mean()),
        "attribute_defects": float(1.0 - right.all(axis=1).mean()),
    }
