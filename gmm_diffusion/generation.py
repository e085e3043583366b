"""Drawing samples from a trained model, the same whatever the batch size or device count."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gmm_diffusion import conditioning
from gmm_diffusion.data import batches
from gmm_diffusion.sampling.samplers import initial_noise
from gmm_diffusion.training.constants import Constants
from gmm_diffusion.training.devices import example_keys, map_examples
from gmm_diffusion.types import PyTree, Sampler

# Folded into a sample's key for the draws of its condition; step numbers stay below it.
_DRAWS = 2**31 - 2


def make_generator(
    denoise: Callable,
    constants: Constants,
    sampler: Sampler,
    sigmas: jax.Array,
    shape: tuple[int, ...],
    batch_size: int,
) -> Callable[..., np.ndarray]:
    """A function that draws samples.

    Args:
      denoise: `(params, x, sigma, cond) -> x0`.
      constants: of the run; `sample` data are returned in the units of `data.to_float`.
      sampler: from `sampling.samplers.SAMPLERS`, options bound.
      sigmas: `[S+1]` decreasing noise levels, the last one 0.
      shape: of one example.
      batch_size: samples in one call over all devices.

    Returns:
      `(params, weights [N, K] or None, seed, num, first=0, poll=None) -> [N, ...]` float32.
      Sample i uses the key `fold_in(key(seed), first + i)`.
    """

    def draw(shared, keys, weights):
        params, constants = shared
        cond = None
        if weights is not None:
            fold = jax.vmap(lambda key: jax.random.fold_in(key, _DRAWS))
            cond = conditioning.encode(constants.conditioner, weights, fold(keys))

        def denoise_fn(x, sigma, cond):
            return denoise(params, x, sigma, cond)

        x = sampler(denoise_fn, keys, initial_noise(keys, shape, sigmas[0]), sigmas, cond)
        return batches.invert(constants.transform, x)

    mapped = map_examples(draw, batch_size)

    def generate(
        params: PyTree,
        weights: np.ndarray | None,
        seed: int,
        num: int,
        first: int = 0,
        poll: Callable | None = None,
    ) -> np.ndarray:
        keys = example_keys(seed, num, first)
        weights = None if weights is None else jnp.asarray(weights)
        return mapped((params, constants), keys, weights, poll=poll)

    return generate
