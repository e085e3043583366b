"""The loss, the optimisers and the train step."""

import functools
from collections.abc import Callable

import optax
from ml_collections import ConfigDict

from gmm_diffusion.assembly.classifiers import classify, objective, trained_parts
from gmm_diffusion.assembly.conditioners import semantics_options
from gmm_diffusion.assembly.exact import target
from gmm_diffusion.assembly.networks import denoise, log_variance
from gmm_diffusion.assembly.noise import law
from gmm_diffusion.model import denoiser as denoiser_lib
from gmm_diffusion.model.fitted import FittedStatistics
from gmm_diffusion.training import classifier_loss, contrastive_term
from gmm_diffusion.training import loss as loss_lib
from gmm_diffusion.training.optimizer import learning_rate, make_optimizer, make_sgd
from gmm_diffusion.training.step import train_step
from gmm_diffusion.types import Array, LossFn, TrainStep


def _term(config, fitted):
    """The classifier's term of a denoiser's loss, or None."""
    group = config.ngmg
    if not group.weight:
        return None
    return classifier_loss.make_term(
        classify(config, fitted),
        objective(config, fitted),
        weight=float(group.weight),
        sigma_data=float(fitted.sigma_data),
        frozen=fitted.frozen_classifier,
        on_denoised=group.on_denoised,
        teach_denoiser=group.teach_denoiser,
        teach_classifier=group.teach_classifier,
    )


def _contrast(config, fitted):
    """The contrastive term of a denoiser's loss, or None."""
    group = config.contrastive
    if not group.weight:
        return None
    log_mean, log_std = law(config, fitted)
    return contrastive_term.make_contrast(
        denoise(config, fitted),
        denoiser_lib.make_log_variance(log_variance(config)),
        weight=float(group.weight),
        zeta=tuple(group.zeta),
        zeta_law=group.zeta_law,
        num_points=group.num_points,
        importance=float(group.importance),
        stride=config.training.batch_size // group.points,
        chunk=group.chunk,
        sigma_data=float(fitted.sigma_data),
        preconditioning=config.diffusion.preconditioning,
        sigma_log_mean=log_mean,
        sigma_log_std=log_std,
    )


def loss_fn(config: ConfigDict, fitted: FittedStatistics) -> LossFn:
    """The training loss."""
    return LOSSES[config.training.task](config, fitted)


def _classifier_loss(config, fitted):
    log_mean, log_std = law(config, fitted)
    return classifier_loss.make_classifier_loss_fn(
        classify(config, fitted),
        objective(config, fitted),
        noisy=config.classifier.noisy,
        sigma_log_mean=log_mean,
        sigma_log_std=log_std,
    )


def _denoiser_loss(config, fitted):
    log_mean, log_std = law(config, fitted)
    return loss_lib.make_loss_fn(
        denoise(config, fitted),
        denoiser_lib.make_log_variance(log_variance(config)),
        fitted.conditioner,
        sigma_data=float(fitted.sigma_data),
        preconditioning=config.diffusion.preconditioning,
        weighting=config.diffusion.weighting,
        sigma_log_mean=log_mean,
        sigma_log_std=log_std,
        null_probability=config.conditioning.dropout,
        semantics_options=semantics_options(config, fitted),
        term=_term(config, fitted),
        contrast=_contrast(config, fitted),
        target=target(config, fitted),
    )


# By `training.task`.
LOSSES = {"denoiser": _denoiser_loss, "classifier": _classifier_loss}


def optimizer(config: ConfigDict) -> dict[str, optax.GradientTransformation]:
    """One optimiser for each part of the parameters."""
    schedules = learning_rates(config)
    return {part: _optimizer(config, part, schedule) for part, schedule in schedules.items()}


def learning_rates(config: ConfigDict) -> dict[str, Callable[[Array | int], Array]]:
    """The schedule of each part of the parameters: `[]` updates already made -> `[]` rate."""
    group = config.optimizer
    peaks = {"classifier": config.classifier.learning_rate}
    return {
        part: learning_rate(
            group.schedule,
            peaks.get(part, group.learning_rate),
            group.warmup_steps,
            group.decay_steps,
            config.training.num_steps,
        )
        for part in trained_parts(config)
    }


def _optimizer(config, part, schedule):
    group = config.optimizer
    if part == "classifier" and config.classifier.optimizer == "sgd":
        return make_sgd(schedule, config.classifier.momentum, group.clip_norm)
    return make_optimizer(schedule, group.beta1, group.beta2, group.epsilon, group.clip_norm)


def train_step_fn(config: ConfigDict, fitted: FittedStatistics) -> TrainStep:
    """`(state, batch, key, axis_name=None) -> (state, metrics)`."""
    return functools.partial(
        train_step,
        loss_fn=loss_fn(config, fitted),
        optimizer=optimizer(config),
        ema_widths=tuple(config.training.ema_widths),
        microbatch=config.training.microbatch,
    )
