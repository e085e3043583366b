"""Information criteria against scikit-learn, and the choice of K on data that have one."""

import jax
import numpy as np
import pytest

from gmm_diffusion import mixture
from gmm_diffusion.mixture import KINDS, GaussianMixture


def _data(seed=0, num_points=240):
    rng = np.random.default_rng(seed)
    centers = np.array([[-5.0, 0.0], [5.0, 0.0], [0.0, 7.0]])
    return (centers[rng.integers(3, size=num_points)] + rng.normal(size=(num_points, 2))).astype(
        np.float32
    )


@pytest.mark.parametrize("kind", KINDS)
def test_criteria_are_those_of_sklearn(kind, oracle):
    x = _data()
    mix = GaussianMixture.create(*oracle.arrays(kind, 3, 2), kind)
    model = mixture.to_sklearn(mix)
    np.testing.assert_allclose(mixture.bic(mix, x), model.bic(x), rtol=1e-4)
    np.testing.assert_allclose(mixture.aic(mix, x), model.aic(x), rtol=1e-4)


def test_curve_finds_the_number_of_clusters():
    held_out = _data(1)
    curve = mixture.fit_curve(
        jax.random.key(0), _data(), [2, 3, 4], "spherical", held_out=held_out, num_restarts=2
    )
    assert curve.best("bic").mixture.num_components == 3
    assert curve.best("held_out").mixture.num_components >= 3
    assert curve.held_out[1] > curve.held_out[0] + 0.1
    likelihood = [fit.log_likelihood for fit in curve.fits]
    assert likelihood == sorted(likelihood)
    np.testing.assert_allclose(curve.held_out[1], mixture.to_sklearn(curve.fits[1].mixture)
                               .score(held_out), rtol=1e-4)  # fmt: skip


def test_adding_a_number_of_components_changes_no_other_fit():
    x = _data()
    alone = mixture.fit_curve(jax.random.key(0), x, [3], "diag", max_iterations=5)
    among = mixture.fit_curve(jax.random.key(0), x, [2, 3], "diag", max_iterations=5)
    np.testing.assert_array_equal(alone.fits[0].mixture.means, among.fits[1].mixture.means)


def test_bad_input_is_named():
    x = _data(num_points=20)
    with pytest.raises(ValueError, match="num_components is empty"):
        mixture.fit_curve(jax.random.key(0), x, [])
    with pytest.raises(ValueError, match="sample_weights is given"):
        mixture.fit_curve(jax.random.key(0), x, [2], sample_weights=np.ones(20))
    curve = mixture.fit_curve(jax.random.key(0), _data(), [3], max_iterations=1)
    with pytest.raises(ValueError, match="criterion is 'best'"):
        curve.best("best")
    with pytest.raises(ValueError, match="criterion is 'held_out'"):
        curve.best("held_out")
