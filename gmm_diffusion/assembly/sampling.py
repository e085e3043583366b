"""How samples are drawn, as the groups `sample` and `guidance` say, and what they cost."""

from collections.abc import Iterable

import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion.assembly.settings import of_group
from gmm_diffusion.conditioning.requests import Request
from gmm_diffusion.model import guidance as guidances
from gmm_diffusion.model.guidance import Guidance
from gmm_diffusion.model.model import Model, Samples
from gmm_diffusion.sampling.parallel import PicardInfo
from gmm_diffusion.sampling.settings import SamplerSettings
from gmm_diffusion.types import Poll


def sampler(config: ConfigDict) -> SamplerSettings:
    """The sampler with its options."""
    group = config.sample
    return of_group(
        SamplerSettings,
        group,
        name=group.sampler,
        sigma_max=group.sigma_max or None,
        window=group.parallel_window,
        tolerance=float(group.parallel_tolerance),
    )


def sample(
    model: Model,
    num: int,
    condition: str | Request,
    seed: int,
    guidance: Iterable[Guidance] = (),
    poll: Poll | None = None,
    first: int = 0,
    batch_size: int | None = None,
) -> Samples:
    """`Model.sample` as `model.config.sample` says, but for a `batch_size` that is given."""
    group = model.config.sample
    return model.sample(
        num,
        condition,
        seed,
        sampler=sampler(model.config),
        steps=group.steps,
        guidance=guidance,
        batch_size=batch_size or group.batch_size,
        component=group.component,
        first=first,
        poll=poll,
    )


def evaluations(model: Model, guidance: Iterable[Guidance] = ()) -> dict[str, int]:
    """Calls of networks for one sample.

    `evaluations` of the model itself, `guide_evaluations` of what guides it, which may be the same
    network (both calls of a doubled batch count), `gradient_evaluations` that are differentiated
    for `guidance.energy` (`model.guidance.Calls`), and `network_calls`, all of them. Parallel
    sampling takes more: see `parallel_cost`.
    """
    levels = sampler(model.config).levels(model.config.sample.steps, model.sigma_max)
    return _named(guidances.calls(guidance, levels))


def parallel_cost(
    model: Model, infos: list[PicardInfo], guidance: Iterable[Guidance] = ()
) -> dict[str, float]:
    """What parallel sampling took, a mean over samples; it has no fixed number of evaluations."""
    rounds, taken = (
        np.concatenate([np.asarray(getattr(info, name)) for info in infos])
        for name in ("rounds", "evaluations")
    )
    # A round asks at many noise levels at once, and so the guide too.
    each = _named(guidances.calls(guidance, np.ones(1), everywhere=True))
    return {
        **{name: float(taken.mean()) * number for name, number in each.items()},
        "sequential_evaluations": evaluations(model)["evaluations"],
        "rounds": float(rounds.mean()),
        "most_rounds": int(rounds.max()),
    }


def _named(calls):
    return {
        "evaluations": int(calls.model.sum()),
        "guide_evaluations": int(calls.guide.sum()),
        "gradient_evaluations": int(calls.gradient.sum()),
        "network_calls": int(calls.all.sum()),
    }
