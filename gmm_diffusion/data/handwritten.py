"""Handwritten digits that come with scikit-learn: 1,797 real 8x8 images, no download."""

import numpy as np

from gmm_diffusion.data.dataset import Dataset, Split, split_indices


def digits(heldout_fraction: float = 0.2, split_seed: int = 0) -> Dataset:
    """The embedded default (UCI optical recognition of handwritten digits, Alpaydin & Kaynak 1998).

    Args:
      heldout_fraction: share held out of every class, in (0, 1).
      split_seed: which examples are held out.

    Returns:
      Images `[N, 8, 8, 1]` uint8, ten classes; 1,437 to train and 360 held out by default.

    Raises:
      InputError: a fraction outside (0, 1) or a negative seed.
    """
    # Here, since scikit-learn takes a second to import and the command line should answer sooner.
    from sklearn.datasets import load_digits

    images, label = load_digits(return_X_y=True)
    x = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    label = label.astype(np.int32)
    train, heldout = split_indices(len(x), heldout_fraction, split_seed, label)
    # Only what differs from the defaults, so that judges of earlier versions keep their name.
    other = (heldout_fraction, split_seed) != (0.2, 0)
    return Dataset(
        name=f"digits (heldout {heldout_fraction:g}, seed {split_seed})" if other else "digits",
        train=Split(x[train], label[train]),
        heldout=Split(x[heldout], label[heldout]),
        num_classes=10,
        class_names=tuple("0123456789"),
    )
