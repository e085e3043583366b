"""How stable a training was, read from its curves, and what a grid of rates says of a loss."""

import dataclasses

import numpy as np

from gmm_diffusion.experiments.many_classifiers import Curves

# A loss spikes where it is over this many times the median of this many losses before it.
SPIKE, WINDOW = 3.0, 50
# Below this share of the first loss nothing counts as a spike: near 0 any batch is one.
_FLOOR = 0.01


@dataclasses.dataclass(frozen=True)
class Measures:
    """One value for each of R runs.

    Attributes:
      diverged: bool; a loss or gradient that is not finite, or a final accuracy below twice chance.
      spikes: share of the steps.
      variation: coefficient of variation of the gradient's norm over the steps.
      largest: of the gradient's norm, divided by the run's median.
      raw_mean: of the gradient's norm.
      raw_largest: of the gradient's norm.
      accuracy: on held-out data.
    """

    diverged: np.ndarray
    spikes: np.ndarray
    variation: np.ndarray
    largest: np.ndarray
    raw_mean: np.ndarray
    raw_largest: np.ndarray
    accuracy: np.ndarray


def measure(curves: Curves, chance: float) -> Measures:
    """The measures of every run; those of a gradient are NaN where it was not finite or vanished.

    Args:
      curves: of runs R.
      chance: accuracy of guessing.
    """
    norms = np.asarray(curves.gradient_norm, np.float64)
    finite = np.isfinite(curves.loss).all(axis=1) & np.isfinite(norms).all(axis=1)
    with np.errstate(all="ignore"):
        mean, median = norms.mean(axis=1), np.median(norms, axis=1)
        usable = finite & (median > 0)
        return Measures(
            diverged=~finite | (curves.accuracy < 2 * chance),
            spikes=np.array([_spikes(loss) for loss in curves.loss]),
            variation=np.where(usable, norms.std(axis=1) / mean, np.nan),
            largest=np.where(usable, norms.max(axis=1) / median, np.nan),
            raw_mean=np.where(usable, mean, np.nan),
            raw_largest=np.where(usable, norms.max(axis=1), np.nan),
            accuracy=np.asarray(curves.accuracy, np.float64),
        )


def _spikes(loss: np.ndarray) -> float:
    """Share of steps T whose loss is over `SPIKE` times the running median of those before."""
    loss = np.asarray(loss, np.float64)
    count = 0
    for t in range(1, len(loss)):
        median = np.median(loss[max(0, t - WINDOW) : t])
        count += loss[t] > SPIKE * max(median, _FLOOR * loss[0])
    return count / max(len(loss) - 1, 1)


def best_rate(rates: np.ndarray, accuracy: np.ndarray) -> float:
    """The rate of the best mean accuracy: `rates [M]`, `accuracy [seeds, M]`."""
    return float(np.asarray(rates)[accuracy.mean(axis=0).argmax()])


def width_of_range(rates: np.ndarray, accuracy: np.ndarray, share: float = 0.95) -> np.ndarray:
    """How many powers of ten of rates reach a share of the best accuracy, seed by seed.

    The range holds the best rate and has no gap. Each rate stands for its cell of the grid, so a
    single one counts as one step.

    Args:
      rates: `[M]`, evenly spaced logarithms.
      accuracy: `[seeds, M]`.
      share: of the best mean accuracy.

    Returns:
      `[seeds]`.
    """
    means = accuracy.mean(axis=0)
    good = accuracy >= share * means.max()
    step = np.log10(rates[1] / rates[0])
    widths = []
    for row in good:
        low = high = means.argmax()
        while low > 0 and row[low - 1]:
            low -= 1
        while high + 1 < len(row) and row[high + 1]:
            high += 1
        widths.append((high - low + 1) * step if row[means.argmax()] else 0.0)
    return np.array(widths)
