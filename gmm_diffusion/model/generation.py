"""Sampling from a trained model, the same whatever the batch size or device count."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gmm_diffusion import random_keys
from gmm_diffusion.data import batches
from gmm_diffusion.devices import AXIS, example_keys, found, map_examples, outnumber
from gmm_diffusion.errors import RunError
from gmm_diffusion.model.guidance import Asked, Guidance
from gmm_diffusion.model.trained import Trained
from gmm_diffusion.sampling.parallel import PicardInfo
from gmm_diffusion.sampling.samplers import initial_noise
from gmm_diffusion.sampling.settings import SamplerSettings
from gmm_diffusion.types import Array, Poll


def condition_keys(keys: Array) -> Array:
    """Keys `[N]` of samples -> those of what they are conditioned on."""
    return random_keys.fold_in(keys, random_keys.Sample.DRAWS)


def generate(
    model: Trained,
    guidance: tuple[Guidance, ...],
    weights: np.ndarray | None,
    seed: int,
    num: int,
    first: int,
    settings: SamplerSettings,
    steps: int,
    batch_size: int,
    poll: Poll | None = None,
) -> tuple[np.ndarray, PicardInfo | None]:
    """Samples `[N, ...]` float32 in the units of `data.to_float`, and what a parallel sampler took.

    Sample i uses the key `fold_in(key(seed), first + i)`. `guidance` is from `guidance.ordered`,
    `weights` `[N, K]` or None; the rest as of `Model.sample`. What is compiled is kept: it depends
    on the settings and on what the models are made of, and not on their arrays.

    Raises:
      RunError: a parallel trajectory is not finite.
    """
    program = _program(settings, steps, model.sigma_max, batch_size, tuple(found()))
    told = None if weights is None else jnp.asarray(weights)
    x, info = program((model, guidance), example_keys(seed, num, first), told, poll=poll)
    if info is not None:
        _check_finite(info, np.asarray(settings.grid(steps, model.sigma_max)))
    return x, info


@functools.lru_cache(maxsize=64)
def _program(settings, steps, sigma_max, batch_size, devices):
    """`((model, guidance), keys [N], weights [N, K] or None, poll=None) -> ([N, ...], info)`."""
    del devices  # `map_examples` takes all there are; with others it is another program.
    # Where devices outnumber the samples of a call, all of them work on every sample, each on its
    # share of the steps.
    together = settings.window > 0 and outnumber(batch_size)
    sample = sample_fn(settings, steps, sigma_max, AXIS if together else None)
    return map_examples(sample, batch_size, together)


def sample_fn(
    settings: SamplerSettings, steps: int, sigma_max: float, axis_name: str | None = None
) -> Callable[..., tuple[Array, PicardInfo | None]]:
    """What `generate` maps over devices: `((model, guidance), keys [B], weights [B, K] or None)`.

    With `axis_name` the devices of that axis share the steps of a window.
    """
    sigmas = settings.grid(steps, sigma_max)

    def sample(shared, keys, weights):
        model, guidance = shared
        asked = Asked(model, weights, condition_keys(keys))
        cond = asked.encode(model.fitted.conditioner)

        def denoise_fn(x, sigma, cond=None):
            return model.denoiser(model.params, x, sigma, cond)

        for one in guidance:
            denoise_fn, cond = one.turn(denoise_fn, cond, asked)
        sampler = settings.sampler(model.denoiser.sigma_data, axis_name)
        start = initial_noise(keys, model.shape, sigmas[0])
        # A sampler calls it up to three times; a function of its own is traced once.
        x, info = sampler(jax.jit(denoise_fn), keys, start, sigmas, cond)
        return batches.invert(model.fitted.transform, x), info

    return sample


def _check_finite(info, sigmas):
    bad = np.flatnonzero(info.bad_step >= 0)
    if len(bad):
        step = int(info.bad_step[bad[0]])
        raise RunError(
            f"Sample {bad[0]} is not finite from step {step} of {len(sigmas) - 1} on (noise level "
            f"{float(sigmas[step]):.3g}), and {len(bad)} of {len(info.bad_step)} samples are not."
        )
