"""In how many rounds does parallel sampling reach a given quality, and what does it ask on the way?

The protocol of Wu et al. 2024 (arXiv 2407.08946, section 4.1): 1,000 ancestral steps over the noise
levels of Ho et al. 2020 (arXiv 2006.11239, section 4), all at once, a point found when a round
moves it by less than a tenth of its step's noise, and after each round the squared MMD of what
stands at the end. The data are mixtures, so that the MMD is that to the density itself, and the
error of the predicted noise is known wherever the sampler asks.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from gmm_diffusion import mixture
from gmm_diffusion.data import toy
from gmm_diffusion.errors import InputError
from gmm_diffusion.metrics import mmd
from gmm_diffusion.mixture import GaussianMixture
from gmm_diffusion.sampling import parallel, samplers
from gmm_diffusion.types import Array, Denoise, Poll, PyTree

# Of the published kernel, exp(-|x - y|^2 / (2 * 0.03)), for data of RMS 1.
WIDTH = 0.03**0.5
# The end and the start of the published variances of a step, of 1,000.
_VARIANCES, _PUBLISHED_STEPS = (1e-4, 0.02), 1000
# Samples at whose queries the error is taken; the exact denoiser is slow, and the mean is of all
# noise levels.
_WATCHED = 8


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How samples are drawn and judged.

    Attributes:
      data: a key of `toy.MIXTURES`.
      num_samples: of each model.
      num_steps: of the sampler, at least 25.
      num_rounds: most rounds.
      tolerance: in units of a step's noise.
      width: of the MMD's kernel, in units of the data.
    """

    data: str = "dino"
    num_samples: int = 1024
    num_steps: int = _PUBLISHED_STEPS
    num_rounds: int = 60
    tolerance: float = 0.1
    width: float = WIDTH

    def __post_init__(self) -> None:
        if self.data not in toy.MIXTURES:
            raise InputError(f"data is {self.data!r}; valid are {', '.join(toy.MIXTURES)}.")
        for name, value, least in (
            ("samples", self.num_samples, 2),
            ("sampling_steps", self.num_steps, 25),
            ("rounds", self.num_rounds, 1),
        ):
            if value < least:
                raise InputError(f"{name} is {value}; valid are numbers from {least} on.")


def levels(num_steps: int) -> np.ndarray:
    """`[num_steps + 1]` decreasing noise levels, the last one 0.

    Of the published linear schedule, whose step variances are scaled for another number of steps.
    """
    ends = np.array(_VARIANCES) * _PUBLISHED_STEPS / num_steps
    kept = np.cumprod(1.0 - np.linspace(*ends, num_steps))
    return np.append(np.sqrt(1.0 / kept[::-1] - 1.0), 0.0)


@functools.cache
def known(data: str) -> GaussianMixture:
    """The density of the data, of mean square 1 an entry."""
    return toy.density(data)[0]


@dataclasses.dataclass(frozen=True)
class Exact:
    """The best denoiser, as one that has parameters and needs none."""

    data: str

    def __call__(
        self, params: PyTree, x: Array, sigma: Array, cond: PyTree = None, keys: Array | None = None
    ) -> Array:
        """`x [B, 2]`, `sigma [B]` -> `[B, 2]`."""
        return mixture.denoise(known(self.data), x, sigma)


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """A denoiser of points that were centred, in the units of the data.

    Attributes:
      denoise: `(params, x, sigma, cond)`, which can be hashed.
      mean: `[2]` of the points, as numbers.
    """

    denoise: Denoise
    mean: tuple[float, ...] = (0.0, 0.0)

    def __call__(self, params: PyTree, x: Array, sigma: Array, cond: PyTree = None) -> Array:
        """`x [B, 2]`, `sigma [B]` or `[]` -> `[B, 2]`."""
        mean = jnp.asarray(self.mean, jnp.float32)[None]
        return self.denoise(params, x - mean, sigma, cond) + mean


def _start(protocol, seed):
    """Keys and first points, the same for all models."""
    keys = jax.random.split(jax.random.key(seed), protocol.num_samples)
    sigmas = jnp.asarray(levels(protocol.num_steps), jnp.float32)
    return keys, samplers.initial_noise(keys, (2,), sigmas[0]), sigmas


def _rounds(protocol, denoiser, params, seed):
    return parallel.rounds(
        functools.partial(denoiser, params),
        *_start(protocol, seed),
        step="ancestral",
        window=protocol.num_steps,
        tolerance=protocol.tolerance,
        # Corrections are passed on as published.
        sigma_data=None,
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _first(protocol, denoiser, params, seed):
    return _rounds(protocol, denoiser, params, seed)[0]


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=4)
def _next(protocol, denoiser, params, seed, state):
    return _rounds(protocol, denoiser, params, seed)[1](state)


def states(
    protocol: Protocol, denoiser: Denoiser, params: PyTree, seed: int
) -> Iterator[parallel.PicardState]:
    """What stands before the first round and after each one, till all is found or they run out.

    A state is gone when the next one is asked for.
    """
    state = _first(protocol, denoiser, params, seed)
    yield state
    for _ in range(protocol.num_rounds):
        if not np.any(np.asarray(state.first) < protocol.num_steps):
            return
        state = _next(protocol, denoiser, params, seed, state)
        yield state


@jax.jit
def ends(state: parallel.PicardState) -> Array:
    """`[B, 2]`, the guesses of the samples; the windows hold all steps."""
    last = state.points.shape[0] - 1 - state.first
    return jnp.take_along_axis(state.points, last[None, :, None], axis=0)[0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def query_error(
    protocol: Protocol, denoiser: Denoiser, params: PyTree, state: parallel.PicardState
) -> Array:
    """Mean `|D - D*|^2 / sigma^2` a dimension at what the next round asks; `[]`.

    Of the first samples, over all steps that are not found; NaN where all are.
    """
    numbers = state.numbers[:, :_WATCHED]
    inside = numbers < protocol.num_steps
    sigmas = jnp.asarray(levels(protocol.num_steps), jnp.float32)
    sigma = sigmas[jnp.minimum(numbers, protocol.num_steps - 1)].reshape(-1)
    points = state.points[:-1, :_WATCHED].reshape(-1, 2)
    wrong = denoiser(params, points, sigma) - mixture.denoise(known(protocol.data), points, sigma)
    squares = jnp.mean(jnp.square(wrong), axis=1) / jnp.square(sigma)
    squares = jnp.where(inside.reshape(-1), squares, 0.0)
    return jnp.sum(squares) / jnp.sum(inside)


@functools.partial(jax.jit, static_argnums=(0, 1))
def one_by_one(protocol: Protocol, denoiser: Denoiser, params: PyTree, seed: int) -> Array:
    """`[B, 2]` samples of the sequential sampler."""
    step = samplers.SAMPLERS["ancestral"]
    return step(functools.partial(denoiser, params), *_start(protocol, seed))[0]


def measure(
    protocol: Protocol, denoiser: Denoiser, params: PyTree, seed: int, poll: Poll
) -> dict[str, np.ndarray]:
    """One model's samples.

    Returns:
      "mmd" `[num_rounds]`, squared, after each round; "error" `[num_rounds]`, root mean square of
      what each round asked, NaN for rounds that nobody needed; "rounds" `[]` that a sample took,
      a mean, where one that was not found counts all; "found" `[]`, the share that was; and
      "sequential" `[]`, the squared MMD of samples drawn one step after another.
    """
    distance = mmd.squared_to(known(protocol.data), np.array([protocol.width]))
    return measured(
        protocol,
        states(protocol, denoiser, params, seed),
        distance,
        lambda state: query_error(protocol, denoiser, params, state),
        poll,
    ) | {"sequential": np.array(distance(one_by_one(protocol, denoiser, params, seed)))}


def measured(
    protocol: Protocol,
    found: Iterable[parallel.PicardState],
    distance: Callable[[np.ndarray], float],
    error: Callable[[parallel.PicardState], Array],
    poll: Poll,
) -> dict[str, np.ndarray]:
    """What `measure` says of the rounds, by their states, of which the first is the start."""
    curve, errors, state = [], [], None
    for state in found:
        poll()
        if len(errors):
            curve.append(distance(np.asarray(ends(state))))
        errors.append(float(error(state)))
        taken, done = np.asarray(state.info.rounds), np.asarray(state.first) >= protocol.num_steps
    missing = protocol.num_rounds - len(curve)
    return {
        "mmd": np.array(curve + [curve[-1]] * missing),
        # The last state asks nothing more.
        "error": np.sqrt(np.array(errors[:-1] + [np.nan] * missing)),
        "rounds": taken.mean(),
        "found": done.mean(),
    }


def rounds_to(curve: np.ndarray, threshold: float) -> int:
    """The first round after which `curve [num_rounds]` is at most `threshold`; one more if none.

    That the published count, which says nothing of the rounds after it.
    """
    below = np.asarray(curve) <= threshold
    return int(below.argmax()) + 1 if below.any() else len(curve) + 1
