"""To and from scikit-learn."""

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture as SklearnMixture

from gmm_diffusion import mixture
from gmm_diffusion.mixture import KINDS, GaussianMixture


@pytest.mark.parametrize("kind", KINDS)
def test_import_keeps_the_fitted_density(kind):
    x = np.random.default_rng(0).normal(size=(200, 3)) @ np.diag([1, 2, 0.3])
    model = SklearnMixture(3, covariance_type=kind, random_state=0, max_iter=5, tol=1e-2).fit(x)
    mix = mixture.from_sklearn(model)
    np.testing.assert_allclose(
        mixture.log_prob(mix, x), model.score_samples(x), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(mixture.responsibilities(mix, x), model.predict_proba(x), atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_export_gives_a_working_model(kind, oracle):
    weights, means, covariances = oracle.arrays(kind, 3, 4)
    matrices = oracle.matrices(covariances, kind, 3, 4)
    model = mixture.to_sklearn(GaussianMixture.create(weights, means, covariances, kind))
    x = np.random.default_rng(0).normal(size=(50, 4)) * 3
    expected = oracle.log_prob(weights, means, matrices, x)
    np.testing.assert_allclose(model.score_samples(x), expected, rtol=1e-4)
    np.testing.assert_allclose(
        model.predict_proba(x), oracle.responsibilities(weights, means, matrices, x), atol=1e-3
    )
    np.testing.assert_allclose(model.covariances_, covariances, rtol=1e-4, atol=1e-5)
    assert model.sample(5)[0].shape == (5, 4)
    assert np.isfinite(model.bic(x))
    again = mixture.from_sklearn(model)
    np.testing.assert_allclose(again.means, means, rtol=1e-6)


def test_a_model_without_a_fit_is_named():
    with pytest.raises(ValueError, match="GaussianMixture without a fit"):
        mixture.from_sklearn(SklearnMixture(2))
