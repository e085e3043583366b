"""A trained model, and all that can be asked of it."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gmm_diffusion import conditioning, paths
from gmm_diffusion.bounds import is_whole
from gmm_diffusion.conditioning import requests
from gmm_diffusion.conditioning.requests import Request
from gmm_diffusion.data import batches, shown_image, to_float, to_uint8
from gmm_diffusion.data.arrays import read_npy
from gmm_diffusion.data.latents import Decoder, decode
from gmm_diffusion.devices import example_keys
from gmm_diffusion.errors import InputError
from gmm_diffusion.model import generation
from gmm_diffusion.model import guidance as guidances
from gmm_diffusion.model.classifier import Classifier
from gmm_diffusion.model.denoiser import Denoiser
from gmm_diffusion.model.embedder import embed
from gmm_diffusion.model.fitted import FittedStatistics
from gmm_diffusion.sampling.parallel import PicardInfo
from gmm_diffusion.sampling.settings import SamplerSettings
from gmm_diffusion.types import Array, Condition, Poll, PyTree

# Where sampling starts in EDM (arXiv 2206.00364).
_SIGMA_MAX = 80.0
# Of a float image in [-1, 1]; samples leave it a little.
_LARGEST_PIXEL = 2.0


@dataclasses.dataclass(frozen=True)
class Samples:
    """What was drawn, and what each sample was asked for.

    Attributes:
      x: `[N, ...]` float32, in the units of the data; images in [-1, 1], or a little beyond.
      weights: `[N, K]` float32 as the network was told them (one-hot for drawn components), or None
        of a model without a condition, as the next two.
      label: `[N]` int32, -1 where no single class was asked for.
      attributes: `[N, A]` uint8, or None where there are none.
      info: what parallel sampling took, or None.
      latent: whether `x` are latents, which are no pictures without a decoder.
    """

    x: np.ndarray
    weights: np.ndarray | None = None
    label: np.ndarray | None = None
    attributes: np.ndarray | None = None
    info: PicardInfo | None = None
    latent: bool = False

    def images(self, decoder: Decoder | None = None) -> np.ndarray:
        """`[N, H, W, C]` uint8, rounded as the metrics and saved files have it.

        Args:
          decoder: of latents (`data.latents`); other samples are not decoded.

        Raises:
          InputError: the samples are vectors, latents without a decoder, or not finite.
        """
        if self.x.ndim != 4:
            raise InputError(f"samples of shape {self.x.shape} are no images; use x.")
        if not self.latent:
            return to_uint8(self.x)
        if decoder is None:
            raise InputError("The samples are latents, which need a decoder; or use x.")
        return decode(decoder, self.x)


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A network with its parameters and all that was fitted to data beside.

    It is a pytree of `params` and `fitted`, and may be an argument of functions that are compiled;
    inside them `step` is 0 and `config` None. `dataclasses.replace` makes another one.

    Attributes:
      params: a dict of parts, "network" and "log_variance" of a denoiser, "classifier" of a
        classifier that was trained.
      fitted: everything fitted to data before training.
      denoiser: the network without its parameters.
      shape: of one example.
      classifier: the classifier without its parameters, or None.
      step: updates made.
      config: the settings of the run, or None.
    """

    params: PyTree
    fitted: FittedStatistics
    denoiser: Denoiser
    shape: tuple[int, ...]
    classifier: Classifier | None = None
    step: int = 0
    config: Any = None

    def tree_flatten(self) -> tuple[PyTree, Any]:
        """Of the pytree."""
        return (self.params, self.fitted), (self.denoiser, self.shape, self.classifier)

    @classmethod
    def tree_unflatten(cls, static: Any, children: PyTree) -> "Model":
        """Of the pytree."""
        return cls(*children, *static)

    @property
    def conditioner(self) -> conditioning.Conditioner | None:
        """The fitted statistics of the conditioning; see `conditioning.encode`."""
        return self.fitted.conditioner

    @property
    def sigma_max(self) -> float:
        """Where sampling starts: 80, or what `diffusion.law` auto has fitted."""
        law = self.fitted.noise_law
        return _SIGMA_MAX if law is None else float(law.highest)

    @property
    def classifier_params(self) -> PyTree:
        """Of the classifier, trained with the model or given to it; None without one."""
        return self.params.get("classifier", self.fitted.frozen_classifier)

    def sample(
        self,
        num: int,
        condition: str | np.ndarray | Request = "train",
        seed: int = 0,
        *,
        sampler: str | SamplerSettings = "heun",
        steps: int = 18,
        guidance: guidances.Guidance | Iterable[guidances.Guidance] = (),
        batch_size: int = 128,
        component: str | None = None,
        first: int = 0,
        poll: Poll | None = None,
    ) -> Samples:
        """Samples, on all devices.

        Sample i depends on the seed and i, and not on how many there are, `batch_size` or the
        number of devices, but for rounding.

        Args:
          num: N.
          condition: as of `request`.
          seed: of noise, and of what is drawn to meet the condition.
          sampler: its name, or all its settings.
          steps: of the sampler.
          guidance: one or several; see `model.guidance` for their order.
          batch_size: samples drawn at once, over all devices.
          component: as of `request`.
          first: draws samples `first .. first + num - 1` of the same seed.
          poll: called before each batch; what it raises ends the sampling.

        Raises:
          InputError: the model is a classifier alone, a condition that it does not know, guidance
            that does not fit it, or a number that is none.
          RunError: a parallel trajectory is not finite.
        """
        if "network" not in self.params:
            raise InputError("This model is a classifier alone; sampling needs a denoiser.")
        for name, value, least in (
            ("num", num, 1),
            ("seed", seed, 0),
            ("steps", steps, 1),
            ("batch_size", batch_size, 1),
            ("first", first, 0),
        ):
            if not is_whole(value) or value < least:
                raise InputError(
                    f"{name} is {value!r}; it must be a whole number, at least {least}."
                )
        settings = SamplerSettings(sampler) if isinstance(sampler, str) else sampler
        acting = guidances.ordered(guidance)
        for one in acting:
            one.check(self)
        asked = self.request(condition, num, seed, component, first)
        weights = None if asked is None else asked.weights
        x, info = generation.generate(
            self, acting, weights, seed, num, first, settings, steps, batch_size, poll
        )
        latent = self.fitted.latent
        if asked is None:
            return Samples(x, info=info, latent=latent)
        return Samples(x, asked.weights, asked.label, asked.attributes, info, latent)

    def request(
        self,
        condition: str | np.ndarray | Request,
        num: int,
        seed: int = 0,
        component: str | None = None,
        first: int = 0,
    ) -> Request | None:
        """What `num` samples are asked for; None for a model without a condition.

        Args:
          condition: a text (`conditioning.requests`), weights `[N, K]` or `[K]`, or a request.
          num: N.
          seed: of what is drawn to meet a text.
          component: drawn or literal, of a text under `mixture` semantics; None is what the run's
            `sample.component` says, or drawn.
          first: the place of the first sample among all those of the seed.

        Raises:
          InputError: a condition that the model does not know, or weights of another shape, or off
            the simplex.
        """
        conditioner = self.conditioner
        if isinstance(condition, str):
            if conditioner is None:
                requests.check(requests.parse(condition), 0, 0)
                return None
            if component is None:
                component = "drawn" if self.config is None else self.config.sample.component
            asked = requests.weights(
                conditioner, condition, first + num, seed, component, self._weights_of_file
            )
            attributes = None if asked.attributes is None else asked.attributes[first:]
            return Request(asked.weights[first:], asked.label[first:], attributes)
        if conditioner is None:
            raise InputError("weights are given; this model was trained without a condition.")
        if isinstance(condition, Request):
            asked = condition
        else:
            weights = np.atleast_2d(np.asarray(condition, np.float32))
            if len(weights) == 1:
                weights = np.repeat(weights, num, axis=0)
            asked = Request(weights, np.full(len(weights), -1, np.int32))
        expected = (num, conditioner.num_components)
        if asked.weights.shape != expected:
            raise InputError(
                f"weights have shape {asked.weights.shape}; they must be of shape {expected}."
            )
        conditioning.check_weights(conditioner, asked.weights)
        return asked

    def weights(self, x: np.ndarray) -> np.ndarray:
        """The weights `[N, K]` of examples by what their features say, for `sample`, `condition`.

        Their classes, which training knows, are not asked for: all components take part.

        Args:
          x: `[N, ...]` examples shaped as the data, uint8 images or floats in their units; of a
            model of `conditioning.features` own features `[N, F]` in their place.

        Raises:
          InputError: a model without a mixture in a space of features, examples or features of
            another shape, or values that are not finite.
        """
        return self._weights(x, "x")

    def _weights(self, x, name):
        conditioner = self.conditioner
        transform = None if conditioner is None else conditioner.transform
        if conditioner is None or transform is None:
            raise InputError(
                f"{name} asks for weights of examples; they need conditioning.kind gmm or "
                "clusters, a mixture in a space of features."
            )
        own = transform.source == "own"
        shape, x = transform.mean.shape if own else self.shape, np.asarray(x)
        if x.shape[1:] != shape or not len(x) or x.dtype.kind not in "biuf":
            what = "features" if own else "examples"
            raise InputError(
                f"{name} is of type {x.dtype} and shape {x.shape}; this model needs {what} of "
                f"shape (N, {', '.join(map(str, shape))})."
            )
        # What is not stored as bytes may not be scaled as bytes.
        pictures = not (own or self.fitted.latent) and len(shape) == 3
        if not pictures:
            x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise InputError(f"{name} holds a value that is not finite; valid are numbers.")
        scaled = x.dtype.kind == "f" and np.abs(x).max() <= _LARGEST_PIXEL
        if pictures and x.dtype != np.uint8 and not scaled:
            raise InputError(
                f"{name} holds images of type {x.dtype} from {x.min()} to {x.max()}; this model "
                "takes uint8, or floats in [-1, 1]."
            )
        if transform.source == "data":
            x = self.center(x)
        elif transform.source == "classifier":
            assert self.fitted.embedder is not None, "its features come from a classifier"
            x = embed(self.fitted.embedder, x)
        try:
            return conditioning.weigh_unlabelled(conditioner, x)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error

    def _weights_of_file(self, term):
        """The weights `[M, K]` of the examples in the file that a condition names."""
        name = f"sample.condition {term.kind}:{term.path}"
        wanted = "an .npy" if term.kind == "features" else "an image"
        path = paths.file(term.path, name, exists=wanted)
        if term.kind == "features":
            return self._weights(read_npy(path, name), name)
        transform = None if self.conditioner is None else self.conditioner.transform
        if transform is not None and transform.source == "own":
            raise InputError(
                f"{name} is an image, and the features of this model are not made of pixels; use "
                "features:FILE.npy."
            )
        if self.fitted.latent or len(self.shape) != 3:
            raise InputError(
                f"{name} is an image, and this model is of other data; use features:FILE.npy."
            )
        group = None if self.config is None else self.config.data
        return self._weights(shown_image.read(path, self.shape, group, name)[None], name)

    def condition(
        self,
        condition: str | np.ndarray | Request,
        num: int,
        seed: int = 0,
        component: str | None = None,
    ) -> Condition | None:
        """What the network reads of a condition, for `denoise`; the arguments as of `request`.

        It is what samples of that seed read.
        """
        asked, conditioner = self.request(condition, num, seed, component), self.conditioner
        if asked is None or conditioner is None:
            return None
        keys = generation.condition_keys(example_keys(seed, num))
        return conditioning.encode(conditioner, jnp.asarray(asked.weights), keys)

    def denoise(self, x: Array, sigma: Array, cond: Condition | None = None) -> Array:
        """The posterior mean of clean data, `[B, ...]`, in centred units.

        A `types.DenoiseFn`, compiled once for each shape.

        Args:
          x: `[B, ...]` data with noise, centred (`center`).
          sigma: `[B]` or `[]`, the noise's standard deviation.
          cond: from `condition`.
        """
        return _denoise(self, x, sigma, cond)

    def classify(self, x: Array, sigma: Array | None = None) -> Array:
        """The share of each component in data, `[B, K]`, as the classifier sees it.

        Args:
          x: `[B, ...]`, centred (`center`).
          sigma: `[B]` or `[]`, the noise that `x` holds; None for none.

        Raises:
          InputError: the model has no classifier.
        """
        if self.classifier is None:
            raise InputError("This model has no classifier; it needs training.task or ngmg.")
        return _classify(self, x, sigma)

    def center(self, x: np.ndarray) -> np.ndarray:
        """Data, uint8 images or float32, `[N, ...]` -> centred float32, as networks read it."""
        return np.asarray(batches.apply(jax.device_get(self.fitted.transform), to_float(x)))

    def restore(self, x: Array) -> np.ndarray:
        """The inverse of `center`, in the units of `Samples.x`."""
        return np.asarray(batches.invert(self.fitted.transform, x))


@jax.jit
def _denoise(model, x, sigma, cond):
    return model.denoiser(model.params, x, sigma, cond)


@jax.jit
def _classify(model, x, sigma):
    return model.classifier.components(model.classifier_params, x, sigma)
