"""What a classifier of the mixture's components costs, and how a class is read from it.

The classifier's output is a point in the mixture's feature space, of which NGMG is the cost, or K
logits with cross-entropy; the target is the example's mixture weights `w` in both. Of a mixture
that is laid out over attributes it is one number an attribute, with centres at 0 and 1, or a logit.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gmm_diffusion.diffusion.preconditioning import c_noise, expand_like
from gmm_diffusion.mixture import GaussianMixture, ngmg
from gmm_diffusion.types import Array, Classify, PyTree

LOSSES = ("ngmg", "cross_entropy")
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
        return optax.softmax_cross_entropy(out, weights)

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


def make_classify(network: nn.Module, sigma_data: float, noisy: bool) -> Classify:
    """`(params, x [B, ...], sigma=None) -> (out, embedding)` of an encoder.

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


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A classifier without its parameters, and what its output costs.

    It equals nothing but itself: a compiled program holds the mixture's arrays as constants.

    Attributes:
      classify: from `make_classify`.
      objective: what its output costs.
    """

    classify: Classify
    objective: Objective | AttributeObjective

    def cost(self, params: PyTree, x: Array, weights: Array) -> Array:
        """Of clean data `x [B, ...]`, centred, seen under weights `[B, K]`: `[B]`."""
        return self.objective(self.classify(params, x)[0], weights)

    def components(self, params: PyTree, x: Array, sigma: Array | None = None) -> Array:
        """The share of each component in `x [B, ...]`, centred: `[B, K]`."""
        return self.objective.components(self.classify(params, x, sigma)[0])
