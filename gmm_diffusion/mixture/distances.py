"""Distances between mixtures, for reports: mixture Wasserstein, and Monte-Carlo KL and JS."""

import jax
import jax.numpy as jnp
import numpy as np

from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture.density import log_prob
from gmm_diffusion.mixture.gaussian_mixture import GaussianMixture
from gmm_diffusion.mixture.transforms import sample
from gmm_diffusion.types import Array


def gaussian_wasserstein(a: GaussianMixture, b: GaussianMixture) -> np.ndarray:
    """2-Wasserstein distances between the components of two mixtures, in the units of the data.

    `W2^2 = |m - m'|^2 + tr(S + S' - 2 (S^1/2 S' S^1/2)^1/2)` (Dowson & Landau 1982), in float64 on
    the host.

    Returns:
      `[K, K']`.

    Raises:
      InputError: different dimensions.
    """
    if a.dim != b.dim:
        raise InputError(f"the mixtures have {a.dim} and {b.dim} dimensions; valid are equal ones.")
    squared = ((_host(a.means)[:, None, :] - _host(b.means)[None, :, :]) ** 2).sum(axis=-1)
    if a.basis is None and b.basis is None:
        roots = [np.sqrt(_host(mix.spectrum)) for mix in (a, b)]
        squared += ((roots[0][:, None, :] - roots[1][None, :, :]) ** 2).sum(axis=-1)
    else:
        # The nuclear norm of R' R'^T for any roots of the covariances; no root of a product.
        roots = [_roots(mix) for mix in (a, b)]
        for i, root in enumerate(roots[0]):
            cross = np.linalg.svd(root.T[None] @ roots[1], compute_uv=False).sum(axis=-1)
            squared[i] += (root**2).sum() + (roots[1] ** 2).sum(axis=(1, 2)) - 2 * cross
    return np.sqrt(np.maximum(squared, 0.0))


def mixture_wasserstein(a: GaussianMixture, b: GaussianMixture) -> tuple[float, np.ndarray]:
    """The distance MW2 of Delon & Desolneux (2020, proposition 4): optimal transport between
    mixtures through couplings that are themselves mixtures; not below W2.

    Returns:
      The distance in the units of the data, and the plan between components `[K, K']`, whose rows
      and columns sum to the weights.

    Raises:
      InputError: different dimensions.
    """
    from scipy.optimize import linprog
    from scipy.sparse import eye_array, kron, vstack

    cost = gaussian_wasserstein(a, b) ** 2
    rows, columns = cost.shape
    weights = [_host(mix.weights) for mix in (a, b)]
    weights = [w / w.sum() for w in weights]
    marginals = vstack(
        [
            kron(eye_array(rows), np.ones((1, columns))),
            kron(np.ones((1, rows)), eye_array(columns)),
        ]
    )
    # The last marginal follows from the others; left in, rounding may make them contradict.
    result = linprog(
        cost.ravel(),
        A_eq=marginals.tocsr()[:-1],
        b_eq=np.concatenate(weights)[:-1],
        bounds=(0, None),
    )
    if not result.success:
        raise RuntimeError(f"the transport problem was not solved: {result.message}")
    plan = result.x.reshape(rows, columns)
    return float(np.sqrt(max((plan * cost).sum(), 0.0))), plan


def kl_divergence(
    key: Array, p: GaussianMixture, q: GaussianMixture, num_points: int = 10_000
) -> tuple[float, float]:
    """Monte-Carlo estimate of `KL(p || q) = E_p[log p - log q]` in nats, unbiased.

    Returns:
      The estimate and its standard error.

    Raises:
      InputError: different dimensions, or fewer than 2 points.
    """
    _check(p, q, num_points)
    x = sample(p, key, num_points)
    return _mean(log_prob(p, x) - log_prob(q, x))


def js_divergence(
    key: Array, p: GaussianMixture, q: GaussianMixture, num_points: int = 10_000
) -> tuple[float, float]:
    """Monte-Carlo estimate of the Jensen-Shannon divergence in nats, between 0 and log 2.

    Half of `num_points` come from each mixture.

    Returns:
      The estimate and its standard error.

    Raises:
      InputError: different dimensions, or fewer than 4 points.
    """
    _check(p, q, num_points // 2)
    parts = []
    for k, (one, other) in zip(jax.random.split(key), ((p, q), (q, p)), strict=True):
        x = sample(one, k, num_points // 2)
        log_ratio = log_prob(other, x) - log_prob(one, x)
        parts.append(_mean(jnp.log(2.0) - jnp.logaddexp(0.0, log_ratio)))
    value = sum(part[0] for part in parts) / 2
    return value, float(np.hypot(parts[0][1], parts[1][1])) / 2


def _check(p: GaussianMixture, q: GaussianMixture, num_points: int) -> None:
    if p.dim != q.dim:
        raise InputError(f"the mixtures have {p.dim} and {q.dim} dimensions; valid are equal ones.")
    if num_points < 2:
        raise InputError(f"num_points gives {num_points} from a mixture; valid is at least 2.")


def _mean(values: Array) -> tuple[float, float]:
    host = _host(values)
    return float(host.mean()), float(host.std(ddof=1) / np.sqrt(len(host)))


def _host(a: Array) -> np.ndarray:
    return np.asarray(a, np.float64)


def _roots(mix: GaussianMixture) -> np.ndarray:
    """`R_k` with `R_k R_k' = Sigma_k`, `[K, D, D]` float64."""
    std = np.sqrt(_host(mix.spectrum))
    basis = np.eye(mix.dim)[None] if mix.basis is None else _host(mix.basis)
    return basis * std[:, None, :]
