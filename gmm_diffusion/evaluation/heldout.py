"""What is watched while a denoiser trains: its loss on held-out data, and a sheet of samples."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from scipy.special import ndtri

from gmm_diffusion import assembly, conditioning
from gmm_diffusion.data import Dataset, batches
from gmm_diffusion.data.dataset import evenly_spaced
from gmm_diffusion.devices import example_keys, map_examples
from gmm_diffusion.diffusion.denoising_loss import denoising_loss
from gmm_diffusion.model.fitted import FittedStatistics
from gmm_diffusion.random_keys import HeldOut, fold_in
from gmm_diffusion.types import Poll, PyTree

# At most so many examples in the denoising loss that is logged while training, which computes each
# at every level, twice: of 1,024 it took a seventh of a run on a CPU.
_LOSS_EXAMPLES = 256


class HeldOutLosses(Protocol):
    """The loss of parameters on data that are not trained on."""

    def __call__(self, params: PyTree, poll: Poll | None = None) -> dict[str, float]:
        """`params` a dict of parts -> losses by name; `poll` is called before each batch."""


class Sheet(Protocol):
    """Samples of parameters, to be looked at."""

    def __call__(self, params: PyTree, poll: Poll | None = None) -> np.ndarray:
        """`params` a dict of parts -> `[N, ...]`; `poll` is called before each batch."""


def make_heldout_losses(
    config: ConfigDict, data: Dataset, fitted: FittedStatistics
) -> HeldOutLosses:
    """`(params, poll=None) -> {"heldout_loss/sigma_0.30": ...}`, by noise level and their mean.

    They are of at most 256 examples of `Dataset.watched`, evenly spaced. The levels are evenly
    spaced quantiles of the log-normal law of sigma, whatever the weighting. The noise is the same
    at every call, and the conditions are drawn as in training. The weight is EDM's, whatever the
    preconditioning.
    """
    split = data.watched.read(evenly_spaced(len(data.watched), _LOSS_EXAMPLES))
    num = len(split)
    levels = config.evaluation.loss_levels
    quantiles = ndtri((np.arange(levels) + 0.5) / levels)
    log_mean, log_std = assembly.noise_law(config, fitted)
    sigmas = np.exp(log_mean + log_std * quantiles)
    # Floats of a whole split of large images would take four times what stands in memory.
    x = batches.Views(split.x, jax.device_get(fitted.transform), flip=False)
    keys = example_keys(config.training.seed, num)
    by_view = assembly.split_weights(config, fitted, split)
    weights = None if by_view is None else jnp.asarray(by_view[0])
    semantics_options = assembly.semantics_options(config, fitted)
    denoise = assembly.denoise(config, fitted)
    sigma_data = float(fitted.sigma_data)

    def one_batch(shared, x, keys, sigma, weights):
        params, fitted = shared
        cond = None
        if weights is not None:
            _, cond = conditioning.training_condition(
                fitted.conditioner,
                weights,
                fold_in(keys, HeldOut.SEMANTICS),
                fold_in(keys, HeldOut.DRAWS),
                **semantics_options,
            )

        def denoise_fn(x, sigma, cond=None):
            return denoise(params, x, sigma, cond)

        return denoising_loss(
            denoise_fn, fold_in(keys, HeldOut.NOISE), x, sigma, cond, sigma_data=sigma_data
        )

    mapped = map_examples(one_batch, config.sample.batch_size)

    def losses(params, poll=None):
        means, all_levels = {}, []
        for sigma in sigmas:
            level = np.full(num, sigma, np.float32)
            values = mapped((params, fitted), x, keys, level, weights, poll=poll)
            all_levels.append(float(values.mean()))
            means[f"heldout_loss/sigma_{sigma:.3g}"] = all_levels[-1]
        # Of many levels some share a name.
        means["heldout_loss/mean"] = float(np.mean(all_levels))
        return means

    return losses


def make_sheet(config: ConfigDict, data: Dataset, fitted: FittedStatistics) -> Sheet:
    """`(params, poll=None) -> [N, ...]` samples of the training marginal, the same seeds always.

    They are not guided: sheets of a run and of its guide are to be compared.
    """
    model = assembly.model(config, data.shape, fitted, {})
    num, seed = config.sample.num, config.sample.seed

    def sheet(params, poll=None):
        trained = dataclasses.replace(model, params=params)
        return assembly.sample(trained, num, "train", seed, poll=poll).x

    return sheet
