"""Sequential samplers: one function a step, one `lax.scan` for all.

A sampler integrates the probability-flow equation `dx/dsigma = (x - D(x; sigma)) / sigma`
(Karras et al. 2022, arXiv 2206.00364, eq. 3 with `s = 1`, `sigma(t) = t`) over a decreasing grid.
A new sampler is one step function and one line in `SAMPLERS`.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gmm_diffusion.random_keys import Sample, fold_in
from gmm_diffusion.types import Array, DenoiseFn, PyTree


def euler_step(
    denoise_fn: DenoiseFn,
    keys: Array,
    x: Array,
    sigma: Array,
    sigma_next: Array,
    cond: PyTree,
    *,
    num_steps: int,
) -> Array:
    """One Euler step, equal to a DDIM step (arXiv 2206.00364, section 3; order 1)."""
    del keys, num_steps
    denoised = denoise_fn(x, sigma, cond)
    # Weights in place of a slope: at sigma_next = 0 the result is the denoised data, exactly.
    ratio = sigma_next / sigma
    return ratio * x + (1.0 - ratio) * denoised


def heun_step(
    denoise_fn: DenoiseFn,
    keys: Array,
    x: Array,
    sigma: Array,
    sigma_next: Array,
    cond: PyTree,
    *,
    num_steps: int,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = np.inf,
    churn_noise: float = 1.0,
) -> Array:
    """One Heun step with churn; `sigma_next` positive (arXiv 2206.00364, algorithm 2; order 2)."""
    x, sigma = add_churn(keys, x, sigma, churn / num_steps, churn_min, churn_max, churn_noise)
    slope = (x - denoise_fn(x, sigma, cond)) / sigma
    x_next = x + (sigma_next - sigma) * slope
    slope_next = (x_next - denoise_fn(x_next, sigma_next, cond)) / sigma_next
    return x + (sigma_next - sigma) * 0.5 * (slope + slope_next)


def heun_last_step(
    denoise_fn: DenoiseFn,
    keys: Array,
    x: Array,
    sigma: Array,
    sigma_next: Array,
    cond: PyTree,
    *,
    num_steps: int,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = np.inf,
    churn_noise: float = 1.0,
) -> Array:
    """The step to sigma 0: churn, then Euler, as the slope at 0 does not exist (algorithm 2)."""
    x, sigma = add_churn(keys, x, sigma, churn / num_steps, churn_min, churn_max, churn_noise)
    return euler_step(denoise_fn, keys, x, sigma, sigma_next, cond, num_steps=num_steps)


def ancestral_step(
    denoise_fn: DenoiseFn,
    keys: Array,
    x: Array,
    sigma: Array,
    sigma_next: Array,
    cond: PyTree,
    *,
    num_steps: int,
    eta: float = 1.0,
) -> Array:
    """One draw of `x_next` given `x` as if the denoised data were certain (weak order 1).

    The posterior of a Gaussian random walk: for `eta` 1 the ancestral sampler of Ho et al. 2020
    (arXiv 2006.11239, equations 6 and 7) by noise level; `eta` scales the new noise as in Song et
    al. 2021 (arXiv 2010.02502, equation 16), and 0 is a DDIM step. At `sigma_next` 0 no noise is
    left to add.
    """
    del num_steps
    denoised = denoise_fn(x, sigma, cond)
    ratio = sigma_next / sigma
    added = eta * sigma_next * jnp.sqrt(jnp.maximum(1.0 - jnp.square(ratio), 0.0))
    kept = jnp.sqrt(jnp.maximum(jnp.square(sigma_next) - jnp.square(added), 0.0)) / sigma
    eps = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)
    return kept * x + (1.0 - kept) * denoised + added * eps


def dpmpp_2m_step(
    denoise_fn: DenoiseFn,
    x: Array,
    sigma: Array,
    sigma_next: Array,
    cond: PyTree,
    previous: Array,
    sigma_previous: Array,
) -> tuple[Array, Array]:
    """One step of DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2; order 2).

    Args:
      denoise_fn: the denoiser.
      x: `[B, ...]` at noise level `sigma []`.
      sigma: `[]`.
      sigma_next: `[]`, positive.
      cond: of the denoiser.
      previous: `[B, ...]`, what the denoiser returned at the step before.
      sigma_previous: `[]`, the noise level of that; infinite at the first step, which makes it a
        step of order 1.

    Returns:
      `x` at `sigma_next`, and the denoised data at `sigma` for the step after.
    """
    denoised = denoise_fn(x, sigma, cond)
    # Half of the ratio of this step in log sigma to the one before: 1 / (2 r).
    half = 0.5 * jnp.log(sigma / sigma_next) / jnp.log(sigma_previous / sigma)
    extrapolated = denoised + half * (denoised - previous)
    ratio = sigma_next / sigma
    return ratio * x + (1.0 - ratio) * extrapolated, denoised


def add_churn(
    keys: Array,
    x: Array,
    sigma: Array,
    amount: float,
    sigma_low: float,
    sigma_high: float,
    noise: float,
) -> tuple[Array, Array]:
    """Raises the noise level by new noise (arXiv 2206.00364, algorithm 2, lines 4 to 6).

    Args:
      keys: `[B]` keys of this step.
      x: `[B, ...]` at noise level `sigma []`.
      sigma: `[]`.
      amount: `S_churn / N`; at most `sqrt(2) - 1` of it is used. A Python 0 adds nothing.
      sigma_low: churn only at or above this noise level.
      sigma_high: churn only at or below this noise level.
      noise: standard deviation of the new noise, `S_noise`.

    Returns:
      `x [B, ...]` and its new noise level `[]`.
    """
    if isinstance(amount, int | float) and amount == 0:
        return x, sigma
    inside = (sigma >= sigma_low) & (sigma <= sigma_high)
    gamma = jnp.where(inside, jnp.minimum(amount, np.sqrt(2.0) - 1.0), 0.0)
    raised = sigma * (1.0 + gamma)
    eps = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)
    added = jnp.sqrt(jnp.maximum(jnp.square(raised) - jnp.square(sigma), 0.0))
    return x + added * noise * eps, raised


@dataclasses.dataclass(frozen=True)
class SequentialSampler:
    """A sampler by single steps; call it, or bind options with `functools.partial`.

    Attributes:
      order: of convergence in the number of steps, without churn; the weak order where `step`
        draws noise.
      step: from one positive noise level to the next.
      last_step: from the last positive noise level to 0; takes the same options, and calls the
        denoiser once, where `step` would call it first.
      step_evaluations: calls of the denoiser in one `step`.
      last_step_evaluations: calls of the denoiser in `last_step`.
      stochastic: whether `step` draws noise without being asked to.
    """

    order: int
    step: Callable[..., Array]
    last_step: Callable[..., Array]
    step_evaluations: int
    last_step_evaluations: int
    stochastic: bool = False

    def evaluations(self, num_steps: int) -> int:
        """Calls of the denoiser, each on the whole batch, in a run of `num_steps` steps."""
        return self.step_evaluations * (num_steps - 1) + self.last_step_evaluations

    def levels(self, sigmas: np.ndarray) -> np.ndarray:
        """The noise levels of these calls, without churn, given the grid `[S+1]`."""
        inner = sigmas[1:-1] if self.step_evaluations == 2 else sigmas[:0]
        return np.concatenate([sigmas[:-1], inner])

    def __call__(
        self,
        denoise_fn: DenoiseFn,
        keys: Array,
        x_init: Array,
        sigmas: Array,
        cond: PyTree = None,
        **options,
    ) -> tuple[Array, None]:
        """Integrates `x_init` from `sigmas[0]` to 0.

        Args:
          denoise_fn: the denoiser.
          keys: `[B]` typed keys, one a sample; step i uses `fold_in(keys[b], i)`.
          x_init: `[B, ...]`, already scaled by `sigmas[0]`.
          sigmas: `[S+1]` decreasing, the last one 0.
          cond: a pytree with leading B, or None.
          **options: of the step function.

        Returns:
          `[B, ...]` samples, and None: what they take is known before (`evaluations`).
        """
        num_steps = sigmas.shape[0] - 1

        def body(x, inputs):
            i, sigma, sigma_next = inputs
            x = self.step(
                denoise_fn,
                step_keys(keys, i),
                x,
                sigma,
                sigma_next,
                cond,
                num_steps=num_steps,
                **options,
            )
            return x, None

        steps = (jnp.arange(num_steps - 1), sigmas[:-2], sigmas[1:-1])
        x, _ = lax.scan(body, x_init, steps)
        x = self.last_step(
            denoise_fn,
            step_keys(keys, num_steps - 1),
            x,
            sigmas[-2],
            sigmas[-1],
            cond,
            num_steps=num_steps,
            **options,
        )
        return x, None


@dataclasses.dataclass(frozen=True)
class MultistepSampler:
    """A deterministic sampler that remembers the denoised data of the step before.

    Attributes:
      order: of convergence in the number of steps.
      step: `(denoise_fn, x, sigma, sigma_next, cond, previous, sigma_previous) -> (x, denoised)`,
        between positive noise levels, one call of the denoiser.
      stochastic: False.
    """

    order: int
    step: Callable[..., tuple[Array, Array]]
    stochastic: bool = False

    def evaluations(self, num_steps: int) -> int:
        """Calls of the denoiser, each on the whole batch, in a run of `num_steps` steps."""
        return num_steps

    def levels(self, sigmas: np.ndarray) -> np.ndarray:
        """The noise levels of these calls, given the grid `[S+1]`."""
        return sigmas[:-1]

    def __call__(
        self,
        denoise_fn: DenoiseFn,
        keys: Array,
        x_init: Array,
        sigmas: Array,
        cond: PyTree = None,
    ) -> tuple[Array, None]:
        """Integrates `x_init` from `sigmas[0]` to 0; see `SequentialSampler.__call__`."""

        def body(carry, inputs):
            x, previous, sigma_previous = carry
            sigma, sigma_next = inputs
            x, denoised = self.step(
                denoise_fn, x, sigma, sigma_next, cond, previous, sigma_previous
            )
            return (x, denoised, sigma), None

        # Infinitely far away, what came before has no weight in the first step.
        start = (x_init, jnp.zeros_like(x_init), jnp.full_like(sigmas[0], jnp.inf))
        (x, _, _), _ = lax.scan(body, start, (sigmas[:-2], sigmas[1:-1]))
        # The step to 0 is infinitely long in log sigma: no extrapolation.
        num_steps = sigmas.shape[0] - 1
        x = euler_step(denoise_fn, keys, x, sigmas[-2], sigmas[-1], cond, num_steps=num_steps)
        return x, None


def step_keys(keys: Array, i: Array | int) -> Array:
    """The keys `[B]` of step i of the samples with keys `[B]`."""
    return fold_in(keys, i)


def initial_noise(keys: Array, shape: tuple[int, ...], sigma_max: Array | float) -> Array:
    """`[B]` keys -> `[B, *shape]` of standard deviation `sigma_max`."""

    def one(key):
        return sigma_max * jax.random.normal(key, shape)

    return jax.vmap(one)(fold_in(keys, Sample.INITIAL_NOISE))


SAMPLERS: dict[str, SequentialSampler | MultistepSampler] = {
    "heun": SequentialSampler(
        order=2,
        step=heun_step,
        last_step=heun_last_step,
        step_evaluations=2,
        last_step_evaluations=1,
    ),
    "euler": SequentialSampler(
        order=1,
        step=euler_step,
        last_step=euler_step,
        step_evaluations=1,
        last_step_evaluations=1,
    ),
    "dpmpp_2m": MultistepSampler(order=2, step=dpmpp_2m_step),
    "ancestral": SequentialSampler(
        order=1,
        step=ancestral_step,
        last_step=ancestral_step,
        step_evaluations=1,
        last_step_evaluations=1,
        stochastic=True,
    ),
}
