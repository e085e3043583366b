"""How samples are drawn: the sampler, its levels and its guidance, and what they cost."""

import functools
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion.assembly.networks import denoise
from gmm_diffusion.assembly.noise import sigma_max
from gmm_diffusion.diffusion import noise_levels
from gmm_diffusion.model.fitted import Constants
from gmm_diffusion.model.generation import Guidance, Guide, make_generator
from gmm_diffusion.sampling.parallel import PicardInfo, picard
from gmm_diffusion.sampling.samplers import SAMPLERS
from gmm_diffusion.types import Sampler


def sampler(config: ConfigDict, sigma_data: float = 1.0) -> Sampler:
    """The sampler with its options bound; with a window, `picard` of its step."""
    group = config.sample
    options = {}
    if group.sampler == "heun":
        options = {
            "churn": group.churn,
            "churn_min": group.churn_min,
            "churn_max": group.churn_max,
            "churn_noise": group.churn_noise,
        }
    elif group.sampler == "ancestral":
        options = {"eta": group.eta}
    if group.parallel_window:
        return functools.partial(
            picard,
            step=group.sampler,
            window=group.parallel_window,
            tolerance=float(group.parallel_tolerance),
            sigma_data=sigma_data,
            **options,
        )
    return functools.partial(SAMPLERS[group.sampler], **options)


def _sigmas(config, constants):
    group = config.sample
    highest = sigma_max(config, constants)
    return noise_levels.karras(group.steps, group.sigma_min, highest, group.rho)


def evaluations(config: ConfigDict, constants: Constants) -> dict[str, int]:
    """Calls for one sample of the main model, and of what guides it, which may be the same network.

    Both calls of a doubled batch count. Parallel sampling takes more: see `parallel_cost`.
    """
    levels = SAMPLERS[config.sample.sampler].levels(np.asarray(_sigmas(config, constants)))
    low, high = config.guidance.interval
    guided = config.guidance.kind != "none" and config.guidance.scale != 1
    inside = (levels >= low) & (levels <= high)
    return {"evaluations": len(levels), "guide_evaluations": int(inside.sum()) if guided else 0}


def parallel_cost(
    config: ConfigDict, constants: Constants, took: list[PicardInfo]
) -> dict[str, float]:
    """What parallel sampling took, a mean over samples; it has no fixed number of evaluations."""
    rounds, calls = (
        np.concatenate([np.asarray(getattr(info, name)) for info in took])
        for name in ("rounds", "evaluations")
    )
    # A round asks at many noise levels at once, and so the guide too.
    guided = config.guidance.kind != "none" and config.guidance.scale != 1
    return {
        "evaluations": float(calls.mean()),
        "sequential_evaluations": evaluations(config, constants)["evaluations"],
        "guide_evaluations": float(calls.mean()) if guided else 0,
        "rounds": float(rounds.mean()),
        "most_rounds": int(rounds.max()),
    }


def guidance(config: ConfigDict, guide: Guide | None = None) -> Guidance | None:
    """How samples are guided, or None where they are not.

    Args:
      config: its group `guidance`.
      guide: for the kind auto and for `guidance.energy`; see `assembly.guides.load`.
    """
    group = config.guidance
    kind = "none" if group.scale == 1 else group.kind
    if kind == "none" and not group.energy:
        return None
    return Guidance(
        kind,
        float(group.scale),
        tuple(group.interval),
        group.limit or None,
        group.blur,
        float(group.blur_amount),
        float(group.energy),
        guide,
    )


def generator(
    config: ConfigDict,
    constants: Constants,
    shape: tuple[int, ...],
    guidance: Guidance | None = None,
) -> Callable:
    """Draws samples; see `model.generation.make_generator`."""
    return make_generator(
        denoise(config, constants),
        constants,
        sampler(config, float(constants.sigma_data)),
        _sigmas(config, constants),
        shape,
        config.sample.batch_size,
        guidance,
        parallel=config.sample.parallel_window > 0,
    )
