"""The best denoiser of data of known density, to regress on in place of the data."""

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion import mixture
from gmm_diffusion.assembly.kind import kind
from gmm_diffusion.data import Dataset, toy
from gmm_diffusion.errors import InputError
from gmm_diffusion.model.fitted import FittedStatistics
from gmm_diffusion.types import Target


def check(config: ConfigDict, data: Dataset) -> None:
    """Raises InputError for `training.target` exact where the condition says more than a class.

    The responsibilities of a clean point tell where it lies within its class, and what is left of
    the density given them has no closed form.
    """
    group = config.conditioning
    own = kind(config)
    if config.training.target != "exact" or own is None or "label" in own.needs:
        return
    if not group.per_class or group.num_components != data.num_classes:
        raise InputError(
            "training.target is 'exact', which needs a condition that names a class and no more: "
            "conditioning.kind none or class, or conditioning.per_class and as many "
            f"conditioning.num_components as classes, {data.num_classes}."
        )


def target(config: ConfigDict, fitted: FittedStatistics) -> Target | None:
    """`(noisy [B, D], sigma [B], weights [B, K], keep [B]) -> [B, D]`, the mean of the clean data.

    Given weights `w` of the classes it is that under `sum_c w_c p(x | c)`, and where `keep` is 0
    under the density of all data; in centred units. None for `training.target` data.
    """
    if config.training.target == "data":
        return None
    mix, component_class = toy.density(config.data.toy_name)
    mean = jnp.asarray(fitted.transform.mean)[None]
    own = np.asarray(mix.weights, np.float64)
    class_shares = np.bincount(component_class, own)
    within = jnp.asarray(own / class_shares[component_class], jnp.float32)
    conditioner = fitted.conditioner
    if conditioner is not None:
        # Where in the weights each class stands.
        order = np.argsort(np.asarray(conditioner.component_class))

    def mean_of_clean(noisy, sigma, weights, keep):
        shares = None
        if weights is not None:
            told = jnp.where(keep[:, None] > 0, weights[:, order], jnp.float32(class_shares)[None])
            shares = told[:, component_class] * within[None]
        return mixture.denoise(mix, noisy + mean, sigma, shares) - mean

    return mean_of_clean
