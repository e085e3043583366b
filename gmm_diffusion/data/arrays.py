"""Arrays that are there already, as a dataset."""

import numpy as np

from gmm_diffusion.data.dataset import Dataset, Split, split_indices
from gmm_diffusion.errors import InputError


def from_arrays(
    x: np.ndarray,
    label: np.ndarray | None = None,
    heldout_fraction: float = 0.2,
    seed: int = 0,
    name: str = "arrays",
) -> Dataset:
    """Images or vectors, of which a share is held out.

    Args:
      x: `[N, H, W, C]` uint8 images or `[N, D]` floats, which become float32.
      label: `[N]` integers from 0, or None.
      heldout_fraction: share held out of every class, in (0, 1).
      seed: non-negative; which examples are held out.
      name: for messages.

    Raises:
      InputError: arrays of another shape or type, values that are not finite, labels that do not
        match, or a fraction outside (0, 1).
    """
    x = np.asarray(x)
    if np.issubdtype(x.dtype, np.floating):
        x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise InputError(f"{name} holds a value that is not finite; valid are numbers.")
    num_classes = 0
    if label is not None:
        label = np.asarray(label)
        if not (np.issubdtype(label.dtype, np.integer) and label.size and label.min() >= 0):
            raise InputError(f"labels of {name} must be integers from 0.")
        label, num_classes = label.astype(np.int32), int(label.max()) + 1
    whole = Split(x, label)
    train, heldout = split_indices(len(x), heldout_fraction, seed, label)
    return Dataset(
        name=f"{name} (heldout {heldout_fraction:g}, seed {seed})",
        train=whole.take(train),
        heldout=whole.take(heldout),
        num_classes=num_classes,
        class_names=tuple(map(str, range(num_classes))),
    )
