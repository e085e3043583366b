"""How stable a training was, read from its curves, and what a grid of rates says of a loss."""

import dataclasses

import numpy as np

from experiments.many_classifiers import Curves

# Losses and gradients are held against the median of this many before them: about one pass over
# the digits, short beside the fall of either over a training.
WINDOW = 25
# A loss spikes where it is over this many times that median.
SPIKE = 3.0
# Below this share of the first loss nothing counts as a spike: near 0 any batch is one.
_FLOOR = 0.01


@dataclasses.dataclass(frozen=True)
class Measures:
    """One value for each of R runs.

    Attributes:
      diverged: bool; a loss or gradient that is not finite, or a final accuracy below twice chance.
      spikes: share of the steps.
      variation: coefficient of variation over the steps of the gradient's norm, divided by its
        running median.
      largest: of the gradient's norm, divided by its running median.
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

    A loss that is fitted to nothing takes its gradient along, so a median over the whole run would
    say how far training came, not how steady it was.

    Args:
      curves: of runs R.
      chance: accuracy of guessing.
    """
    losses = np.asarray(curves.loss, np.float64)
    norms = np.asarray(curves.gradient_norm, np.float64)
    finite = np.isfinite(losses).all(axis=1) & np.isfinite(norms).all(axis=1)
    with np.errstate(all="ignore"):
        usual = running_median(norms)
        relative = norms[:, 1:] / usual
        usable = finite & (usual > 0).all(axis=1)
        least = np.maximum(running_median(losses), _FLOOR * losses[:, :1])
        return Measures(
            diverged=~finite | (curves.accuracy < 2 * chance),
            spikes=np.where(finite, (losses[:, 1:] > SPIKE * least).mean(axis=1), np.nan),
            variation=np.where(usable, relative.std(axis=1) / relative.mean(axis=1), np.nan),
            largest=np.where(usable, relative.max(axis=1), np.nan),
            raw_mean=np.where(usable, norms.mean(axis=1), np.nan),
            raw_largest=np.where(usable, norms.max(axis=1), np.nan),
            accuracy=np.asarray(curves.accuracy, np.float64),
        )


def running_median(values: np.ndarray) -> np.ndarray:
    """Of the up to `WINDOW` values before each step: `[R, T] -> [R, T - 1]`, from the second on."""
    columns = (values[:, max(0, t - WINDOW) : t] for t in range(1, values.shape[1]))
    return np.stack([np.median(before, axis=1) for before in columns], axis=1)


def shared_multiples(*diverged: np.ndarray) -> np.ndarray:
    """Where no seed of any loss diverged, so that means of all are over the same rates.

    Args:
      *diverged: bool `[seeds, M]`, one a loss.

    Returns:
      `[M]`, bool.
    """
    return ~np.concatenate(diverged).any(axis=0)


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
