"""Guidance as values: each turns a denoiser into another one, and says what that costs.

They compose. Whatever their order in a tuple, the denoiser is made from the inside out:

  1. ClassifierFree or MixtureGuidance, of which there is one at most: both ask the model itself
     under another condition
  2. Autoguidance: what stands so far is pushed away from a worse model
  3. ClassifierGuidance: what stands so far is pulled, through its own gradient

and of one kind in the order given. Scale 1, and strength 0, is no guidance, bit for bit. The
arithmetic is that of `sampling.guidance`.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import ClassVar, NamedTuple

import numpy as np
from flax import struct

from gmm_diffusion import conditioning
from gmm_diffusion.errors import InputError
from gmm_diffusion.model.classifier import Classifier
from gmm_diffusion.model.fitted import other_data, other_mixture
from gmm_diffusion.model.trained import Trained
from gmm_diffusion.sampling import guidance as functions
from gmm_diffusion.types import Array, Condition, DenoiseFn, PyTree

Interval = tuple[float, float]


class Asked(NamedTuple):
    """What samples are asked for.

    Attributes:
      model: the model that is sampled.
      weights: `[B, K]`, or None.
      keys: `[B]` typed keys, of draws from the mixture.
    """

    model: Trained
    weights: Array | None
    keys: Array

    def encode(self, conditioner: conditioning.Conditioner | None) -> Condition | None:
        """What a network with this conditioner reads of the weights."""
        if self.weights is None or conditioner is None:
            return None
        return conditioning.encode(conditioner, self.weights, self.keys)


class Calls(NamedTuple):
    """Calls of networks for one sample, `[L]`, at each noise level where the sampler asks.

    A row of a batch is a call: one call on a doubled batch is two. A call that is differentiated
    counts as one here, and takes the memory and about the time of two.

    Attributes:
      model: of the model itself, once where it is not guided.
      guide: of what guides it, which may be the same network.
      gradient: that are differentiated, for the pull of a classifier: of the denoiser once more
        with all that guides it, and of the classifier.
    """

    model: np.ndarray
    guide: np.ndarray
    gradient: np.ndarray

    @property
    def all(self) -> np.ndarray:
        """`[L]` calls of any network."""
        return self.model + self.guide + self.gradient


@struct.dataclass
class Autoguidance:
    """Away from a worse model of the same data (Karras et al. 2024, arXiv 2406.02507).

    Attributes:
      guide: the worse model, which knows the same data and the same mixture.
      scale: 1 is no guidance.
      interval: noise levels that are guided, both ends included; None guides all.
      limit: the most that is added, in units of sigma (`sampling.guidance.push`), or None.
    """

    guide: Trained
    scale: float = struct.field(pytree_node=False)
    interval: Interval | None = struct.field(pytree_node=False, default=None)
    limit: float | None = struct.field(pytree_node=False, default=None)
    place: ClassVar[int] = 2

    def __post_init__(self):
        functions.check(self.scale, self.interval, self.limit)

    @property
    def acts(self) -> bool:
        """Whether it changes anything."""
        return scale_acts(self.scale)

    def check(self, model: Trained) -> None:
        """Raises InputError for a guide that does not fit `model`."""
        misfit = difference(model, self.guide)
        if misfit:
            raise InputError(f"Autoguidance.guide is a model {misfit}.")

    def turn(self, denoise_fn: DenoiseFn, cond: PyTree, asked: Asked) -> tuple[DenoiseFn, PyTree]:
        """A denoiser and what it is told -> the guided one and what that is told."""
        guide = self.guide
        pair = functions.ConditionPair(cond, asked.encode(guide.fitted.conditioner))

        def main_fn(x, sigma, cond=None):
            return denoise_fn(x, sigma, cond.main)

        def guide_fn(x, sigma, cond=None):
            return guide.denoiser(guide.params, x, sigma, cond.guide)

        guided = functions.autoguided(main_fn, guide_fn, self.scale, self.interval, self.limit)
        return guided, pair

    def calls(self, inner: Calls, levels: np.ndarray) -> Calls:
        """What the guided denoiser calls, given what the one inside does."""
        return inner._replace(guide=inner.guide + _inside(levels, self.interval))


@struct.dataclass
class ClassifierFree:
    """Away from the same model without a condition (Ho & Salimans 2022, arXiv 2207.12598).

    Attributes:
      scale: 1 is no guidance; published strengths are one less.
      interval: as of `Autoguidance`.
      limit: as of `Autoguidance`.
    """

    scale: float = struct.field(pytree_node=False)
    interval: Interval | None = struct.field(pytree_node=False, default=None)
    limit: float | None = struct.field(pytree_node=False, default=None)
    place: ClassVar[int] = 1

    def __post_init__(self):
        functions.check(self.scale, self.interval, self.limit)

    @property
    def acts(self) -> bool:
        """Whether it changes anything."""
        return scale_acts(self.scale)

    def check(self, model: Trained) -> None:
        """Raises InputError for a model without a condition, or trained to always have one."""
        _conditioner(self, model)
        if model.config is not None and not model.config.conditioning.dropout:
            raise InputError("ClassifierFree needs a model with conditioning.dropout above 0.")

    def turn(self, denoise_fn: DenoiseFn, cond: PyTree, asked: Asked) -> tuple[DenoiseFn, PyTree]:
        """As of `Autoguidance`."""
        guided = functions.classifier_free(denoise_fn, self.scale, self.interval, self.limit)
        return guided, cond

    def calls(self, inner: Calls, levels: np.ndarray) -> Calls:
        """As of `Autoguidance`."""
        return inner._replace(guide=inner.guide + _inside(levels, self.interval))


@struct.dataclass
class MixtureGuidance:
    """Away from the same model under a blurred mixture (ours).

    Attributes:
      scale: 1 is no guidance.
      blur: "covariances" (`conditioning.blur_covariances`) or "weights" (`blur_weights`).
      amount: how much; of weights from 0 to 1.
      interval: as of `Autoguidance`.
      limit: as of `Autoguidance`.

    Raises:
      InputError: another `blur`, or an amount, interval or limit that is none.
    """

    scale: float = struct.field(pytree_node=False)
    blur: str = struct.field(pytree_node=False, default="covariances")
    amount: float = struct.field(pytree_node=False, default=1.0)
    interval: Interval | None = struct.field(pytree_node=False, default=None)
    limit: float | None = struct.field(pytree_node=False, default=None)
    place: ClassVar[int] = 1

    def __post_init__(self):
        if self.blur not in ("covariances", "weights"):
            raise InputError(
                f"MixtureGuidance.blur is {self.blur!r}; it must be covariances or weights."
            )
        most = 1 if self.blur == "weights" else math.inf
        if not 0 <= self.amount <= most:
            raise InputError(
                f"MixtureGuidance.amount is {self.amount}; it must be at least 0, and of weights "
                "at most 1."
            )
        functions.check(self.scale, self.interval, self.limit)

    @property
    def acts(self) -> bool:
        """Whether it changes anything."""
        return scale_acts(self.scale)

    def check(self, model: Trained) -> None:
        """Raises InputError for a model without a condition, or one that cannot be blurred so."""
        conditioner = _conditioner(self, model)
        if self.blur == "covariances" and conditioner.embedding_name == "table":
            raise InputError(
                "MixtureGuidance.blur is 'covariances'; the embedding table has none: blur weights."
            )

    def turn(self, denoise_fn: DenoiseFn, cond: PyTree, asked: Asked) -> tuple[DenoiseFn, PyTree]:
        """As of `Autoguidance`."""
        conditioner = _conditioner(self, asked.model)
        if self.blur == "weights":
            assert asked.weights is not None, "a model with a condition is asked for weights"
            weights = conditioning.blur_weights(conditioner, asked.weights, self.amount)
            guide = asked._replace(weights=weights).encode(conditioner)
        else:
            guide = asked.encode(conditioning.blur_covariances(conditioner, self.amount))
        guided = functions.mixture_guided(denoise_fn, self.scale, self.interval, self.limit)
        return guided, functions.ConditionPair(cond, guide)

    def calls(self, inner: Calls, levels: np.ndarray) -> Calls:
        """As of `Autoguidance`."""
        return inner._replace(guide=inner.guide + _inside(levels, self.interval))


@struct.dataclass
class ClassifierGuidance:
    """A pull to where a classifier sees the mixture weights asked for (docs/method.md).

    Attributes:
      classifier: a model with a classifier of the same data and the same mixture; None takes that
        of the model that is sampled.
      strength: 0 is no guidance.
      interval: as of `Autoguidance`.
    """

    classifier: Trained | None = None
    strength: float = struct.field(pytree_node=False, default=1.0)
    interval: Interval | None = struct.field(pytree_node=False, default=None)
    place: ClassVar[int] = 3

    def __post_init__(self):
        functions.check(self.strength, self.interval, None)

    @property
    def acts(self) -> bool:
        """Whether it changes anything."""
        return self.strength != 0

    def check(self, model: Trained) -> None:
        """Raises InputError without a classifier that fits `model`."""
        _conditioner(self, model)
        other, _ = self._judging(model)
        misfit = difference(model, other, reads=False)
        if misfit:
            raise InputError(f"ClassifierGuidance.classifier is a model {misfit}.")

    def turn(self, denoise_fn: DenoiseFn, cond: PyTree, asked: Asked) -> tuple[DenoiseFn, PyTree]:
        """As of `Autoguidance`."""
        model, classifier = self._judging(asked.model)

        # The weights belong to the condition: a parallel sampler calls with other rows than B.
        def unpulled(x, sigma, cond=None):
            return denoise_fn(x, sigma, cond[0])

        def energy_fn(x, sigma, cond=None):
            return classifier.cost(model.classifier_params, unpulled(x, sigma, cond), cond[1])

        pulled = functions.energy_guided(unpulled, energy_fn, self.strength, self.interval)
        return pulled, (cond, asked.weights)

    def calls(self, inner: Calls, levels: np.ndarray) -> Calls:
        """As of `Autoguidance`."""
        added = _inside(levels, self.interval) * (inner.all + 1)
        return inner._replace(gradient=inner.gradient + added)

    def _judging(self, model: Trained) -> tuple[Trained, Classifier]:
        """The model whose classifier pulls the samples of `model`, and that classifier."""
        judging = model if self.classifier is None else self.classifier
        if judging.classifier is None:
            raise InputError("ClassifierGuidance.classifier is a model without a classifier.")
        return judging, judging.classifier


def scale_acts(scale: float) -> bool:
    """Whether a push of this scale changes anything."""
    return scale != 1


Guidance = Autoguidance | ClassifierFree | MixtureGuidance | ClassifierGuidance


def ordered(guidance: Guidance | Iterable[Guidance]) -> tuple[Guidance, ...]:
    """Those that act, in the order in which they are applied: what decides if a run is guided.

    Raises:
      InputError: two that ask the model itself under another condition.
    """
    given = (guidance,) if isinstance(guidance, Guidance) else tuple(guidance)
    found = tuple(sorted((g for g in given if g.acts), key=lambda g: g.place))
    if sum(g.place == 1 for g in found) > 1:
        raise InputError(
            "guidance holds more than one of ClassifierFree and MixtureGuidance; one at most asks "
            "the model under another condition."
        )
    return found


def calls(
    guidance: Guidance | Iterable[Guidance], levels: np.ndarray, everywhere: bool = False
) -> Calls:
    """What one sample calls at the noise levels `[L]` where the sampler asks the denoiser.

    Args:
      guidance: as of `Model.sample`.
      levels: `[L]`.
      everywhere: whether intervals are no help, since one call asks at many levels at once.
    """
    ones = np.ones(len(levels), int)
    found = Calls(ones, 0 * ones, 0 * ones)
    for one in ordered(guidance):
        found = (dataclasses.replace(one, interval=None) if everywhere else one).calls(
            found, levels
        )
    return found


def difference(ours: Trained, theirs: Trained, reads: bool = True) -> str:
    """Why `theirs` can take no part in sampling `ours`, in words after "a model"; "" if it can.

    Args:
      ours: the model that is sampled.
      theirs: one that guides it.
      reads: whether theirs reads the condition, and does not merely judge what comes of it.
    """
    if tuple(theirs.shape) != tuple(ours.shape):
        return f"of examples of shape {theirs.shape}; it must be of {tuple(ours.shape)}"
    if other_data(ours.fitted, theirs.fitted):
        return "that was trained on other data; it must have the same"
    different = other_mixture(ours.fitted.conditioner, theirs.fitted.conditioner, reads)
    return different and f"whose conditioning has {different}; it must have the same"


def _conditioner(guidance: "Guidance", model: Trained) -> conditioning.Conditioner:
    """What the guidance needs of a model."""
    if model.fitted.conditioner is None:
        raise InputError(
            f"{type(guidance).__name__} needs a condition, and this model was trained without one."
        )
    return model.fitted.conditioner


def _inside(levels: np.ndarray, interval: Interval | None) -> np.ndarray:
    low, high = interval or (0.0, np.inf)
    return ((levels >= low) & (levels <= high)).astype(int)
