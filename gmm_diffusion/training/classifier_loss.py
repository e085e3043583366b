"""The losses of a classifier of the mixture's components: alone, and in a denoiser's train step."""

import functools

import jax
import jax.numpy as jnp

from gmm_diffusion.diffusion import noise_levels
from gmm_diffusion.diffusion.preconditioning import expand_like
from gmm_diffusion.random_keys import Training, fold_in
from gmm_diffusion.types import Array, Batch, Classify, Cost, DenoisedTerm, LossFn, PyTree


def _weights(batch: Batch) -> Array:
    assert batch.weights is not None, "a classifier's batches have weights"
    return batch.weights


def make_classifier_loss_fn(
    classify: Classify,
    objective: Cost,
    *,
    noisy: bool = False,
    sigma_log_mean: float = 0.0,
    sigma_log_std: float = 1.0,
) -> LossFn:
    """The loss of a classifier that is trained by itself.

    Args:
      classify: from `model.classifier.make_classify`; its parameters are the part "classifier".
      objective: the cost.
      noisy: whether half of the loss is that of noisy data, `ln sigma` normal.
      sigma_log_mean: mean of `ln sigma`.
      sigma_log_std: standard deviation of `ln sigma`.

    Returns:
      `(params, batch, keys [B]) -> ([B] losses, {"classifier_loss": [B]})`.
    """

    def loss_fn(params, batch: Batch, keys: Array):
        loss = objective(classify(params["classifier"], batch.x)[0], _weights(batch))
        if noisy:
            use = functools.partial(fold_in, keys)
            sigma_keys, noise_keys = use(Training.CLASSIFIER_SIGMA), use(Training.CLASSIFIER_NOISE)
            sigma = noise_levels.log_normal(sigma_keys, sigma_log_mean, sigma_log_std)
            noise = jax.vmap(lambda key: jax.random.normal(key, batch.x.shape[1:]))(noise_keys)
            x = batch.x + expand_like(sigma, batch.x) * noise
            seen = objective(classify(params["classifier"], x, sigma)[0], _weights(batch))
            loss = (loss + seen) / 2
        return loss, {"classifier_loss": loss}

    return loss_fn


def make_term(
    classify: Classify,
    objective: Cost,
    *,
    weight: float,
    sigma_data: float,
    frozen: PyTree | None = None,
    on_denoised: bool = True,
    teach_denoiser: bool = True,
    teach_classifier: bool = False,
) -> DenoisedTerm:
    """The classifier's part in a denoiser's train step (method, section 3; our reading).

    `weight * lambda(sigma) * cost(C(D(x_sigma; sigma, c)), w)` with
    `lambda = sigma_data^2 / (sigma^2 + sigma_data^2)`, which falls as the noise rises. A classifier
    that is trained beside the denoiser adds its own cost, of clean and of denoised data, without
    that weight: it reaches the classifier's parameters only.

    Args:
      classify: from `model.classifier.make_classify`.
      objective: the cost.
      weight: of the term, positive.
      sigma_data: RMS of the centred data.
      frozen: parameters of a classifier that is not trained; None trains `params["classifier"]`.
      on_denoised: whether the classifier's own cost is of denoised data, too, weighted by lambda.
      teach_denoiser: whether the term's gradient reaches the denoiser.
      teach_classifier: whether it reaches a classifier that is trained beside.

    Returns:
      `(params, batch, sigma [B], denoised [B, ...]) -> ([B], diagnostics)`; see
      `loss.make_loss_fn`. The diagnostics are "ngmg_term", the cost on denoised data without
      weights, and beside "classifier_loss", that on clean data.
    """
    stop = jax.lax.stop_gradient

    def term(params, batch: Batch, sigma: Array, denoised: Array):
        share = sigma_data**2 / (jnp.square(sigma) + sigma_data**2)
        beside = frozen is None
        classifier = params["classifier"] if beside else frozen

        def cost(classifier, x):
            return objective(classify(classifier, x)[0], _weights(batch))

        seen = cost(
            classifier if teach_classifier else stop(classifier),
            denoised if teach_denoiser else stop(denoised),
        )
        added = weight * share * seen
        if not beside:
            return added, {"ngmg_term": seen}
        own = cost(classifier, batch.x)
        added = added + own
        if on_denoised:
            added = added + share * cost(classifier, stop(denoised))
        return added, {"ngmg_term": seen, "classifier_loss": own}

    return term
