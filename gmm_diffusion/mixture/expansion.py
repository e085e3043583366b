"""A mixture of fixed, evenly spread components, of which only the weights are learned.

After Lu et al. (arXiv 2308.09444): with enough components of one small sigma the weights alone
describe a density, and one pass of EM's weight update already raises the likelihood. The problem is
concave in the weights, so that further passes reach its maximum; a bound says how far it is.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture.blocks import merge, split
from gmm_diffusion.mixture.checks import check_data
from gmm_diffusion.mixture.em import FitResult, finish
from gmm_diffusion.mixture.em_loop import Iterated
from gmm_diffusion.mixture.em_steps import Parameters, whiten
from gmm_diffusion.mixture.standardise import measure
from gmm_diffusion.mixture.whitened import (
    direct_log_joint,
    is_accurate,
    log_joint,
    posterior,
    white_coordinates,
)
from gmm_diffusion.types import AnyArray

# exp of more overflows float32; a component so much likelier than the mixture gains weight anyway.
_LARGEST_LOG_RATIO = 60.0


def fit_expansion(
    x: AnyArray,
    num_components: int | None = None,
    *,
    means: AnyArray | None = None,
    sigma: float | None = None,
    num_iterations: int = 10,
    tolerance: float = 0.0,
    sample_weights: AnyArray | None = None,
) -> FitResult:
    """Weights of fixed components by passes of `w_k <- mean_n r_k(x_n)` from equal weights.

    Each pass uses all points at the old weights, so the likelihood never falls. Runs on the host.

    Args:
      x: `[N, D]` finite points; one sigma for all dimensions wants them standardised.
      num_components: K, needed unless `means` are given.
      means: `[K, D]` fixed means; by default `even_means` of the data.
      sigma: their shared standard deviation > 0; by default the side of a cube whose volume is the
        K-th part of the data's bounding box.
      num_iterations: passes at most, >= 1.
      tolerance: stop when the mean log-likelihood is provably within this of its maximum over all
        weights; 0 makes every pass.
      sample_weights: `[N]`, not negative.

    Returns:
      A spherical mixture; `converged` means within `tolerance` of the maximum.

    Raises:
      InputError: an argument is not as above.
    """
    x, sample_weights = check_data(x, sample_weights)
    if not isinstance(num_iterations, int | np.integer) or num_iterations < 1:
        raise InputError(f"num_iterations is {num_iterations!r}; valid are whole numbers >= 1.")
    if means is None:
        means = even_means(x, num_components)
    means = np.asarray(means, np.float64)
    if means.ndim != 2 or means.shape[1] != x.shape[1] or not np.isfinite(means).all():
        raise InputError(
            f"means has shape {means.shape}; valid are finite numbers [K, {x.shape[1]}]."
        )
    if num_components not in (None, len(means)):
        raise InputError(
            f"num_components is {num_components}; valid for these means is {len(means)}."
        )
    if sigma is None:
        sides = np.ptp(x.astype(np.float64), axis=0)
        with np.errstate(divide="ignore"):
            sigma = np.exp((np.log(sides).sum() - np.log(len(means))) / len(sides))
    if not 0 < sigma < np.inf:
        raise InputError(
            f"sigma is {float(sigma)}; valid are numbers > 0 (also for constant data)."
        )
    transform = measure([(x, sample_weights)], "spherical", allow_degenerate=True)
    z = transform.forward(x)
    params = Parameters(
        log_weights=jnp.full(len(means), -np.log(len(means)), z.dtype),
        means=jnp.asarray((means - transform.center) / transform.scale, z.dtype),
        root=jnp.full(len(means), sigma / transform.scale[0], z.dtype),
        kind="spherical",
    )
    relative = None if sample_weights is None else sample_weights / sample_weights.mean()
    log_weights, history, step, gap = _learn_weights(
        params, *split(z, relative, len(means)), tolerance, num_iterations
    )
    params = dataclasses.replace(params, log_weights=log_weights)
    return finish(Iterated(params, history, step, gap <= tolerance, 0), transform)


def even_means(x: AnyArray, num_components: int | None) -> np.ndarray:
    """K points spread evenly over the data's bounding box, `[K, D]` float64.

    In one dimension the centres of K equal intervals; in more the additive recurrence with the
    generalised golden ratio (Roberts 2018), whose points stay apart for any K and D.

    Raises:
      InputError: `num_components` is not a whole number >= 1.
    """
    if not isinstance(num_components, int | np.integer) or num_components < 1:
        raise InputError(f"num_components is {num_components!r}; valid are whole numbers >= 1.")
    x = np.asarray(x, np.float64)
    dim = x.shape[1]
    if dim == 1:
        unit = (np.arange(num_components)[:, None] + 0.5) / num_components
    else:
        ratio = 2.0
        for _ in range(64):
            ratio = (1 + ratio) ** (1 / (dim + 1))
        steps = ratio ** -np.arange(1.0, dim + 1)
        unit = (0.5 + np.arange(1, num_components + 1)[:, None] * steps) % 1
    low, high = x.min(axis=0), x.max(axis=0)
    return low + (high - low) * unit


@functools.partial(jax.jit, static_argnames="num_iterations")
def _learn_weights(params, points, point_weights, tolerance, num_iterations):
    """Log weights `[K]`, history `[num_iterations + 1]`, passes made, bound on what is left."""
    fixed = whiten(params)
    fixed = dataclasses.replace(fixed, log_norm=fixed.log_norm - params.log_weights)
    total = jnp.sum(point_weights)

    def one_pass(log_weights):
        """Mean log-likelihood, and its gradient in the weights `mean_n p_k(x_n) / p(x_n)`."""

        def sums(joint_of, points, point_weights):
            def add(carry, block):
                joint = joint_of(block[0])
                _, log_prob = posterior(joint + log_weights[None, :], axis=1)
                ratio = jnp.exp(jnp.minimum(joint - log_prob[:, None], _LARGEST_LOG_RATIO))
                gradient = jnp.sum(ratio * block[1][:, None], axis=0)
                return (carry[0] + jnp.sum(log_prob * block[1]), carry[1] + gradient), None

            zero = (jnp.zeros((), points.dtype), jnp.zeros_like(log_weights))
            return jax.lax.scan(add, zero, (points, point_weights))[0]

        value, gradient = jax.lax.cond(
            is_accurate(fixed),
            lambda: sums(
                lambda x: log_joint(fixed, x),
                *merge(points, point_weights, params.means.shape[0]),
            ),
            lambda: sums(
                lambda x: direct_log_joint(fixed, white_coordinates(fixed, x)).T,
                points,
                point_weights,
            ),
        )
        return value / total, gradient / total

    def proceed(carry):
        _, gradient, _, step = carry
        # Concave: no weights are better than these by more than the largest gradient less one.
        return (step < num_iterations) & (jnp.max(gradient) - 1 > tolerance)

    def advance(carry):
        log_weights, gradient, history, step = carry
        log_weights = jax.nn.log_softmax(log_weights + jnp.log(gradient))
        value, gradient = one_pass(log_weights)
        return log_weights, gradient, history.at[step + 1].set(value), step + 1

    value, gradient = one_pass(params.log_weights)
    history = jnp.full(num_iterations + 1, jnp.inf, points.dtype).at[0].set(value)
    carry = (params.log_weights, gradient, history, jnp.int32(0))
    log_weights, gradient, history, step = jax.lax.while_loop(proceed, advance, carry)
    return log_weights, history, step, jnp.max(gradient) - 1
