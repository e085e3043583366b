"""Many small classifiers of attributes trained at once, by losses of one number an attribute.

Ten losses of the same network's output `y`, one number for each attribute whose target is 0 or 1:
NGMG's with its centres at 0 and 1, binary cross-entropy in three readings of `y`, and bounded or
robust rivals. Attributes are those of rendered faces and conjunctions of them, from half of all
people to fewer than one in a hundred.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gmm_diffusion.data import faces
from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture import ngmg
from gmm_diffusion.networks.encoder import MLPEncoder
from gmm_diffusion.networks.initialisation import initialise
from gmm_diffusion.types import Array

# Of people who have all that is named.
ATTRIBUTES = (
    ("Smiling",),
    ("Wearing_Necktie",),
    ("Bald",),
    ("Bangs", "Wearing_Hat"),
    ("Bald", "Eyeglasses"),
    ("Bangs", "Blond_Hair", "Wearing_Hat"),
    ("Bald", "Eyeglasses", "Wearing_Necktie"),
    ("Eyeglasses", "Mustache", "Wearing_Hat", "Wearing_Necktie"),
    ("Bald", "Rosy_Cheeks", "Smiling", "Wearing_Hat"),
)
SCALES = (0.5, 1.0, 2.0, 4.0)
OPTIMIZERS = {"sgd": optax.sgd, "adam": optax.adam}
NUM_FEATURES = 64
# How often a run is scored.
NUM_CHECKS = 10
# Scales start so many times as wide, and reach their own at half of the updates.
_WIDEST = 8.0
# Share of the form "log" beside the density.
_LITTLE_LOG = 0.1
# Nearest to 0 or 1 of a number that is read as a probability.
_CLIP = 1e-6
_GCE_POWER = 0.7
_SMOOTHING = 0.1


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss of numbers `y` with targets `t`, both `[B, A]`, and how `y` is read.

    Attributes:
      cost: `(y, t, progress) -> [B, A]`, 0 where the answer is perfect; progress runs from 0 to 1.
      threshold: an attribute is seen where `y` lies above.
    """

    cost: Callable[[Array, Array, Array], Array]
    threshold: float


def ngmg_cost(y: Array, t: Array, progress: Array, form: str = "density") -> Array:
    """NGMG with one centre, the attribute's own: `1 - mean_s exp(-(y - t)^2 / (2 s^2))`."""
    del progress
    return _ngmg(y, t, SCALES, form)


def _ngmg(y, t, scales, form="density"):
    weights = jnp.stack([1 - t, t], axis=-1)
    centers = jnp.asarray(ngmg.ATTRIBUTE_CENTERS)
    return ngmg.energy(y[..., None], weights, centers, scales, form) + (form == "density")


def _annealed(y, t, progress):
    widening = _WIDEST ** jnp.maximum(1 - 2 * progress, 0.0)
    return _ngmg(y, t, jnp.asarray(SCALES) * widening)


def _with_log(y, t, progress):
    log = ngmg_cost(y, t, progress, "log")
    return (1 - _LITTLE_LOG) * ngmg_cost(y, t, progress) + _LITTLE_LOG * log


def _bce(y, t, progress):
    """Of logits."""
    del progress
    return jax.nn.softplus(y) - t * y


def _bce_of_sigmoid(y, t, progress):
    """Of probabilities that a sigmoid made, each logarithm at least -100, as PyTorch's BCELoss."""
    del progress
    p = jax.nn.sigmoid(y)
    return -t * _floored_log(p) - (1 - t) * _floored_log(1 - p)


def _floored_log(p):
    return jnp.where(p > 0, jnp.log(jnp.where(p > 0, p, 1.0)), -100.0)


def _bce_of_numbers(y, t, progress):
    """The number itself is the probability: here the gradient has no bound but the clip's."""
    del progress
    p = jnp.clip(y, _CLIP, 1 - _CLIP)
    return -t * jnp.log(p) - (1 - t) * jnp.log1p(-p)


def _generalised(y, t, progress):
    """Generalised cross-entropy (Zhang & Sabuncu 2018, arXiv 1805.07836, eq. 6), q = 0.7."""
    del progress
    right = jax.nn.sigmoid(jnp.where(t > 0.5, y, -y))
    return (1 - right**_GCE_POWER) / _GCE_POWER


def _smoothed(y, t, progress):
    """BCE of logits, a tenth of the target spread evenly (arXiv 1512.00567, section 7)."""
    return _bce(y, t * (1 - _SMOOTHING) + _SMOOTHING / 2, progress)


LOSSES = {
    "NGMG": Loss(ngmg_cost, 0.5),
    "Welsch, or NGMG of scale 1": Loss(lambda y, t, progress: _ngmg(y, t, (1.0,)), 0.5),
    "mean square": Loss(lambda y, t, progress: (y - t) ** 2 / 2, 0.5),
    "BCE, logits": Loss(_bce, 0.0),
    "BCE, probabilities": Loss(_bce_of_sigmoid, 0.0),
    "BCE, clipped numbers": Loss(_bce_of_numbers, 0.5),
    "generalised cross-entropy": Loss(_generalised, 0.0),
    "label smoothing": Loss(_smoothed, 0.0),
    "NGMG, annealed scales": Loss(_annealed, 0.5),
    "NGMG, a tenth log": Loss(_with_log, 0.5),
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is trained, once for each seed and rate.

    Attributes:
      loss: a key of `LOSSES`.
      optimizer: a key of `OPTIMIZERS`; the rate is constant, and no gradient is clipped.
      flipped: share of all training labels, attribute by attribute, that are wrong.
      num_steps: updates, a multiple of `NUM_CHECKS`.
      batch_size: examples of one, drawn with replacement.
      width: hidden features of the network's layers.
    """

    loss: str
    optimizer: str
    flipped: float
    num_steps: int = 600
    batch_size: int = 64
    width: int = 64

    def __post_init__(self) -> None:
        for name, value, valid in (
            ("loss", self.loss, LOSSES),
            ("optimizer", self.optimizer, OPTIMIZERS),
        ):
            if value not in valid:
                raise InputError(f"{name} is {value!r}; valid are {', '.join(valid)}.")
        if not 0 <= self.flipped < 0.5:
            raise InputError(f"flipped is {self.flipped:g}; valid is 0 or more and below 0.5.")
        if self.num_steps < 1 or self.num_steps % NUM_CHECKS:
            raise InputError(
                f"num_steps is {self.num_steps}; valid are multiples of {NUM_CHECKS} from there."
            )


@dataclasses.dataclass(frozen=True)
class People:
    """Features and attributes.

    Attributes:
      x: `[N, D]` to train on, of unit RMS.
      attributes: `[N, A]`, 0 or 1.
      heldout_x: `[M, D]`.
      heldout_attributes: `[M, A]`.
    """

    x: np.ndarray
    attributes: np.ndarray
    heldout_x: np.ndarray
    heldout_attributes: np.ndarray


@dataclasses.dataclass(frozen=True)
class Curves:
    """What runs R leave behind. Of an attribute, "informed" is sensitivity + specificity - 1: 1 for
    a perfect reading and 0 for a guess, however rare the attribute is (Youden 1950).

    Attributes:
      loss: `[R, T]` of each batch, summed over attributes.
      gradient_norm: `[R, T]`, before the update.
      fitted: `[R, NUM_CHECKS]`, informed about the labels trained on, mean over attributes.
      informed: `[R, NUM_CHECKS, A]`, about the true labels of held-out people.
    """

    loss: np.ndarray
    gradient_norm: np.ndarray
    fitted: np.ndarray
    informed: np.ndarray

    @property
    def accuracy(self) -> np.ndarray:
        """At the end, mean over attributes: `[R]`."""
        return self.informed[:, -1].mean(axis=-1)


def load(num_train: int = 8192, num_heldout: int = 2048, resolution: int = 32) -> People:
    """Rendered faces at half their resolution, in the training split's principal components.

    A component's spread is the root of what it was: as it was it would hide what is small in an
    image, such as a smile, and if all were alike noise would be as large as anything.
    """
    data = faces.load(resolution, num_train, num_heldout)
    flat = [_halved(split.x) for split in (data.train, data.heldout)]
    mean = flat[0].mean(axis=0)
    values, axes = np.linalg.eigh(np.cov(flat[0], rowvar=False))
    axes = axes[:, ::-1][:, :NUM_FEATURES] / values[::-1][:NUM_FEATURES] ** 0.25
    x, heldout_x = ((images - mean) @ axes for images in flat)
    scale = np.sqrt(np.mean(x**2))
    columns = [[data.attribute_names.index(name) for name in names] for names in ATTRIBUTES]
    attributes, heldout = (
        np.stack([split.attributes[:, c].prod(axis=1) for c in columns], axis=1).astype(np.float32)
        for split in (data.train, data.heldout)
    )
    x, heldout_x = (np.asarray(a / scale, np.float32) for a in (x, heldout_x))
    return People(x, attributes, heldout_x, heldout)


def _halved(x):
    """`[N, H, W, 3]` uint8 -> `[N, H/2 * W/2 * 3]`, means of 2 by 2."""
    blocks = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, x.shape[3])
    return blocks.mean(axis=(2, 4), dtype=np.float32).reshape(len(x), -1) / 255


def flip(attributes: np.ndarray, share: float) -> np.ndarray:
    """Attributes `[N, A]` of which a share, drawn for each by itself, is wrong."""
    wrong = np.random.default_rng(0).random(attributes.shape) < share
    return np.where(wrong, 1 - attributes, attributes)


def train(setting: Setting, people: People, seeds: list[int], rates: list[float]) -> Curves:
    """Every seed with every rate, `R = len(seeds) * len(rates)`, rates running faster.

    A seed decides the start and the batches: runs of one seed differ in loss and rate alone.
    """
    loss = LOSSES[setting.loss]
    labels = jnp.asarray(flip(people.attributes, setting.flipped))
    x, heldout_x = jnp.asarray(people.x), jnp.asarray(people.heldout_x)
    some = slice(0, len(heldout_x))
    network = MLPEncoder(labels.shape[1], setting.width, setting.width, False)
    starts = [initialise(lambda key: network.init(key, x[:1]), seed) for seed in seeds]
    pairs = [(s, r) for s in range(len(seeds)) for r in rates]
    params = jax.tree.map(lambda *leaves: jnp.stack([leaves[s] for s, _ in pairs]), *starts)
    keys = jnp.stack([jax.random.key(seeds[s]) for s, _ in pairs])
    each = setting.num_steps // NUM_CHECKS

    def numbers(params, x):
        return network.apply({"params": params}, x)[0]

    def mean_loss(params, x, t, progress):
        return jnp.mean(jnp.sum(loss.cost(numbers(params, x), t, progress), axis=1))

    def informed(params, x, t):
        return informedness(numbers(params, x) > loss.threshold, t)

    def run(params, key, rate):
        optimizer = optax.inject_hyperparams(OPTIMIZERS[setting.optimizer])(learning_rate=rate)

        def step(carry, i):
            params, opt_state = carry
            index = jax.random.randint(jax.random.fold_in(key, i), (setting.batch_size,), 0, len(x))
            value, slope = jax.value_and_grad(mean_loss)(
                params, x[index], labels[index], i / setting.num_steps
            )
            updates, opt_state = optimizer.update(slope, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), (
                value,
                optax.tree.norm(slope),
            )

        def stretch(carry, j):
            carry, curves = jax.lax.scan(step, carry, j * each + jnp.arange(each))
            fitted = jnp.mean(informed(carry[0], x[some], labels[some]))
            right = informed(carry[0], heldout_x, people.heldout_attributes)
            return carry, (*curves, fitted, right)

        carry = params, optimizer.init(params)
        _, (losses, norms, fitted, right) = jax.lax.scan(stretch, carry, jnp.arange(NUM_CHECKS))
        return losses.reshape(-1), norms.reshape(-1), fitted, right

    every_rate = jnp.asarray([r for _, r in pairs], jnp.float32)
    return Curves(*jax.device_get(jax.jit(jax.vmap(run))(params, keys, every_rate)))


def informedness(seen: Array, attributes: Array) -> Array:
    """Sensitivity + specificity - 1 of each attribute: bool `[N, A]`, 0 or 1 `[N, A]` -> `[A]`."""
    present, absent = attributes, 1 - attributes
    found = jnp.sum(seen * present, axis=0) / jnp.maximum(jnp.sum(present, axis=0), 1)
    left = jnp.sum(~seen * absent, axis=0) / jnp.maximum(jnp.sum(absent, axis=0), 1)
    return found + left - 1


@functools.cache
def frequencies(num: int = 20_000) -> tuple[float, ...]:
    """Share of people with each of `ATTRIBUTES`."""
    shown = faces.draw_attributes(0, np.arange(num), faces.TRAIN, 0.5, [])
    names = list(faces.NAMES)
    columns = [[names.index(name) for name in wanted] for wanted in ATTRIBUTES]
    return tuple(float(shown[:, c].prod(axis=1).mean()) for c in columns)
