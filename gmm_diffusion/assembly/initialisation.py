"""What a new run starts from: its own statistics and parameters, or those of another run."""

import jax
import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion import config as config_lib
from gmm_diffusion import paths
from gmm_diffusion.assembly import conditioners, guides, networks, noise
from gmm_diffusion.assembly import load as load_lib
from gmm_diffusion.data import Dataset
from gmm_diffusion.errors import InputError
from gmm_diffusion.model.fitted import FittedStatistics
from gmm_diffusion.types import PyTree

# What two runs must share for the parameters of one to mean the same in the other.
_SHARED = ("data", "conditioning", "network")
_SHARED_FIELDS = ("diffusion.preconditioning",)


def fit_statistics(config: ConfigDict, data: Dataset) -> FittedStatistics:
    """What is fitted to the data, or to those of the run that `training.init_from` names.

    Beside it stands the classifier of `ngmg.workdir`, where one takes part.

    Raises:
      InputError: as `conditioners.fit_statistics` and `guides.load_classifier`, or for a run of
        another model.
    """
    return fit_with_weights(config, data)[0]


def fit_with_weights(
    config: ConfigDict, data: Dataset
) -> tuple[FittedStatistics, np.ndarray | None]:
    """`fit_statistics`, and the weights of the training split as `split_weights` has them.

    None in their place where the statistics are another run's.
    """
    weights = None
    if config.training.init_from:
        noise_law = noise.fit(config, data.train.x)
        made = _run(config).fitted.replace(frozen_classifier=None, noise_law=noise_law)
    else:
        made, weights = conditioners.fit_with_weights(config, data)
    if config.ngmg.weight and config.ngmg.workdir:
        classifier = guides.load_classifier(config, config.ngmg.workdir, made)
        made = made.replace(frozen_classifier=classifier)
    return made, weights


def params(config: ConfigDict, shape: tuple[int, ...], fitted: FittedStatistics) -> PyTree:
    """Parameters at step 0: a part of the run that `training.init_from` names, or a fresh one.

    Of that run it is the average that its `sample.ema` names.

    Raises:
      InputError: for a run of another model.
    """
    fresh = networks.init_params(config, shape, fitted)
    if not config.training.init_from:
        return fresh
    theirs = jax.device_get(_run(config).params)
    for part in fresh.keys() & theirs.keys():
        shapes = [jax.tree.map(lambda leaf: leaf.shape, tree[part]) for tree in (fresh, theirs)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"training.init_from is {config.training.init_from!r}, whose {part} has other "
                "parameters; it must be a run of the same model."
            )
    return {part: theirs.get(part, own) for part, own in fresh.items()}


def _run(config):
    workdir = config.training.init_from
    paths.folder(workdir, "training.init_from", exists="the workdir of a run", bucket=True)
    run = load_lib.load_run(workdir)
    ours, theirs = (
        config_lib.plain_fields(c, _SHARED) | {f: config_lib.fields(c)[f] for f in _SHARED_FIELDS}
        for c in (config, run.config)
    )
    different = [
        f"{f}: {theirs[f]!r} -> {ours[f]!r}"
        for f in ours
        if ours[f] != theirs[f] and f not in config_lib.FREE_FIELDS
    ]
    if different:
        raise InputError(
            f"training.init_from is {workdir!r}, a run of another model; it must be one of the "
            f"same: {'; '.join(different)}."
        )
    asked, scale = config.diffusion.sigma_data, float(run.fitted.sigma_data)
    if asked and not np.isclose(asked, scale, rtol=1e-5):
        raise InputError(
            f"diffusion.sigma_data is {asked:g}, and training.init_from {workdir!r}, whose data "
            f"have {scale:g}; valid are that and 0, which takes it."
        )
    return run
