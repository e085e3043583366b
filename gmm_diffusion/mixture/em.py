"""Expectation maximisation for a Gaussian mixture (Dempster, Laird & Rubin 1977)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture.blocks import split
from gmm_diffusion.mixture.checks import (
    check_data,
    check_enough_points,
    check_finite,
    check_settings,
)
from gmm_diffusion.mixture.em_loop import Iterated, iterate
from gmm_diffusion.mixture.gaussian_mixture import GaussianMixture
from gmm_diffusion.mixture.standardise import Standardiser, measure
from gmm_diffusion.mixture.starts import make_start, subsample_size
from gmm_diffusion.types import AnyArray, Array

# The history's length is rounded up to this, so that another limit compiles nothing anew.
_HISTORY_STEP = 256


@struct.dataclass
class FitResult:
    """A fitted mixture and how the fit went.

    Attributes:
      mixture: in the units of the data.
      log_likelihood: mean over points of `log_prob` under `mixture`.
      num_iterations: updates made.
      converged: whether the last change of the mean log-likelihood was below the tolerance.
      history: `[num_iterations + 1]`, mean log-likelihood at the start and after each update.
      num_reseeded: how many times an empty component was re-seeded.
    """

    mixture: GaussianMixture
    log_likelihood: float
    num_iterations: int
    converged: bool
    history: np.ndarray
    num_reseeded: int = 0


def fit_em(
    key: Array,
    x: AnyArray,
    num_components: int,
    kind: str = "diag",
    *,
    start: str | GaussianMixture = "k-means++",
    num_restarts: int = 1,
    max_iterations: int = 200,
    tolerance: float = 1e-4,
    covariance_floor: float = 1e-6,
    sample_weights: AnyArray | None = None,
    allow_degenerate: bool = False,
) -> FitResult:
    """Fits a mixture by maximum likelihood; runs on the host, with the iterations in one `jit`.

    Data are standardised in float64 before and the mixture is mapped back in float64 after, so
    that float32 does not limit data far from the origin. Deterministic given `key`.

    Args:
      key: a typed key.
      x: `[N, D]` finite points, `N >= num_components`.
      num_components: K >= 1.
      kind: covariance kind, "full", "tied", "diag" or "spherical".
      start: "k-means++", "random" (points of the data as means), or a mixture to start from.
      num_restarts: fits from different starts, of which the likeliest is returned.
      max_iterations: updates at most, >= 1.
      tolerance: the fit has converged when the mean log-likelihood changes by less, >= 0.
      covariance_floor: added to every covariance's diagonal, as a fraction (> 0) of the variance
        of the data in that dimension (the mean variance for "spherical" and for a constant
        dimension).
      sample_weights: `[N]`, not negative, at least K of them positive; a weight of 2 is the same
        as having the point twice.
      allow_degenerate: accept constant dimensions and fewer points than components; the floor
        then keeps the likelihood finite.

    Raises:
      InputError: an argument is not as above.
      FloatingPointError: the fit left the finite numbers, with the component that did.
    """
    x, sample_weights = check_data(x, sample_weights)
    check_settings(
        num_components, kind, start, num_restarts, max_iterations, tolerance, covariance_floor
    )
    effective = len(x) if sample_weights is None else int((sample_weights > 0).sum())
    check_enough_points(effective, num_components, allow_degenerate)
    transform = measure([(x, sample_weights)], kind, allow_degenerate)
    z = transform.forward(x)
    starts = _starts(key, z, sample_weights, num_components, kind, start, num_restarts, transform)
    mean_weights = None if sample_weights is None else sample_weights / sample_weights.mean()
    points, point_weights = split(z, mean_weights, num_components)
    fits = _fit(
        starts,
        points,
        point_weights,
        key,
        covariance_floor,
        tolerance,
        max_iterations,
        history_size=-(-(max_iterations + 1) // _HISTORY_STEP) * _HISTORY_STEP,
    )
    # On the host, where nothing is compiled to pick one.
    fits = jax.device_get(fits)
    ends = np.asarray(fits.num_iterations)[:, None]
    last = np.take_along_axis(np.asarray(fits.history), ends, axis=1)[:, 0]
    best = int(np.argmax(np.where(np.isfinite(last), last, -np.inf)))
    return finish(jax.tree.map(lambda a: a[best], fits), transform)


@functools.partial(jax.jit, static_argnames="history_size")
def _fit(starts, points, point_weights, key, floor, tolerance, max_iterations, *, history_size):
    return jax.lax.map(
        lambda start: iterate(
            start,
            points,
            point_weights,
            key,
            floor,
            tolerance,
            max_iterations,
            history_size=history_size,
        ),
        starts,
    )


def finish(found: Iterated, transform: Standardiser) -> FitResult:
    """The result of a fit, on the host and in the units of the data."""
    check_finite(found.params)
    steps = int(found.num_iterations)
    curve = np.asarray(found.history, np.float64)[: steps + 1] + transform.log_density_offset
    return FitResult(
        mixture=transform.backward(found.params),
        log_likelihood=curve[-1].item(),
        num_iterations=steps,
        converged=bool(found.converged),
        history=curve,
        num_reseeded=int(found.num_reseeded),
    )


def _starts(key, z, sample_weights, num_components, kind, start, num_restarts, transform):
    """Parameters with a leading axis over restarts."""
    if isinstance(start, GaussianMixture):
        if (start.num_components, start.dim, start.kind) != (num_components, z.shape[1], kind):
            raise InputError(
                f"start is a {start.kind!r} mixture with K={start.num_components} and "
                f"D={start.dim}; valid here is {kind!r} with K={num_components} and D={z.shape[1]}."
            )
        params = transform.parameters(start)
        return jax.tree.map(lambda a: jnp.stack([a] * num_restarts), params)
    size = subsample_size(z.shape[0], num_components)
    made = []
    for restart in range(num_restarts):
        choose_key, start_key = _restart_keys(key, restart)
        index = choose_points(choose_key, z.shape[0], size, sample_weights)
        made.append(make_start(start_key, jnp.asarray(z[index]), num_components, kind, start))
    return jax.tree.map(lambda *a: jnp.asarray(np.stack(a)), *jax.device_get(made))


@jax.jit
def _restart_keys(key, restart):
    """For the points that a start looks at, and for the start."""
    return tuple(jax.random.split(jax.random.fold_in(key, restart)))


def choose_points(
    key: Array, num_points: int, size: int, sample_weights: AnyArray | None
) -> np.ndarray:
    """Indices `[<= size]` of distinct points, none of weight 0, as likely as they are heavy."""
    if sample_weights is None:
        if size == num_points:
            return np.arange(num_points)
        return np.sort(jax.random.permutation(key, num_points)[:size])
    size = min(size, int((sample_weights > 0).sum()))
    with np.errstate(divide="ignore"):
        scores = np.log(sample_weights) + np.asarray(jax.random.gumbel(key, (num_points,)))
    return np.sort(np.argpartition(-scores, size - 1)[:size])
