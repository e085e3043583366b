"""From a config to the parts of a run; the only reader of the groups that define a model."""

from gmm_diffusion.assembly.classifiers import (
    classify,
    encoder,
    has_classifier,
    objective,
    trained_parts,
)
from gmm_diffusion.assembly.conditioners import fit_statistics, semantics_options, split_weights
from gmm_diffusion.assembly.datasets import dataset
from gmm_diffusion.assembly.kind import kind
from gmm_diffusion.assembly.networks import denoise, init_params, model, network
from gmm_diffusion.assembly.noise import fit as fit_noise_law
from gmm_diffusion.assembly.noise import law as noise_law
from gmm_diffusion.assembly.sampling import evaluations, parallel_cost, sample, sampler
from gmm_diffusion.assembly.training import learning_rates, loss_fn, optimizer, train_step_fn

__all__ = [
    "classify",
    "dataset",
    "denoise",
    "encoder",
    "evaluations",
    "fit_noise_law",
    "fit_statistics",
    "has_classifier",
    "init_params",
    "kind",
    "learning_rates",
    "loss_fn",
    "model",
    "network",
    "noise_law",
    "objective",
    "optimizer",
    "parallel_cost",
    "sample",
    "sampler",
    "semantics_options",
    "split_weights",
    "train_step_fn",
    "trained_parts",
]
