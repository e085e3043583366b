"""EM from one start: iterations in a `while_loop`, each a pass over blocks of points."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gmm_diffusion.mixture.blocks import merge
from gmm_diffusion.mixture.em_steps import (
    Parameters,
    Statistics,
    expanded_statistics,
    statistics,
    update,
    whiten,
    zero_statistics,
)
from gmm_diffusion.mixture.whitened import by_accuracy
from gmm_diffusion.types import AnyArray, Array, Numbers


class Iterated(NamedTuple):
    """Where EM from one start ended.

    Attributes:
      params: in standardised coordinates.
      history: `[history_size]` mean log-likelihoods, the first one that of the start.
      num_iterations: `[]`; what stands behind so many entries of `history` is infinite.
      converged: `[]` bool.
      num_reseeded: `[]`, components that had become empty.
    """

    params: Parameters
    history: AnyArray | Sequence[float]
    num_iterations: AnyArray | int
    converged: AnyArray | bool
    num_reseeded: AnyArray | int


def iterate(
    start: Parameters,
    points: Array,
    point_weights: Array,
    key: Array,
    floor: Numbers,
    tolerance: Numbers,
    max_iterations: Numbers,
    *,
    history_size: int,
    axis_name: str | None = None,
) -> Iterated:
    """EM from one start: pure, for use under `jit`, `vmap` and `pmap`.

    Args:
      start: parameters in standardised coordinates.
      points: `[B, N, D]`, B blocks of N points, as `split` makes them.
      point_weights: `[B, N]`; 0 for padding.
      key: for re-seeded components; the same on every device.
      floor: `[]`, added to the covariances' diagonals.
      tolerance: `[]`, on the mean log-likelihood.
      max_iterations: `[]`, fewer than `history_size`.
      history_size: length of the returned history (static).
      axis_name: mapped axis over which statistics are summed, each device holding a share of the
        points.
    """

    def all_statistics(params):
        total = data_statistics(params, points, point_weights)
        return total if axis_name is None else jax.lax.psum(total, axis_name)

    def proceed(carry):
        _, stats, _, step, change, _ = carry
        return (step < max_iterations) & ~(change < tolerance) & jnp.isfinite(stats.log_likelihood)

    def advance(carry):
        params, stats, history, step, _, reseeded = carry
        params, num_empty = update(params, stats, floor, jax.random.fold_in(key, step))
        stats = all_statistics(params)
        mean = stats.log_likelihood / stats.total
        change = jnp.where(num_empty > 0, jnp.inf, jnp.abs(mean - history[step]))
        history = history.at[step + 1].set(mean)
        return params, stats, history, step + 1, change, reseeded + num_empty

    stats = all_statistics(start)
    # Not NaN, which `jax_debug_nans` would take for a fault.
    history = jnp.full(history_size, jnp.inf, start.means.dtype)
    history = history.at[0].set(stats.log_likelihood / stats.total)
    infinite = jnp.asarray(jnp.inf, start.means.dtype)
    carry = (start, stats, history, jnp.int32(0), infinite, jnp.int32(0))
    params, _, history, step, change, reseeded = jax.lax.while_loop(proceed, advance, carry)
    return Iterated(params, history, step, change < tolerance, reseeded)


def data_statistics(params: Parameters, points: Array, point_weights: Array) -> Statistics:
    """Statistics of all points, `[B, N, D]` with weights `[B, N]`."""
    w = whiten(params)

    def total(fn, points, point_weights):
        def add(sums, block):
            return jax.tree.map(jnp.add, sums, fn(w, *block)), None

        return jax.lax.scan(add, zero_statistics(params), (points, point_weights))[0]

    if params.kind == "full":
        return total(statistics, points, point_weights)
    merged = merge(points, point_weights, params.means.shape[0])
    return by_accuracy(
        w,
        lambda apart: total(functools.partial(expanded_statistics, apart=apart), *merged),
        lambda: total(statistics, points, point_weights),
    )
