"""What a classifier of the mixture's components costs, and how a class is read from it.

The classifier's output is a point in the mixture's feature space, of which NGMG is the cost, or K
logits with cross-entropy; the target is the example's mixture weights `w` in both. Of a mixture
that is laid out over attributes it is one number an attribute, with centres at 0 and 1, or a logit.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gmm_diffusion.diffusion import noise_levels
from gmm_diffusion.diffusion.preconditioning import c_noise, expand_like
from gmm_diffusion.mixture import GaussianMixture, ngmg
from gmm_diffusion.types import Array, Batch, LossFn

LOSSES = ("ngmg", "cross_entropy")
# Each use of an example's key folds in a number of its own; those of `loss` come before.
_NOISE, _SIGMA = 20, 21
# Noise that counts as none, relative to the data: ln 0 is no input.
_CLEAN = 1e-2
_ATTRIBUTE_CENTERS = np.array(ngmg.ATTRIBUTE_CENTERS, np.float32)


@dataclasses.dataclass(frozen=True)
class Objective:
    """The cost of a classifier's output.

    Attributes:
      loss: "ngmg" or "cross_entropy".
      mixture: whose components are the targets.
      scale: of ngmg, as `ngmg.energy` takes it.
      form: of ngmg, "density" or "log".
    """

    loss: str
    mixture: GaussianMixture
    scale: tuple[float, ...] | GaussianMixture = (1.0,)
    form: str = "density"

    @property
    def out_dim(self) -> int:
        """Entries of the output: D of a point, K of logits."""
        return self.mixture.dim if self.loss == "ngmg" else self.mixture.num_components

    def __call__(self, out: Array, weights: Array) -> Array:
        """Output `[B, D or K]` and target weights `[B, K]` -> `[B]`.

        `ngmg.energy`, or the cross-entropy `-sum_k w_k log softmax(out)_k`.
        """
        if self.loss == "ngmg":
            return ngmg.energy(out, weights, self.mixture.means, self.scale, self.form)
        return -jnp.sum(weights * jax.nn.log_softmax(out), axis=-1)

    def components(self, out: Array) -> Array:
        """The share of each component in what the classifier sees: `[B, D or K] -> [B, K]`.

        Of logits their softmax; of a point `pi_k exp(-q_k / 2)`, normalised, at the smallest of
        several scales: nearly all of it belongs to the nearest centre (our reading).
        """
        if self.loss != "ngmg":
            return jax.nn.softmax(out)
        scale = self.scale if isinstance(self.scale, GaussianMixture) else min(self.scale)
        return ngmg.shares(out, self.mixture.weights, self.mixture.means, scale)


@dataclasses.dataclass(frozen=True)
class AttributeObjective:
    """The cost of a classifier of A attributes, as `Objective`; weights are those of 2A components.

    Attributes:
      loss: "ngmg" (one number an attribute, `ngmg.attribute_energy`) or "cross_entropy" (binary).
      num_attributes: A.
      scale: of ngmg; the centres are 0 and 1.
      form: of ngmg, "density" or "log".
    """

    loss: str
    num_attributes: int
    scale: tuple[float, ...] = (1.0,)
    form: str = "density"

    @property
    def out_dim(self) -> int:
        """Entries of the output: A."""
        return self.num_attributes

    def __call__(self, out: Array, weights: Array) -> Array:
        """Output `[B, A]` and target weights `[B, 2A]` -> `[B]`, summed over attributes."""
        # Weights of an example are 1/A each: times A they are each attribute's own two.
        pairs = self.num_attributes * weights.reshape(-1, self.num_attributes, 2)
        if self.loss == "ngmg":
            each = ngmg.energy(out[..., None], pairs, _ATTRIBUTE_CENTERS, self.scale, self.form)
            return each.sum(axis=-1)
        return (jax.nn.softplus(out) - pairs[..., 1] * out).sum(axis=-1)

    def components(self, out: Array) -> Array:
        """The share of each component in what the classifier sees: `[B, A] -> [B, 2A]`."""
        if self.loss == "ngmg":
            even = jnp.full(2, 0.5)
            own = ngmg.shares(out[..., None], even, _ATTRIBUTE_CENTERS, min(self.scale))
        else:
            own = jax.nn.sigmoid(jnp.stack([-out, out], axis=-1))
        return own.reshape(len(out), -1) / self.num_attributes


def make_classify(network, sigma_data: float, noisy: bool) -> Callable:
    """`(params, x [B, ...], sigma=None) -> (out, embedding)` of a linen encoder.

    `x` is centred, and scaled to unit RMS here. `sigma`, `[B]` or `[]`, is the noise that `x`
    holds, None for none; only an encoder that was made `noisy` sees it.
    """

    def classify(params, x, sigma=None):
        sigma = jnp.zeros(()) if sigma is None else sigma
        x = x / jnp.sqrt(jnp.square(expand_like(sigma, x)) + sigma_data**2)
        if not noisy:
            return network.apply({"params": params}, x)
        floor = _CLEAN * sigma_data
        level = jnp.broadcast_to(jnp.maximum(sigma, floor), x.shape[:1])
        return network.apply({"params": params}, x, c_noise(level))

    return classify


def make_classifier_loss_fn(
    classify: Callable,
    objective: Objective,
    *,
    noisy: bool = False,
    sigma_log_mean: float = 0.0,
    sigma_log_std: float = 1.0,
) -> LossFn:
    """The loss of a classifier that is trained by itself.

    Args:
      classify: from `make_classify`; its parameters are the part "classifier".
      objective: the cost.
      noisy: whether half of the loss is that of noisy data, `ln sigma` normal.
      sigma_log_mean: mean of `ln sigma`.
      sigma_log_std: standard deviation of `ln sigma`.

    Returns:
      `(params, batch, keys [B]) -> ([B] losses, {"classifier_loss": [B]})`.
    """

    def loss_fn(params, batch: Batch, keys: Array):
        loss = objective(classify(params["classifier"], batch.x)[0], batch.weights)
        if noisy:

            def use(number):
                return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)

            sigma = noise_levels.log_normal(use(_SIGMA), sigma_log_mean, sigma_log_std)
            noise = jax.vmap(lambda key: jax.random.normal(key, batch.x.shape[1:]))(use(_NOISE))
            x = batch.x + expand_like(sigma, batch.x) * noise
            seen = objective(classify(params["classifier"], x, sigma)[0], batch.weights)
            loss = (loss + seen) / 2
        return loss, {"classifier_loss": loss}

    return loss_fn


def make_term(
    classify: Callable,
    objective: Objective,
    *,
    weight: float,
    sigma_data: float,
    frozen=None,
    on_denoised: bool = True,
    teach_denoiser: bool = True,
    teach_classifier: bool = False,
) -> Callable:
    """The classifier's part in a denoiser's train step (method, section 3; our reading).

    `weight * lambda(sigma) * cost(C(D(x_sigma; sigma, c)), w)` with
    `lambda = sigma_data^2 / (sigma^2 + sigma_data^2)`, which falls as the noise rises. A classifier
    that is trained beside the denoiser adds its own cost, of clean and of denoised data, without
    that weight: it reaches the classifier's parameters only.

    Args:
      classify: from `make_classify`.
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
            return objective(classify(classifier, x)[0], batch.weights)

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
