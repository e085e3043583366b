"""The networks, their parameters at step 0, and what is made of both."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion import conditioning
from gmm_diffusion.assembly.classifiers import (
    classify,
    encoder,
    has_classifier,
    objective,
    trained_parts,
)
from gmm_diffusion.model.classifier import Classifier
from gmm_diffusion.model.denoiser import Denoiser
from gmm_diffusion.model.fitted import FittedStatistics
from gmm_diffusion.model.model import Model
from gmm_diffusion.networks import NETWORKS, LogVariance
from gmm_diffusion.networks.initialisation import initialise
from gmm_diffusion.types import PyTree


def network(config: ConfigDict) -> nn.Module:
    """The network of the denoiser."""
    group = config.network
    dtype, rematerialize = jnp.dtype(group.dtype), config.training.rematerialize
    if group.name == "mlp":
        return NETWORKS["mlp"](group.width, group.num_blocks, group.dropout, dtype, rematerialize)
    return NETWORKS["unet"](
        group.channels,
        tuple(group.channel_mult),
        group.num_blocks,
        tuple(group.attention_resolutions),
        group.attention_middle,
        group.head_channels,
        group.dropout,
        dtype,
        rematerialize,
    )


def log_variance(config: ConfigDict) -> LogVariance:
    """The network of the loss's learned log-variance."""
    return LogVariance(config.network.log_variance_features)


def init_params(config: ConfigDict, shape: tuple[int, ...], fitted: FittedStatistics) -> PyTree:
    """Parameters at step 0, a dict of parts; a pure function of `training.seed`."""
    x, c_noise, cond = _zeros((1, *shape)), _zeros(1), None
    conditioner = fitted.conditioner
    if conditioner is not None:
        cond = jax.eval_shape(
            lambda: conditioning.encode(
                conditioner, conditioner.base[None], jax.random.split(jax.random.key(0), 1)
            )
        )
        cond = jax.tree.map(lambda leaf: _zeros(leaf.shape, leaf.dtype), cond)
    level = c_noise if config.classifier.noisy else None
    inits = {
        "network": lambda key: network(config).init(key, x, c_noise, cond),
        "log_variance": lambda key: log_variance(config).init(key, c_noise),
        "classifier": lambda key: encoder(config, fitted).init(key, x, level),
    }
    seed = config.training.seed
    return {part: initialise(inits[part], seed) for part in trained_parts(config)}


def _zeros(shape, dtype=None):
    """Made on the host, where no shape has a program of its own."""
    return jnp.asarray(np.zeros(shape, dtype or jax.dtypes.canonicalize_dtype(float)))


def denoise(config: ConfigDict, fitted: FittedStatistics) -> Denoiser:
    """`(params, x, sigma, cond=None, keys=None) -> x0` in centred units."""
    return Denoiser(network(config), float(fitted.sigma_data), config.diffusion.preconditioning)


def model(
    config: ConfigDict,
    shape: tuple[int, ...],
    fitted: FittedStatistics,
    params: PyTree,
    step: int = 0,
) -> Model:
    """The model of a run with these parameters."""
    classifier = None
    if has_classifier(config):
        classifier = Classifier(classify(config, fitted), objective(config, fitted))
    return Model(params, fitted, denoise(config, fitted), tuple(shape), classifier, step, config)
