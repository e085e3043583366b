"""Random mixtures in float64 NumPy, and their densities by SciPy: the oracles of this folder."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp


def _arrays(kind, num_components, dim, seed=0, spread=3.0, condition=30.0):
    """Weights, means and covariances in scikit-learn's shapes, float64."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(num_components, 3.0))
    means = spread * rng.normal(size=(num_components, dim))

    def full():
        basis, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
        eigenvalues = np.geomspace(1.0, 1.0 / condition, dim)
        return (basis * eigenvalues) @ basis.T

    covariances = {
        "full": lambda: np.stack([full() for _ in range(num_components)]),
        "tied": full,
        "diag": lambda: rng.uniform(0.1, 1.5, size=(num_components, dim)),
        "spherical": lambda: rng.uniform(0.1, 1.5, size=num_components),
    }[kind]()
    return weights, means, covariances


def _matrices(covariances, kind, num_components, dim):
    """`[K, D, D]` whatever the kind."""
    return {
        "full": lambda: covariances,
        "tied": lambda: np.stack([covariances] * num_components),
        "diag": lambda: np.stack([np.diag(c) for c in covariances]),
        "spherical": lambda: np.stack([c * np.eye(dim) for c in covariances]),
    }[kind]()


def _log_joint(weights, means, matrices, x):
    """SciPy, float64: `log w_k + log N(x; mu_k, C_k)`, `[N, K]`."""
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights)
    columns = [
        stats.multivariate_normal(m, c, allow_singular=False).logpdf(x).reshape(len(x))
        for m, c in zip(means, matrices, strict=True)
    ]
    return log_weights + np.stack(columns, axis=1)


class Oracle:
    arrays = staticmethod(_arrays)
    matrices = staticmethod(_matrices)
    log_joint = staticmethod(_log_joint)

    @staticmethod
    def log_prob(weights, means, matrices, x):
        return logsumexp(_log_joint(weights, means, matrices, x), axis=1)

    @staticmethod
    def responsibilities(weights, means, matrices, x):
        joint = _log_joint(weights, means, matrices, x)
        return np.exp(joint - logsumexp(joint, axis=1, keepdims=True))


@pytest.fixture(scope="session")
def oracle():
    return Oracle
