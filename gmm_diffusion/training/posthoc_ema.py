"""Averages of any width, made after training from stored averages of a few widths.

Karras et al. 2023, arXiv 2312.02696, section 3.2, appendix C and algorithm 3. An average with
exponent gamma has at step t the profile

    p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1),    tau in [0, t],

and a sum of stored averages has the sum of their profiles. The coefficients are those of the
least-squares fit to the profile that is wanted, over their sum (ours): what does not change in
training must not change here, and the fit alone would shrink it where snapshots are too few. They
need no parameters, only steps and exponents.
"""

from collections.abc import Iterable, Sequence

import jax
import numpy as np

from gmm_diffusion.errors import InputError
from gmm_diffusion.types import PyTree


def coefficients(
    snapshot_steps: Sequence[int], snapshot_gammas: Sequence[float], step: int, gamma: float
) -> np.ndarray:
    """Coefficients of the stored averages in the one that is wanted, solved in float64.

    Args:
      snapshot_steps: `[M]` steps, from 1 to `step`, in any order.
      snapshot_gammas: `[M]` exponents; see `ema.gamma_from_width`.
      step: where the average is wanted.
      gamma: its exponent.

    Returns:
      `[M]` float64 that add to 1; exactly one-hot for an average that is among those stored.

    Raises:
      InputError: no snapshot, or one outside the steps from 1 to `step`.
    """
    steps = np.asarray(snapshot_steps, np.float64)
    gammas = np.asarray(snapshot_gammas, np.float64)
    if not steps.size or steps.min() < 1 or steps.max() > step:
        raise InputError(
            f"snapshot_steps is {sorted(snapshot_steps)}; it must hold steps from 1 to {step}."
        )
    stored = (steps == step) & (gammas == gamma)
    if stored.any():
        return np.eye(len(steps))[stored.argmax()]
    gram, wanted, _ = _products(steps, gammas, step, gamma)
    # Profiles of unit norm: norms fall with the square root of the step.
    scale = 1 / np.sqrt(np.diag(gram))
    # Neighbours among hundreds of snapshots are almost parallel.
    solution = np.linalg.lstsq(gram * np.outer(scale, scale), wanted * scale, rcond=1e-13)[0]
    found = solution * scale
    return found / found.sum()


def profile_error(
    coefficients: np.ndarray,
    snapshot_steps: Sequence[int],
    snapshot_gammas: Sequence[float],
    step: int,
    gamma: float,
) -> float:
    """Distance of the fitted profile from the wanted one over the norm of that, both in L2.

    Arguments as for `coefficients`. The float64 result is meaningful down to about 1e-7.
    """
    steps = np.asarray(snapshot_steps, np.float64)
    gammas = np.asarray(snapshot_gammas, np.float64)
    gram, wanted, norm = _products(steps, gammas, step, gamma)
    squared = norm - 2 * coefficients @ wanted + coefficients @ gram @ coefficients
    return float(np.sqrt(max(squared, 0.0) / norm))


def combine(coefficients: Sequence[float] | np.ndarray, trees: Iterable[PyTree]) -> PyTree:
    """The weighted sum of pytrees of arrays, added in float64, returned in float32.

    The trees are taken one by one, so an iterator that reads files keeps one of them in memory.

    Raises:
      ValueError: there are not as many trees as coefficients, or their structures differ.
    """
    total = None
    for coefficient, tree in zip(coefficients, trees, strict=True):
        terms = jax.tree.map(lambda x, c=coefficient: c * np.asarray(x, np.float64), tree)
        total = terms if total is None else jax.tree.map(np.add, total, terms)
    return jax.tree.map(lambda x: np.asarray(x, np.float32), total)


def _products(steps, gammas, step, gamma):
    """Inner products of the snapshots `[M, M]`, with the wanted profile `[M]`, and of that."""
    steps, gammas = np.append(steps, step), np.append(gammas, gamma)
    products = _inner(steps[:, None], gammas[:, None], steps, gammas)
    return products[:-1, :-1], products[:-1, -1], products[-1, -1]


def _inner(step_a, gamma_a, step_b, gamma_b):
    """`integral p_a p_b` in closed form, for arrays that broadcast (appendix C).

    Powers are of the ratio of the steps: `t^gamma` itself would overflow.
    """
    early, late = np.minimum(step_a, step_b), np.maximum(step_a, step_b)
    late_gamma = np.where(step_a < step_b, gamma_b, gamma_a)
    factor = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1)
    return factor * (early / late) ** late_gamma / late
