"""From data to the feature space in which the mixture lives.

A feature is linear here: centre, project, scale to unit standard deviation. The constants are
fitted on the training split only and stored with the checkpoint.
"""

import jax.numpy as jnp
import numpy as np
from flax import struct
from sklearn.decomposition import PCA

from gmm_diffusion.types import Array


@struct.dataclass
class FeatureTransform:
    """Constants of `features`.

    Attributes:
      mean: `[P]` of the flattened training data.
      directions: `[P, D]` orthonormal columns, or None for the data's own coordinates (D = P).
      scale: `[D]`, one over the standard deviation of each feature.
    """

    mean: Array
    scale: Array
    directions: Array | None = None


def features(transform: FeatureTransform, x: Array) -> Array:
    """`x [B, ...] -> [B, D]` standardised features."""
    flat = x.reshape(x.shape[0], -1) - transform.mean[None]
    if transform.directions is not None:
        flat = flat @ transform.directions
    return flat * transform.scale[None]


def fit_raw(x: np.ndarray, dim: int | None = None) -> FeatureTransform:
    """The data's own coordinates `x [N, ...]`, standardised; constant coordinates stay at 0."""
    del dim
    flat = np.asarray(x, np.float64).reshape(len(x), -1)
    return FeatureTransform(
        mean=jnp.asarray(flat.mean(axis=0), jnp.float32), scale=_inverse_std(flat)
    )


def fit_pca(x: np.ndarray, dim: int) -> FeatureTransform:
    """The `dim` leading principal components of `x [N, ...]`, each scaled to unit variance.

    Raises:
      ValueError: if there are fewer points or coordinates than `dim`.
    """
    flat = np.asarray(x, np.float32).reshape(len(x), -1)
    if not 1 <= dim <= min(flat.shape):
        raise ValueError(
            f"The number of principal components is {dim}; with {flat.shape[0]} examples of "
            f"{flat.shape[1]} coordinates it must be from 1 to {min(flat.shape)}."
        )
    pca = PCA(dim, random_state=0).fit(flat)
    directions = pca.components_.T
    return FeatureTransform(
        mean=jnp.asarray(pca.mean_, jnp.float32),
        directions=jnp.asarray(directions, jnp.float32),
        scale=_inverse_std((flat - pca.mean_) @ directions),
    )


def _inverse_std(flat: np.ndarray) -> Array:
    std = flat.std(axis=0, dtype=np.float64)
    constant = std <= 1e-6 * max(std.max(), np.finfo(np.float64).tiny)
    return jnp.asarray(np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, std)), jnp.float32)


FEATURES = {"pca": fit_pca, "raw": fit_raw}
