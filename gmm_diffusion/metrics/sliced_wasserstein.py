"""Distance between two sets of points by their projections on lines."""

import numpy as np

from gmm_diffusion.errors import InputError


def distance(
    samples: np.ndarray, reference: np.ndarray, num_directions: int = 256, seed: int = 0
) -> float:
    """Sliced Wasserstein-1 distance: the mean over random directions of the W1 of projections.

    Bonneel et al. 2015 (doi 10.1007/s10851-014-0506-3); in one dimension W1 is the mean distance
    between order statistics.

    Args:
      samples: `[N, D]`.
      reference: `[M, D]`; where M is not N, the larger set's order statistics are interpolated.
      num_directions: unit vectors, evenly spread in the plane and random in more dimensions.
      seed: of the directions.

    Returns:
      In the units of the data.

    Raises:
      InputError: other shapes, an empty set, or values that are not finite.
    """
    sets = {"samples": np.asarray(samples), "reference": np.asarray(reference)}
    for name, x in sets.items():
        if x.ndim != 2 or 0 in x.shape or x.shape[1] != sets["samples"].shape[1]:
            raise InputError(f"{name} has shape {x.shape}; valid is [N, D], D the same for both.")
        if not np.isfinite(x).all():
            raise InputError(f"{name} holds a value that is not finite; valid are finite numbers.")
    dim = sets["samples"].shape[1]
    if dim == 2:
        angle = np.pi * (np.arange(num_directions) + 0.5) / num_directions
        directions = np.stack([np.cos(angle), np.sin(angle)])
    else:
        directions = np.random.default_rng(seed).standard_normal((dim, num_directions))
        directions /= np.linalg.norm(directions, axis=0)
    ours, theirs = (np.sort(x.astype(np.float64) @ directions, axis=0) for x in sets.values())
    if len(ours) != len(theirs):
        num = max(len(ours), len(theirs))
        ours, theirs = _quantiles(ours, num), _quantiles(theirs, num)
    return float(np.mean(np.abs(ours - theirs)))


def _quantiles(ordered: np.ndarray, num: int) -> np.ndarray:
    """`[N, P]` order statistics -> `[num, P]` quantiles at the middles of `num` equal shares."""
    if len(ordered) == num:
        return ordered
    place = (np.arange(num) + 0.5) / num * len(ordered) - 0.5
    own = np.arange(len(ordered))
    return np.stack([np.interp(place, own, column) for column in ordered.T], axis=1)
