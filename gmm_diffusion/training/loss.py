"""The loss of a denoiser, composed from its parts: weights -> condition -> denoising, and terms."""

import functools

import jax
import jax.numpy as jnp

from gmm_diffusion import conditioning
from gmm_diffusion.diffusion import noise_levels
from gmm_diffusion.diffusion.denoising_loss import (
    likelihood_weighted,
    loss_and_denoised,
    uncertainty_weighted,
)
from gmm_diffusion.diffusion.preconditioning import loss_weight
from gmm_diffusion.random_keys import Training, fold_in
from gmm_diffusion.types import (
    Array,
    Batch,
    ContrastTerm,
    Denoise,
    DenoisedTerm,
    LogVariance,
    LossFn,
    Target,
)

# What each noise level counts in the loss of a denoiser.
WEIGHTINGS = ("denoising", "likelihood")


def make_loss_fn(
    denoise: Denoise,
    log_variance: LogVariance,
    conditioner: conditioning.Conditioner | None,
    *,
    sigma_data: float,
    sigma_log_mean: float,
    sigma_log_std: float,
    preconditioning: str = "edm",
    weighting: str = "denoising",
    null_probability: float = 0.0,
    semantics_options: dict | None = None,
    term: DenoisedTerm | None = None,
    contrast: ContrastTerm | None = None,
    target: Target | None = None,
) -> LossFn:
    """The loss of one batch.

    Args:
      denoise: `(params, x, sigma, cond, keys) -> x0`; `keys` are for dropout.
      log_variance: `(params, sigma [B]) -> u [B]`.
      conditioner: the fitted statistics of the conditioning, or None.
      sigma_data: RMS of the centred data.
      sigma_log_mean: mean of `ln sigma` in training.
      sigma_log_std: standard deviation of `ln sigma` in training.
      preconditioning: of the denoiser, a key of `preconditioning.PRECONDITIONINGS`.
      weighting: of `WEIGHTINGS`. "denoising": `ln sigma` is normal, and each level's loss is
        divided by its learned size. "likelihood": `ln sigma` is uniform over
        `noise_levels.trained_range`, and the loss is that of `likelihood_weighted`; the uncertainty
        is learned beside, and changes nothing of what the denoiser learns.
      null_probability: how often the condition is replaced by the null embedding.
      semantics_options: options of the conditioning's semantics.
      term: `(params, batch, sigma [B], denoised [B, ...]) -> ([B], diagnostics)`, added to the loss
        as it is: the learned uncertainty is of the denoising alone.
      contrast: `(params, batch, cond, keys [B]) -> ([B], diagnostics)`, added likewise.
      target: `(noisy [B, ...], sigma [B], weights [B, K], keep [B]) -> [B, ...]`, what is regressed
        on instead of the data; `weights` as the network is told them, and with `keep` None without
        conditioning.

    Returns:
      `(params, batch, keys [B]) -> ([B] losses, {"denoising_loss": [B]})`, where the losses are
      weighted as said and the diagnostic is the raw loss of weight `lambda`; the term's stand
      beside it.
    """

    low, high = noise_levels.trained_range(sigma_log_mean, sigma_log_std)

    def loss_fn(params, batch: Batch, keys: Array):
        use = functools.partial(fold_in, keys)
        cond = weights = keep = None
        if conditioner is not None:
            assert batch.weights is not None, "a conditioner's batches have weights"
            uniform = jax.vmap(jax.random.uniform)(use(Training.NULL))
            keep = (uniform >= null_probability).astype(jnp.float32)
            weights, cond = conditioning.training_condition(
                conditioner,
                batch.weights,
                use(Training.SEMANTICS),
                use(Training.DRAWS),
                keep,
                **(semantics_options or {}),
            )
        if weighting == "likelihood":
            sigma = noise_levels.log_uniform(use(Training.SIGMA), low, high)
        else:
            sigma = noise_levels.log_normal(use(Training.SIGMA), sigma_log_mean, sigma_log_std)

        def denoise_fn(x, sigma, cond=None):
            return denoise(params, x, sigma, cond, use(Training.DROPOUT))

        target_fn = None
        if target is not None:
            target_fn = functools.partial(target, sigma=sigma, weights=weights, keep=keep)
        loss, denoised = loss_and_denoised(
            denoise_fn,
            use(Training.NOISE),
            batch.x,
            sigma,
            cond,
            sigma_data=sigma_data,
            preconditioning=preconditioning,
            target_fn=target_fn,
        )
        uncertainty = log_variance(params, sigma)
        if weighting == "likelihood":
            weight = loss_weight(sigma, sigma_data, preconditioning)
            weighted = likelihood_weighted(loss, sigma, low, high, weight)
            weighted += uncertainty_weighted(jax.lax.stop_gradient(loss), uncertainty)
        else:
            weighted = uncertainty_weighted(loss, uncertainty)
        found = {"denoising_loss": loss}
        if term is not None:
            added, diagnostics = term(params, batch, sigma, denoised)
            weighted, found = weighted + added, found | diagnostics
        if contrast is not None:
            added, diagnostics = contrast(params, batch, cond, use(Training.CONTRAST))
            weighted, found = weighted + added, found | diagnostics
        return weighted, found

    return loss_fn
