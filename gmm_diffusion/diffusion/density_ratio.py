"""Log-densities at single points from a denoiser alone: an integral over noise levels.

Wu et al. 2024, "Your Diffusion Model is Secretly a Noise Classifier and Benefits from Contrastive
Training" (arXiv 2407.08946), after Kong et al. 2023 (arXiv 2302.03792). With `alpha = -2 ln sigma`,
`y = x + sigma eps` and `eps_p(y)` the noise that the optimal denoiser of a density `p` sees in `y`,

    log p(x) - log q(x) = 1/2 integral dalpha E |eps - eps_q(y)|^2 - |eps - eps_p(y)|^2

The density smoothed by noise of standard deviation zeta has the denoiser of the data at the level
`sqrt(sigma^2 + zeta^2)`, and a Gaussian has one in closed form. How the integral is taken is ours:
alpha systematic with one random shift a point, more often where Gaussian data of the variance
given would have the two densities differ, the same noise in both terms, in pairs of both signs, and
a control variate of mean 0.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gmm_diffusion.errors import InputError
from gmm_diffusion.random_keys import Ratio
from gmm_diffusion.types import Array, DenoiseFn, Numbers, PyTree

# Noise levels at which their density is tabulated: a twentieth of a power of e apart, or less.
_TABLE = 256


@dataclasses.dataclass(frozen=True)
class Smoothed:
    """The data's density smoothed by noise.

    Attributes:
      zeta: `[]` or `[B]`, standard deviation of the noise; 0 is the data's own density.
    """

    zeta: Array | float


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """`N(0, variance I)`.

    Attributes:
      variance: `[]` or `[B]`, positive.
    """

    variance: Array | float


def sigma_bounds(smallest_std: float, rms: float, zeta: Numbers = 0.0) -> tuple[Array, Array]:
    """Noise levels outside which the integrand is negligible (our reading).

    Args:
      smallest_std: of the data along any direction around any mode.
      rms: root mean square of the data's entries.
      zeta: `[]` or `[B]`.

    Returns:
      `0.03 smallest_std` and `7.4 sqrt(rms^2 + zeta^2)`.
    """
    return jnp.float32(0.03 * smallest_std), 7.4 * jnp.sqrt(rms**2 + jnp.square(zeta))


def log_density_ratio(
    denoise_fn: DenoiseFn,
    key: Array,
    x: Array,
    zeta: Array | float,
    cond: PyTree = None,
    num_points: int = 128,
    **options,
) -> Array:
    """`log p_0(x) - log p_zeta(x)` (arXiv 2407.08946, section 3).

    Args:
      denoise_fn: the denoiser of the data.
      key: `[]`, or `[B]`, one a point.
      x: `[B, ...]` points, anywhere.
      zeta: `[]` or `[B]`, positive, in the units of `x`.
      cond: a pytree with leading B, or None.
      num_points: see `integrate`; it takes two rows of the denoiser each.
      **options: of `integrate`. Every sigma and `sqrt(sigma^2 + zeta^2)` should lie where the
        denoiser was trained.

    Returns:
      `[B]`, nats; unbiased but for the ends of the integral.

    Raises:
      InputError: zeta not positive, or as `integrate`.
    """
    return ratio_and_spread(denoise_fn, key, x, zeta, cond, num_points, **options)[0]


def ratio_and_spread(
    denoise_fn: DenoiseFn,
    key: Array,
    x: Array,
    zeta: Array | float,
    cond: PyTree = None,
    num_points: int = 128,
    **options,
) -> tuple[Array, Array]:
    """`log_density_ratio`, and how much chance is in it.

    Returns:
      `[B]` ratios, and `[B]` estimates of their standard deviations from how far every other noise
      level disagrees with the rest: of one point very noisy, in the mean over points about right
      where the noise and too large where the number of levels decides. Both in nats.

    Raises:
      InputError: as `log_density_ratio`.
    """
    if not isinstance(zeta, jax.core.Tracer) and not np.all(np.asarray(zeta) > 0):
        raise InputError(f"zeta is {zeta}; it must be positive.")
    laws = Smoothed(0.0), Smoothed(zeta)
    return _integrate(denoise_fn, key, x, *laws, cond, num_points, **options)


def integrate(
    denoise_fn: DenoiseFn,
    key: Array,
    x: Array,
    p: Smoothed | Gaussian,
    q: Smoothed | Gaussian,
    cond: PyTree = None,
    num_points: int = 128,
    **options,
) -> Array:
    """`log p(x) - log q(x)`, both normalised densities.

    The control variate is `1/2 sum_i (b_q^2 - b_p^2) (eps_i^2 - 1)`, where `b` is how much of the
    noise of entry i is left in `eps - eps_p(y)` for a Gaussian of the variance v given; for
    `Smoothed(zeta)`, `b = (v + zeta^2) / (v + zeta^2 + sigma^2)`. Its mean is 0 whatever v.

    Args:
      denoise_fn: the denoiser of the data.
      key: `[]`, or `[B]`, one a point.
      x: `[B, ...]`.
      p: the first density.
      q: the second one.
      cond: a pytree with leading B, or None.
      num_points: evaluations of the integrand a point, even: half as many noise levels, each with
        noise of both signs. Each takes a row of the denoiser for each density that is `Smoothed`.
      **options: as follows.
      sigma_min: `[]` or `[B]`, lowest noise level of the integral.
      sigma_max: `[]` or `[B]`, highest.
      variance: of the data within a mode: a number, an array of the shape of one example, or a
        function of noise levels `[S] -> [S]`; None takes no control variate.
      importance: in [0, 1), share of the noise levels that are drawn in proportion to
        `|b_q^2 - b_p^2|`, what they add to the ratio of such Gaussian data; the others are evenly
        spaced. Above 0 it needs a variance.
      chunk: most rows in one call of the denoiser. What does not fit in one call is recomputed for
        the gradient, so that memory does not grow with the number of rows.

    Returns:
      `[B]`, nats.

    Raises:
      InputError: `num_points` not positive and even, an empty range of noise levels, a chunk below
        1, an importance that is no share or has no variance.
    """
    return _integrate(denoise_fn, key, x, p, q, cond, num_points, **options)[0]


def _integrate(
    denoise_fn,
    key,
    x,
    p,
    q,
    cond,
    num_points,
    *,
    sigma_min: Array | float = 0.002,
    sigma_max: Array | float = 80.0,
    variance: Array | float | Callable[[Array], Array] | None = None,
    importance: float = 0.0,
    chunk: int = 2**15,
) -> tuple[Array, Array]:
    """The integral `[B]` and an estimate of its standard deviation `[B]`."""
    _check(num_points, sigma_min, sigma_max, chunk)
    _check_importance(importance, variance)
    batch = x.shape[0]
    keys = key
    if key.ndim == 0:
        keys = jax.vmap(lambda b: jax.random.fold_in(key, b))(jnp.arange(batch))
    bounds = (jnp.asarray(sigma, x.dtype) for sigma in (sigma_min, sigma_max))
    low, high = (jnp.broadcast_to(sigma, (batch,)) for sigma in bounds)
    laws = tuple(_widen(law, batch, x.dtype) for law in (p, q))
    kinds = tuple(type(law) for law in (p, q))
    num_levels = num_points // 2
    rows_a_level = 2 * max(kinds.count(Smoothed), 1)
    block = max(1, min(num_levels, chunk // rows_a_level))
    num_blocks = -(-num_levels // block)

    def one(arguments):
        key, point, low, high, laws, row = arguments
        shift = jax.random.uniform(jax.random.fold_in(key, Ratio.SHIFT), dtype=point.dtype)
        noise_key = jax.random.fold_in(key, Ratio.NOISE)
        place = _even(low, high)
        if importance:
            place = _by_weight(low, high, kinds, laws, point, variance, importance)

        def levels(numbers):
            """Sums of the integrand over the noise levels of these numbers: plain, alternating."""
            sigma, density = place((numbers + shift) / num_levels)
            eps = jax.vmap(
                lambda n: jax.random.normal(jax.random.fold_in(noise_key, n), point.shape)
            )(numbers).astype(point.dtype)
            values = _integrand(denoise_fn, point, sigma, eps, kinds, laws, row, variance)
            values = jnp.where(numbers < num_levels, values / density, 0.0)
            return jnp.stack([jnp.sum(values), jnp.sum(jnp.where(numbers % 2, -values, values))])

        if num_blocks == 1:
            sums = levels(jnp.arange(num_levels))
        else:
            numbers = jnp.arange(num_blocks * block).reshape(num_blocks, block)
            body = jax.checkpoint(levels)
            sums, _ = lax.scan(
                lambda sums, n: (sums + body(n), None), jnp.zeros(2, point.dtype), numbers
            )
        total, turning = jnp.log(high / low) * sums / num_levels
        # The mean size of a normal number is sqrt(2 / pi) of its standard deviation.
        return total, lax.stop_gradient(jnp.sqrt(jnp.pi / 2) * jnp.abs(turning))

    points = max(1, chunk // (block * rows_a_level))
    arguments = (keys, x, low, high, laws, cond)
    if batch <= points:
        return jax.vmap(one)(arguments)
    return lax.map(jax.checkpoint(one), arguments, batch_size=points)


def _even(low, high):
    """`fraction [S]` -> noise levels `[S]` evenly in their logarithm, and their density, 1."""
    return lambda fraction: (high * (low / high) ** fraction, 1.0)


def _by_weight(low, high, kinds, laws, point, variance, importance):
    """As `_even`, with a share of the levels where the control variate's weight is."""
    grid = jnp.log(high) + jnp.linspace(0.0, 1.0, _TABLE) * jnp.log(low / high)
    p, q = (
        jnp.square(_left_of_noise(kind, law, jnp.exp(grid), point, variance))
        for kind, law in zip(kinds, laws, strict=True)
    )
    weight = jnp.mean(jnp.abs(q - p).reshape(_TABLE, -1), axis=1)
    smallest = jnp.finfo(weight.dtype).tiny
    density = importance * weight / jnp.maximum(jnp.mean(weight), smallest) + (1.0 - importance)
    steps = 0.5 * (density[1:] + density[:-1])
    density = lax.stop_gradient(density / jnp.mean(steps))
    share = jnp.concatenate([jnp.zeros(1, steps.dtype), jnp.cumsum(steps)])
    share = lax.stop_gradient(share / share[-1])

    def place(fraction):
        position = jnp.interp(fraction, share, jnp.linspace(0.0, 1.0, _TABLE))
        sigma = high * (low / high) ** position
        return sigma, jnp.interp(position, jnp.linspace(0.0, 1.0, _TABLE), density)

    return place


def _integrand(denoise_fn, point, sigma, eps, kinds, laws, row, variance):
    """Mean over both signs of the noise, `[S]`, for one point, `sigma [S]` and `eps [S, ...]`."""
    wide = sigma.reshape(sigma.shape + (1,) * point.ndim)
    noise = jnp.concatenate([eps, -eps])
    y = point[None] + jnp.concatenate([wide, wide]) * noise
    seen = [
        jnp.sqrt(jnp.square(sigma) + jnp.square(law))
        for kind, law in zip(kinds, laws, strict=True)
        if kind is Smoothed
    ]
    denoised = []
    if seen:
        rows = 2 * len(seen) * len(sigma)
        cond = jax.tree.map(lambda c: jnp.broadcast_to(c[None], (rows, *c.shape)), row)
        inputs = jnp.concatenate([y] * len(seen))
        levels = jnp.concatenate([jnp.concatenate([s, s]) for s in seen])
        denoised = jnp.split(denoise_fn(inputs, levels, cond), len(seen))
    sums, coefficients, left = [], [], iter(denoised)
    for kind, law in zip(kinds, laws, strict=True):
        if kind is Smoothed:
            # Written with D - x: at zeta 0 no difference of noises is left to cancel.
            total = jnp.square(wide) + jnp.square(law)
            kept, gain = (jnp.square(law) / total, wide / total)
            residual = jnp.concatenate([kept, kept]) * noise
            residual += jnp.concatenate([gain, gain]) * (next(left) - point[None])
        else:
            kept, gain = law / (law + jnp.square(wide)), wide / (law + jnp.square(wide))
            residual = jnp.concatenate([kept, kept]) * noise
            residual -= jnp.concatenate([gain, gain]) * point[None]
        axes = tuple(range(1, noise.ndim))
        plus, minus = jnp.split(jnp.sum(jnp.square(residual), axis=axes), 2)
        sums.append(0.5 * (plus + minus))
        coefficients.append(_left_of_noise(kind, law, sigma, point, variance))
    value = sums[1] - sums[0]
    if variance is None:
        return value
    weight = jnp.square(coefficients[1]) - jnp.square(coefficients[0])
    control = jnp.sum(weight * (jnp.square(eps) - 1.0), axis=tuple(range(1, eps.ndim)))
    return value - lax.stop_gradient(control)


def _left_of_noise(kind, law, sigma, point, variance):
    """`b` of the control variate, to multiply `eps [S, ...]`; None without one."""
    if variance is None:
        return None
    squared = jnp.square(sigma).reshape(sigma.shape + (1,) * point.ndim)
    if kind is Gaussian:
        return law / (law + squared)
    if callable(variance):
        v = variance(jnp.sqrt(jnp.square(sigma) + jnp.square(law))).reshape(squared.shape)
    else:
        v = jnp.broadcast_to(jnp.asarray(variance, point.dtype), point.shape)[None]
    return (v + jnp.square(law)) / (v + jnp.square(law) + squared)


def _widen(law, batch, dtype):
    """The zeta or the variance of a law, repeated for each point: `[B]`."""
    value = law.zeta if isinstance(law, Smoothed) else law.variance
    return jnp.broadcast_to(jnp.asarray(value, dtype), (batch,))


def _check(num_points, sigma_min, sigma_max, chunk):
    if num_points < 2 or num_points % 2:
        raise InputError(f"num_points is {num_points}; it must be a positive even number.")
    if chunk < 1:
        raise InputError(f"chunk is {chunk}; it must be at least 1.")
    if any(isinstance(s, jax.core.Tracer) for s in (sigma_min, sigma_max)):
        return
    low, high = np.asarray(sigma_min), np.asarray(sigma_max)
    if not np.all((low > 0) & (low < high)):
        raise InputError(
            f"sigma_min is {sigma_min} and sigma_max is {sigma_max}; they must satisfy "
            "0 < sigma_min < sigma_max."
        )


def _check_importance(importance, variance):
    if not 0 <= importance < 1:
        raise InputError(f"importance is {importance}; it must be at least 0 and below 1.")
    if importance and variance is None:
        raise InputError(f"importance is {importance} and variance is None; it needs a variance.")
