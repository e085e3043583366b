"""EM over batches from an iterator, for data larger than memory: full passes, the same result."""

from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture.blocks import split
from gmm_diffusion.mixture.checks import check_data, check_dim, check_enough_points, check_settings
from gmm_diffusion.mixture.em import FitResult, choose_points, finish
from gmm_diffusion.mixture.em_loop import Iterated, data_statistics
from gmm_diffusion.mixture.em_steps import update
from gmm_diffusion.mixture.gaussian_mixture import GaussianMixture
from gmm_diffusion.mixture.standardise import measure
from gmm_diffusion.mixture.starts import make_start, subsample_size
from gmm_diffusion.types import Array

_statistics = jax.jit(data_statistics)
_update = jax.jit(update)


def fit_em_stream(
    key: Array,
    batches: Callable[[], Iterable] | Iterable,
    num_components: int,
    kind: str = "diag",
    *,
    start: str | GaussianMixture = "k-means++",
    max_iterations: int = 200,
    tolerance: float = 1e-4,
    covariance_floor: float = 1e-6,
    allow_degenerate: bool = False,
) -> FitResult:
    """`fit_em` for data that come in batches; every iteration is one pass over all of them.

    Two passes come first: one for the mean and the variance, one that collects the points of the
    start. The result is that of `fit_em` on the concatenated batches, up to rounding. Batches of
    one size are compiled once.

    Args:
      key: a typed key.
      batches: called (or iterated over, if it is not callable) once a pass; yields `[n, D]` points
        or pairs `([n, D], [n])` of points and their weights, the same in every pass.
      num_components, kind, start, max_iterations, tolerance, covariance_floor, allow_degenerate:
        as in `fit_em`.

    Raises:
      InputError: as `fit_em`; also an iterator that can be used only once, or a pass that is not
        like the first.
      FloatingPointError: as `fit_em`.
    """
    check_settings(num_components, kind, start, 1, max_iterations, tolerance, covariance_floor)
    if not callable(batches) and iter(batches) is batches:
        raise InputError(
            "batches is an iterator, which can be used only once; valid is a function that returns "
            "one, or a list."
        )
    sizes, dims, parts = [], [], []

    def first_pass():
        for i, (x, a) in enumerate(_pairs(batches)):
            x, a = check_data(x, a, f"batch {i} of x")
            dims.append(x.shape[1])
            check_dim(x, dims[0], f"batch {i} of x")
            sizes.append(len(x))
            parts.append(np.ones(len(x)) if a is None else a)
            yield x, parts[-1]

    transform = measure(first_pass(), kind, allow_degenerate)
    weights = np.concatenate(parts)
    check_enough_points(int((weights > 0).sum()), num_components, allow_degenerate)
    weights = weights / weights.mean()

    def one_pass() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        begin = 0
        for i, (x, _) in enumerate(_pairs(batches)):
            x = np.asarray(x)
            if i >= len(sizes) or x.shape != (sizes[i], len(transform.center)):
                expected = sizes[i] if i < len(sizes) else "no"
                raise InputError(
                    f"batch {i} has shape {x.shape} in a later pass; in the first it had "
                    f"{expected} points, and valid is the same in every pass."
                )
            yield transform.forward(x), weights[begin : begin + len(x)]
            begin += len(x)
        if begin != len(weights):
            raise InputError(
                f"batches has {begin} points in a later pass; the first had {len(weights)}, and "
                "valid is the same in every pass."
            )

    def all_statistics(params):
        total = None
        for z, a in one_pass():
            part = _statistics(params, *split(z, a, num_components))
            total = part if total is None else jax.tree.map(jnp.add, total, part)
        return total

    if isinstance(start, GaussianMixture):
        params = transform.parameters(start)
    else:
        points = _collect(key, one_pass(), weights, num_components)
        start_key = jax.random.split(jax.random.fold_in(key, 0))[1]
        params = make_start(start_key, points, num_components, kind, start)
    stats = all_statistics(params)
    history = [float(stats.log_likelihood / stats.total)]
    converged, num_reseeded = False, 0
    while len(history) <= max_iterations and not converged and np.isfinite(history[-1]):
        step_key = jax.random.fold_in(key, len(history) - 1)
        params, num_empty = _update(params, stats, covariance_floor, step_key)
        stats = all_statistics(params)
        history.append(float(stats.log_likelihood / stats.total))
        num_reseeded += int(num_empty)
        converged = num_empty == 0 and abs(history[-1] - history[-2]) < tolerance
    found = Iterated(params, history, len(history) - 1, converged, num_reseeded)
    return finish(found, transform)


def _pairs(batches) -> Iterator[tuple]:
    for batch in batches() if callable(batches) else batches:
        yield batch if isinstance(batch, tuple) else (batch, None)


def _collect(key, one_pass, weights: np.ndarray, num_components: int) -> Array:
    """The points that `fit_em` starts from."""
    uniform = (weights == 1).all()
    choose_key = jax.random.split(jax.random.fold_in(key, 0))[0]
    size = subsample_size(len(weights), num_components)
    index = choose_points(choose_key, len(weights), size, None if uniform else weights)
    found, begin = [], 0
    for z, _ in one_pass:
        inside = index[(index >= begin) & (index < begin + len(z))]
        found.append(z[inside - begin])
        begin += len(z)
    return jnp.asarray(np.concatenate(found))
