"""Mixtures to and from scikit-learn's fitted `GaussianMixture`."""

from typing import Any

import numpy as np

from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture.gaussian_mixture import GaussianMixture


def from_sklearn(model: Any) -> GaussianMixture:
    """The mixture of a fitted `sklearn.mixture.GaussianMixture`.

    Raises:
      InputError: the model has not been fitted, or holds values that are no mixture.
    """
    if not hasattr(model, "covariances_"):
        raise InputError(f"model is a {type(model).__name__} without a fit; valid is a fitted one.")
    return GaussianMixture.create(
        model.weights_, model.means_, model.covariances_, model.covariance_type
    )


def to_sklearn(mix: GaussianMixture) -> Any:
    """A fitted `sklearn.mixture.GaussianMixture` in float64, ready to predict, score and sample."""
    from sklearn.mixture import GaussianMixture as SklearnMixture

    model = SklearnMixture(mix.num_components, covariance_type=mix.kind)
    weights = np.asarray(mix.weights, np.float64)
    model.weights_ = weights / weights.sum()
    model.means_ = np.asarray(mix.means, np.float64)
    variances = np.asarray(mix.variances, np.float64)
    if mix.basis is None:
        model.covariances_ = variances
        model.precisions_cholesky_ = 1 / np.sqrt(variances)
        model.precisions_ = 1 / variances
    else:
        basis = np.asarray(mix.basis, np.float64)
        transposed = np.swapaxes(basis, -1, -2)
        model.covariances_ = (basis * variances[..., None, :]) @ transposed
        model.precisions_ = (basis / variances[..., None, :]) @ transposed
        # scikit-learn multiplies points by this from the right; any root of the precision serves,
        # but it reads the determinant from the diagonal of a triangular one.
        root = np.linalg.cholesky(model.precisions_[..., ::-1, ::-1])[..., ::-1, ::-1]
        model.precisions_cholesky_ = root
    model.n_features_in_ = mix.dim
    model.converged_, model.n_iter_, model.lower_bound_ = True, 0, np.nan
    return model
