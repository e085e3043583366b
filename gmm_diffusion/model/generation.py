"""Drawing samples from a trained model, the same whatever the batch size or device count."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gmm_diffusion import conditioning
from gmm_diffusion.data import batches
from gmm_diffusion.devices import AXIS, example_keys, map_examples, outnumber
from gmm_diffusion.errors import RunError
from gmm_diffusion.model.fitted import Constants
from gmm_diffusion.sampling import guidance as guidances
from gmm_diffusion.sampling.parallel import PicardInfo
from gmm_diffusion.sampling.samplers import initial_noise
from gmm_diffusion.types import PyTree, Sampler

# Folded into a sample's key for the draws of its condition; step numbers stay below it.
_DRAWS = 2**31 - 2


@dataclasses.dataclass(frozen=True)
class Pull:
    """A classifier that pulls samples to where it sees their mixture weights.

    Attributes:
      params: of another run's classifier, or None for the sampled run's own.
      cost: `(params, denoised [B, ...], weights [B, K]) -> [B]`.
    """

    params: PyTree | None
    cost: Callable


@dataclasses.dataclass(frozen=True)
class Guide:
    """The models that guide: a worse model of the same data, a classifier, or both.

    Attributes:
      params: of the worse model, a dict of parts; None without one, as the next two.
      conditioner: its own constants of the same mixture, or None.
      denoise: `(params, x, sigma, cond) -> x0`.
      pull: the classifier, or None.
    """

    params: PyTree = None
    conditioner: conditioning.Conditioner | None = None
    denoise: Callable | None = None
    pull: Pull | None = None


@dataclasses.dataclass(frozen=True)
class Guidance:
    """How samples are guided; see `sampling.guidance`.

    Attributes:
      kind: none, auto, classifier_free or mixture.
      scale: 1 is no guidance.
      interval: noise levels that are guided.
      limit: bound of what is added in units of sigma, or None.
      blur: mixture: covariances or weights.
      blur_amount: mixture: how much.
      energy: strength of the classifier's pull, on top of the kind; 0 is none.
      guide: the models.
    """

    kind: str
    scale: float
    interval: tuple[float, float] | None = None
    limit: float | None = None
    blur: str = "covariances"
    blur_amount: float = 1.0
    energy: float = 0.0
    guide: Guide | None = None


def make_generator(
    denoise: Callable,
    constants: Constants,
    sampler: Sampler,
    sigmas: jax.Array,
    shape: tuple[int, ...],
    batch_size: int,
    guidance: Guidance | None = None,
    parallel: bool = False,
) -> Callable[..., np.ndarray]:
    """A function that draws samples.

    Args:
      denoise: `(params, x, sigma, cond) -> x0`.
      constants: of the run; `sample` data are returned in the units of `data.to_float`.
      sampler: from `sampling.samplers.SAMPLERS`, or `sampling.parallel.picard`, options bound.
      sigmas: `[S+1]` decreasing noise levels, the last one 0.
      shape: of one example.
      batch_size: samples in one call over all devices.
      guidance: None for none.
      parallel: the sampler is `picard`. Where devices outnumber the samples of a call, all work on
        every sample, each on its share of the steps.

    Returns:
      `(params, weights [N, K] or None, seed, num, first=0, poll=None, took=None) -> [N, ...]`
      float32. Sample i uses the key `fold_in(key(seed), first + i)`. What a parallel sampler took,
      a `PicardInfo` of `[N]`, is appended to the list `took`. RunError for a parallel trajectory
      that is not finite.
    """

    guide = None if guidance is None else guidance.guide
    together = parallel and outnumber(batch_size)
    options = {"axis_name": AXIS} if together else {}

    def draw(shared, keys, weights):
        params, constants, *_ = shared
        draw_keys = jax.vmap(lambda key: jax.random.fold_in(key, _DRAWS))(keys)

        def encode(conditioner, weights):
            return conditioning.encode(conditioner, weights, draw_keys)

        def denoise_fn(x, sigma, cond):
            return denoise(params, x, sigma, cond)

        cond = None if weights is None else encode(constants.conditioner, weights)
        if guidance is not None:
            denoise_fn, cond = _guided(guidance, denoise_fn, cond, shared, weights, encode)
        start = initial_noise(keys, shape, sigmas[0])
        drawn = sampler(denoise_fn, keys, start, sigmas, cond, **options)
        x, info = drawn if isinstance(drawn, tuple) else (drawn, None)
        return batches.invert(constants.transform, x), info

    mapped = map_examples(draw, batch_size, together)

    def generate(
        params: PyTree,
        weights: np.ndarray | None,
        seed: int,
        num: int,
        first: int = 0,
        poll: Callable | None = None,
        took: list[PicardInfo] | None = None,
    ) -> np.ndarray:
        keys = example_keys(seed, num, first)
        weights = None if weights is None else jnp.asarray(weights)
        worse = (None, None) if guide is None else (guide.params, guide.conditioner)
        pull = None if guide is None or guide.pull is None else guide.pull.params
        x, info = mapped((params, constants, *worse, pull), keys, weights, poll=poll)
        if info is not None:
            _check_finite(info, sigmas)
            if took is not None:
                took.append(info)
        return x

    return generate


def _check_finite(info, sigmas):
    bad = np.flatnonzero(info.bad_step >= 0)
    if len(bad):
        step = int(info.bad_step[bad[0]])
        raise RunError(
            f"Sample {bad[0]} is not finite from step {step} of {len(sigmas) - 1} on (noise level "
            f"{float(sigmas[step]):.3g}), and {len(bad)} of {len(info.bad_step)} samples are not."
        )


def _guided(guidance, denoise_fn, cond, shared, weights, encode):
    """The guided denoiser, and what it is conditioned on."""
    params, constants, guide_params, guide_conditioner, classifier = shared
    guide = guidance.guide
    options = {"interval": guidance.interval, "limit": guidance.limit}
    if guidance.kind == "auto":
        main_fn = denoise_fn
        worse = None if weights is None else encode(guide_conditioner, weights)
        cond = guidances.ConditionPair(cond, worse)
        denoise_fn = guidances.autoguided(
            lambda x, sigma, cond: main_fn(x, sigma, cond.main),
            lambda x, sigma, cond: guide.denoise(guide_params, x, sigma, cond.guide),
            guidance.scale,
            **options,
        )
    elif guidance.kind == "classifier_free":
        denoise_fn = guidances.classifier_free(denoise_fn, guidance.scale, **options)
    elif guidance.kind == "mixture":
        worse = _blurred(guidance, constants.conditioner, weights, encode)
        cond = guidances.ConditionPair(cond, worse)
        denoise_fn = guidances.mixture_guided(denoise_fn, guidance.scale, **options)
    if guidance.energy:
        own = params.get("classifier", constants.frozen_classifier)
        classifier = own if classifier is None else classifier
        # The weights belong to the condition: a parallel sampler calls with other rows than B.
        cond = (cond, weights)
        unpulled, energy_fn = _energy(denoise_fn, guide.pull, classifier)
        denoise_fn = guidances.energy_guided(
            unpulled, energy_fn, guidance.energy, guidance.interval
        )
    return denoise_fn, cond


def _energy(denoise_fn, pull, classifier):
    """The denoiser and `(x, sigma, cond) -> [B]`, the classifier's cost of what it makes of x.

    Both take the condition and the weights as a pair (method, 3c).
    """

    def unpulled(x, sigma, cond):
        return denoise_fn(x, sigma, cond[0])

    def energy_fn(x, sigma, cond):
        return pull.cost(classifier, unpulled(x, sigma, cond), cond[1])

    return unpulled, energy_fn


def _blurred(guidance, conditioner, weights, encode):
    """The worse condition of mixture guidance."""
    if guidance.blur == "weights":
        return encode(
            conditioner, conditioning.blur_weights(conditioner, weights, guidance.blur_amount)
        )
    return encode(conditioning.blur_covariances(conditioner, guidance.blur_amount), weights)
