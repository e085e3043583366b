"""Parallel sampling: Picard iteration over a sliding window of a sequential sampler's steps.

Shih et al. 2023, "Parallel Sampling of Diffusion Models" (arXiv 2305.16317), algorithm 1. All steps
in the window start at once from guesses of their points, one batched call of the denoiser a round;
the guesses move by the sum of what the steps before them were wrong by; then the window slides past
the points that no longer move. Where the steps are exact the point after them is exact, so that a
round gains one step at least, and with tolerance 0 the result is the sequential sampler's.

Ours: each sample has a window of its own, so that it does not depend on its batch; and corrections
pass through later steps as the same step would pass them for white data. As published they pass
unchanged in coordinates `x / sqrt(1 + sigma^2)`, which is about the same for an Euler step, and too
much for one that draws noise and forgets. The fixed point does not depend on it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from gmm_diffusion.errors import InputError
from gmm_diffusion.sampling.samplers import SAMPLERS, SequentialSampler, step_keys
from gmm_diffusion.types import Array, DenoiseFn, PyTree

STEPS = tuple(name for name, s in SAMPLERS.items() if isinstance(s, SequentialSampler))


@struct.dataclass
class PicardInfo:
    """What a parallel run took, sample by sample.

    Attributes:
      rounds: `[B]` int32, batched calls until the sample was done; the run takes as many as its
        slowest sample.
      evaluations: `[B]` int32, evaluations of the denoiser for the sample, speculative ones too.
      bad_step: `[B]` int32, the number of the first step whose result is not finite, or -1.
    """

    rounds: Array
    evaluations: Array
    bad_step: Array


@struct.dataclass
class PicardState:
    """What stands between two rounds.

    Attributes:
      first: `[B]` int32, how many points are found, which is the number of the step at the window's
        start; the number of steps for a sample that is done.
      points: `[W+1, B, ...]`, the windows: the last point found, and guesses of those after it.
      info: what was taken so far.
    """

    first: Array
    points: Array
    info: PicardInfo

    @property
    def numbers(self) -> Array:
        """`[W, B]` int32, the steps that the next round takes from `points[:-1]`.

        Those of no step are the number of steps, or more.
        """
        return self.first[None, :] + jnp.arange(self.points.shape[0] - 1)[:, None]


def picard(
    denoise_fn: DenoiseFn,
    keys: Array,
    x_init: Array,
    sigmas: Array,
    cond: PyTree = None,
    *,
    step: str = "euler",
    window: int = 8,
    tolerance: float = 0.1,
    sigma_data: float | None = 1.0,
    axis_name: str | None = None,
    **options,
) -> tuple[Array, PicardInfo]:
    """Integrates `x_init` from `sigmas[0]` to 0, many steps at a time.

    Args:
      denoise_fn: the denoiser; it treats each example by itself and takes sigma `[B]`.
      keys: `[B]` typed keys; step i uses `fold_in(keys[b], i)`, as the sequential sampler does.
      x_init: `[B, ...]`, already scaled by `sigmas[0]`.
      sigmas: `[S+1]` decreasing, the last one 0.
      cond: a pytree with leading B, or None.
      step: name of a single-step member of `SAMPLERS`.
      window: most steps of a sample in one round, at least 1.
      tolerance: a point counts as found when a round moved it by no more than this, in root mean
        square over its entries and in units of the noise that an ancestral step into it adds (of
        the last positive noise level for the last step). 0 waits until it does not move at all.
      sigma_data: RMS of the centred data; None passes corrections as published.
      axis_name: of a mapped axis, of devices, say, along which all arguments are the same: each of
        its members takes its share of every round's steps, and all return the same.
      **options: of the step function.

    Returns:
      `[B, ...]` samples, and `PicardInfo`. Samples whose trajectory is not finite are NaN.

    Raises:
      InputError: a window below 1, a tolerance below 0, a step of no single-step sampler.
    """
    settings: dict[str, Any] = {
        "step": step,
        "window": window,
        "tolerance": tolerance,
        "sigma_data": sigma_data,
        "axis_name": axis_name,
    }
    state, one_round = rounds(denoise_fn, keys, x_init, sigmas, cond, **settings, **options)
    num_steps = sigmas.shape[0] - 1
    state = lax.while_loop(lambda s: jnp.any(s.first < num_steps), one_round, state)
    good = (state.info.bad_step < 0).reshape((-1,) + (1,) * (x_init.ndim - 1))
    return jnp.where(good, state.points[0], jnp.nan), state.info


def rounds(
    denoise_fn: DenoiseFn,
    keys: Array,
    x_init: Array,
    sigmas: Array,
    cond: PyTree = None,
    *,
    step: str = "euler",
    window: int = 8,
    tolerance: float = 0.1,
    sigma_data: float | None = 1.0,
    axis_name: str | None = None,
    **options,
) -> tuple[PicardState, Callable[[PicardState], PicardState]]:
    """`picard` round by round, for those who look at what stands between.

    Args and errors are those of `picard`.

    Returns:
      The state before the first round, and what takes a state to the next; samples that are done
      stay as they are.
    """
    if window < 1:
        raise InputError(f"window is {window}; it must be at least 1.")
    if not tolerance >= 0:
        raise InputError(f"tolerance is {tolerance}; it must be at least 0.")
    sampler = SAMPLERS.get(step)
    if not isinstance(sampler, SequentialSampler):
        raise InputError(
            f"step is {step!r}; valid are the single-step samplers {', '.join(STEPS)}."
        )
    num_steps = sigmas.shape[0] - 1
    width = min(window, num_steps)
    one_step = _one_step(sampler, sigmas, options)
    carry = _carry(one_step, sigmas, sigma_data)
    decay = jnp.concatenate([jnp.ones(1, sigmas.dtype), jnp.cumprod(carry)])
    scale = _scale(sigmas)
    batch, extra = x_init.shape[0], (1,) * (x_init.ndim - 1)
    index = jnp.arange(width)[:, None]

    def wide(value):
        return value.reshape(value.shape + extra)

    def evaluate(x, numbers):
        """One step of every point of every window, `[W, B, ...]`."""

        def one(key, x, i, cond):
            cond = jax.tree.map(lambda c: c[None], cond)
            return one_step(denoise_fn, key[None], x[None], i, cond)[0]

        rows = jax.vmap(jax.vmap(one), in_axes=(None, 0, 0, None))
        if axis_name is None:
            return rows(keys, x, numbers, cond)
        members = lax.axis_size(axis_name)
        share = -(-width // members)
        # Shares are equal; the last ones repeat a row where there are too few.
        place = share * lax.axis_index(axis_name) + jnp.arange(share)
        place = jnp.minimum(place, width - 1)
        own = rows(keys, x[place], numbers[place], cond)
        return lax.all_gather(own, axis_name, tiled=True)[:width]

    def count(flags):
        # In double precision a sum would be int64, which the loop's state is not.
        return jnp.sum(flags, axis=0, dtype=jnp.int32)

    def round_(state):
        first, points, info = state.first, state.points, state.info
        number = first[None, :] + index
        inside = number < num_steps
        number = jnp.minimum(number, num_steps - 1)
        stepped = evaluate(points[:-1], number)
        factor = wide(carry[number])
        # How far each point moves: what its step was wrong by, and what moves those before it.
        wrong = jnp.where(wide(inside), stepped - points[1:], 0.0)
        moved = lax.associative_scan(_compose, (jnp.broadcast_to(factor, wrong.shape), wrong))[1]
        before = jnp.concatenate([jnp.zeros_like(moved[:1]), moved[:-1]])
        # Not `points + moved`: the step after an exact point is then exact to the last bit.
        new = jnp.where(wide(inside), stepped + factor * before, points[1:])

        size = jnp.sqrt(jnp.mean(jnp.square(moved), axis=tuple(range(2, moved.ndim))))
        still = inside & (size <= tolerance * scale[number])
        # The point after the last one that stood still comes from exact ones, and counts too.
        found = count(jnp.cumprod(still.astype(jnp.int32), axis=0)) + 1
        active = first < num_steps
        gained = jnp.minimum(found, count(inside))
        points = slide(jnp.concatenate([points[:1], new]), first, gained)
        bad = active & ~jnp.isfinite(points[0]).reshape(batch, -1).all(axis=1)
        info = PicardInfo(
            rounds=info.rounds + active,
            evaluations=info.evaluations + count(inside) * sampler.step_evaluations,
            bad_step=jnp.where(bad & (info.bad_step < 0), first + gained - 1, info.bad_step),
        )
        return PicardState(jnp.where(bad, num_steps, first + gained), points, info)

    def slide(points, first, gained):
        """The windows `[W+1, B, ...]` from `first`, moved on by `gained`, with guesses at the end.

        A point that is not finite is guessed again, from the first of its window.
        """
        first, gained = first[None, :], gained[None, :]
        places = jnp.arange(width + 1)[:, None]
        number = jnp.minimum(first + gained + places, num_steps)

        def known(place):
            return jnp.take_along_axis(points, wide(place), axis=0)

        def guess(place):
            """From the point at a place of the old window, as corrections are carried."""
            return known(place) * wide(decay[number] / decay[jnp.minimum(first + place, num_steps)])

        place = gained + places
        last = jnp.full_like(place, width)
        moved = jnp.where(wide(place <= width), known(jnp.minimum(place, width)), guess(last))
        finite = jnp.isfinite(moved) | wide(place == gained)
        return jnp.where(finite, moved, guess(jnp.broadcast_to(gained, place.shape)))

    zeros = jnp.zeros(batch, jnp.int32)
    # Every point but the first is a guess, from the first.
    start = jnp.full((width + 1, *x_init.shape), jnp.nan, x_init.dtype).at[0].set(x_init)
    info = PicardInfo(zeros, zeros, zeros - 1)
    return PicardState(zeros, slide(start, zeros, zeros), info), round_


def _one_step(sampler: SequentialSampler, sigmas: Array, options: dict):
    """`(denoise_fn, keys [B], x, i [], cond) -> x` at the next level, for any step number i."""
    num_steps = sigmas.shape[0] - 1

    def one_step(denoise_fn, keys, x, i, cond):
        def run(function, sigma_next, denoise_fn=denoise_fn):
            return function(
                denoise_fn,
                step_keys(keys, i),
                x,
                sigmas[i],
                sigma_next,
                cond,
                num_steps=num_steps,
                **options,
            )

        if sampler.step is sampler.last_step:
            return run(sampler.step, sigmas[i + 1])
        is_last = i == num_steps - 1
        answers = []

        def noted(*question):
            answers.append(denoise_fn(*question))
            return answers[-1]

        # Both are computed, and a step must not see a level of 0.
        inner = run(sampler.step, jnp.where(is_last, sigmas[i], sigmas[i + 1]), noted)
        last = run(sampler.last_step, sigmas[i + 1], lambda *question: answers[0])
        return jnp.where(is_last, last, inner)

    return one_step


def _carry(one_step, sigmas: Array, sigma_data: float | None) -> Array:
    """`[S]`, by how much a change of a step's start changes its end."""
    num_steps = sigmas.shape[0] - 1
    if sigma_data is None:
        return jnp.sqrt((1.0 + jnp.square(sigmas[1:])) / (1.0 + jnp.square(sigmas[:-1])))

    def linear(x, sigma, cond):
        return x * (sigma_data**2 / (sigma_data**2 + jnp.square(sigma)))

    def response(i):
        keys = jax.random.key(0)[None]
        ends = [
            one_step(linear, keys, jnp.full((1, 1), start, sigmas.dtype), i, None)
            for start in (1.0, 0.0)
        ]
        return (ends[0] - ends[1])[0, 0]

    return jax.vmap(response)(jnp.arange(num_steps))


def _scale(sigmas: Array) -> Array:
    """`[S]`, the noise that an ancestral step adds; for the last step the level it starts from."""
    ratio = sigmas[1:] / sigmas[:-1]
    added = sigmas[1:] * jnp.sqrt(jnp.maximum(1.0 - jnp.square(ratio), 0.0))
    return added.at[-1].set(sigmas[-2])


def _compose(left, right):
    """Of the linear maps `c -> a c + r`, the right one after the left one."""
    return left[0] * right[0], right[0] * left[1] + right[1]
