"""Expectation maximisation for a Gaussian mixture (Dempster, Laird & Rubin 1977)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture import em_steps
from gmm_diffusion.mixture.gaussian_mixture import GaussianMixture, covariance_shape
from gmm_diffusion.mixture.standardise import Standardiser, measure
from gmm_diffusion.mixture.starts import STARTS, make_start, subsample_size
from gmm_diffusion.types import Array

# Elements of the largest temporary of one block, [block, K, D].
_BLOCK_ELEMENTS = 2**22


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
    x: Array,
    num_components: int,
    kind: str = "diag",
    *,
    start: str | GaussianMixture = "k-means++",
    num_restarts: int = 1,
    max_iterations: int = 200,
    tolerance: float = 1e-4,
    covariance_floor: float = 1e-6,
    sample_weights: Array | None = None,
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
    effective = x.shape[0] if sample_weights is None else int((sample_weights > 0).sum())
    if effective < num_components and not allow_degenerate:
        counted = "" if sample_weights is None else " of positive weight"
        raise InputError(
            f"x has {effective} points{counted}; valid for num_components {num_components} is at "
            f"least as many, or allow_degenerate=True."
        )
    transform = measure([x], [sample_weights], kind, allow_degenerate)
    z = transform.forward(x)
    starts = _starts(key, z, sample_weights, num_components, kind, start, num_restarts, transform)
    blocks, block_weights = _split(z, sample_weights, num_components)
    run = jax.lax.map if num_restarts > 1 else _map_single
    params, history, steps, converged, reseeded = _fit(
        starts,
        blocks,
        block_weights,
        key,
        covariance_floor,
        tolerance,
        max_iterations=max_iterations,
        run=run,
    )
    last = np.take_along_axis(np.asarray(history), np.asarray(steps)[:, None], axis=1)[:, 0]
    best = int(np.argmax(np.where(np.isfinite(last), last, -np.inf)))
    params = jax.tree.map(lambda a: a[best], params)
    return finish(params, history[best], steps[best], converged[best], reseeded[best], transform)


def finish(params, history, steps, converged, reseeded, transform: Standardiser) -> FitResult:
    """The result of a fit, on the host and in the units of the data."""
    check_finite(params)
    curve = np.asarray(history, np.float64)[: int(steps) + 1] + transform.log_density_offset
    return FitResult(
        mixture=transform.backward(params),
        log_likelihood=curve[-1].item(),
        num_iterations=int(steps),
        converged=bool(converged),
        history=curve,
        num_reseeded=int(reseeded),
    )


def iterate(
    start: em_steps.Parameters,
    blocks: Array,
    block_weights: Array,
    key: Array,
    floor,
    tolerance,
    *,
    max_iterations: int,
    axis_name: str | None = None,
) -> tuple:
    """EM from one start: pure, for use under `jit`, `vmap` and `pmap`.

    Args:
      start: parameters in standardised coordinates.
      blocks: `[B, N, D]` points, B blocks that are visited one after the other.
      block_weights: `[B, N]` weights of points; 0 for padding.
      key: for re-seeded components; the same on every device.
      floor: `[]`, added to the covariances' diagonals.
      tolerance: `[]`, on the mean log-likelihood.
      max_iterations: static.
      axis_name: mapped axis over which statistics are summed, each device holding a share of the
        points.

    Returns:
      `(parameters, history [max_iterations + 1], num_iterations, converged, num_reseeded)`.
    """

    def all_statistics(params):
        def add(total, block):
            return jax.tree.map(jnp.add, total, em_steps.statistics(params, *block)), None

        if blocks.shape[0] == 1:
            total = em_steps.statistics(params, blocks[0], block_weights[0])
        else:
            total, _ = jax.lax.scan(add, em_steps.zero_statistics(params), (blocks, block_weights))
        return total if axis_name is None else jax.lax.psum(total, axis_name)

    def proceed(carry):
        _, stats, _, step, change, _ = carry
        return (step < max_iterations) & ~(change < tolerance) & jnp.isfinite(stats.log_likelihood)

    def advance(carry):
        params, stats, history, step, _, reseeded = carry
        params, num_empty = em_steps.update(params, stats, floor, jax.random.fold_in(key, step))
        stats = all_statistics(params)
        mean = stats.log_likelihood / stats.total
        change = jnp.where(num_empty > 0, jnp.inf, jnp.abs(mean - history[step]))
        history = history.at[step + 1].set(mean)
        return params, stats, history, step + 1, change, reseeded + num_empty

    stats = all_statistics(start)
    history = jnp.full(max_iterations + 1, jnp.nan, start.means.dtype)
    history = history.at[0].set(stats.log_likelihood / stats.total)
    infinite = jnp.asarray(jnp.inf, start.means.dtype)
    carry = (start, stats, history, jnp.int32(0), infinite, jnp.int32(0))
    params, _, history, step, change, reseeded = jax.lax.while_loop(proceed, advance, carry)
    return params, history, step, change < tolerance, reseeded


@functools.partial(jax.jit, static_argnames=("max_iterations", "run"))
def _fit(starts, blocks, block_weights, key, floor, tolerance, *, max_iterations, run):
    return run(
        lambda start: iterate(
            start, blocks, block_weights, key, floor, tolerance, max_iterations=max_iterations
        ),
        starts,
    )


def _map_single(fn, tree):
    """`lax.map` over an axis of length 1, outside a loop: XLA:CPU uses more threads there."""
    result = fn(jax.tree.map(lambda a: a[0], tree))
    return jax.tree.map(lambda a: a[None], result)


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
        choose_key, start_key = jax.random.split(jax.random.fold_in(key, restart))
        index = choose_points(choose_key, z.shape[0], size, sample_weights)
        made.append(make_start(start_key, jnp.asarray(z[index]), num_components, kind, start))
    return jax.tree.map(lambda *a: jnp.stack(a), *made)


def choose_points(key: Array, num_points: int, size: int, sample_weights) -> np.ndarray:
    """Indices `[<= size]` of distinct points, none of weight 0, as likely as they are heavy."""
    if sample_weights is None:
        if size == num_points:
            return np.arange(num_points)
        return np.sort(jax.random.permutation(key, num_points)[:size])
    size = min(size, int((sample_weights > 0).sum()))
    with np.errstate(divide="ignore"):
        scores = np.log(sample_weights) + np.asarray(jax.random.gumbel(key, (num_points,)))
    return np.sort(np.argpartition(-scores, size - 1)[:size])


def _split(z: np.ndarray, sample_weights, num_components: int) -> tuple[Array, Array]:
    """Points in blocks `[B, N, D]` and their weights with mean 1, zero for padding, `[B, N]`."""
    num_points, dim = z.shape
    most = max(1, _BLOCK_ELEMENTS // (num_components * dim))
    num_blocks = -(-num_points // most)
    size = -(-num_points // num_blocks)
    padding = num_blocks * size - num_points
    weights = np.ones(num_points) if sample_weights is None else sample_weights
    weights = np.pad(weights / weights.mean(), (0, padding)).reshape(num_blocks, size)
    blocks = np.pad(z, ((0, padding), (0, 0))).reshape(num_blocks, size, dim)
    return jnp.asarray(blocks), jnp.asarray(weights, z.dtype)


def check_data(x, sample_weights) -> tuple[np.ndarray, np.ndarray | None]:
    """Host arrays; raises InputError for a wrong shape or a value that is not finite."""
    x = np.asarray(x)
    if x.ndim != 2 or 0 in x.shape:
        raise InputError(f"x has shape {x.shape}; valid is [N, D] with N, D >= 1.")
    if not np.issubdtype(x.dtype, np.floating):
        x = x.astype(np.float32)
    if not np.isfinite(x.sum(dtype=np.float64)) and not np.isfinite(x).all():
        n, d = (int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise InputError(f"x[{n}, {d}] is {x[n, d]}; valid are finite numbers.")
    if sample_weights is not None:
        sample_weights = np.asarray(sample_weights, np.float64)
        if sample_weights.shape != x.shape[:1]:
            raise InputError(
                f"sample_weights has shape {sample_weights.shape}; valid is {x.shape[:1]}."
            )
        bad = ~(np.isfinite(sample_weights) & (sample_weights >= 0))
        if bad.any():
            n = int(np.argmax(bad))
            raise InputError(
                f"sample_weights[{n}] is {sample_weights[n]}; valid are finite numbers >= 0."
            )
        if not sample_weights.any():
            raise InputError("sample_weights are all 0; valid is at least one positive weight.")
    return x, sample_weights


def check_settings(
    num_components, kind, start, num_restarts, max_iterations, tolerance, covariance_floor
) -> None:
    """Raises InputError for a setting of `fit_em` out of range."""
    covariance_shape(kind, 1, 1)
    for name, value in (
        ("num_components", num_components),
        ("num_restarts", num_restarts),
        ("max_iterations", max_iterations),
    ):
        if not isinstance(value, int | np.integer) or value < 1:
            raise InputError(f"{name} is {value!r}; valid are whole numbers >= 1.")
    if not isinstance(start, GaussianMixture) and start not in STARTS:
        raise InputError(f"start is {start!r}; valid are {STARTS} or a GaussianMixture.")
    if not tolerance >= 0:
        raise InputError(f"tolerance is {tolerance!r}; valid are numbers >= 0.")
    if not 0 < covariance_floor < np.inf:
        raise InputError(f"covariance_floor is {covariance_floor!r}; valid are numbers > 0.")


def check_finite(params: em_steps.Parameters) -> None:
    """Raises FloatingPointError that names the first component that is not finite."""
    finite = np.isfinite(np.asarray(params.log_weights)) & np.isfinite(params.means).all(axis=1)
    root = np.isfinite(params.root)
    finite &= root.all() if params.kind == "tied" else root.reshape(len(finite), -1).all(axis=1)
    if not finite.all():
        k = int(np.argmin(finite))
        raise FloatingPointError(
            f"component {k} of {len(finite)} is not finite after the fit; a larger "
            "covariance_floor or fewer components may help."
        )
