"""Many small classifiers trained at once, one for each seed and rate, by `vmap`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gmm_diffusion.conditioning import lay_out
from gmm_diffusion.data import Dataset, batches
from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture import ngmg
from gmm_diffusion.model.classifier import Objective
from gmm_diffusion.networks import normalize_weights
from gmm_diffusion.networks.encoder import MLPEncoder
from gmm_diffusion.networks.initialisation import initialise
from gmm_diffusion.types import Array

# Losses compared: name -> (loss, form, what is added so that a perfect answer costs 0).
LOSSES = {
    "ngmg": ("ngmg", "density", 1.0),
    "ngmg log": ("ngmg", "log", 0.0),
    "cross-entropy": ("cross_entropy", "density", 0.0),
}
OPTIMIZERS = {"sgd": optax.sgd, "adam": optax.adam}
REGIMES = ("clean", "label noise", "two dimensions", "normalised")
_NOISY_LABELS = 0.4


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is trained, once for each seed and rate.

    Attributes:
      loss: a key of `LOSSES`.
      optimizer: a key of `OPTIMIZERS`; the rate is constant, and no gradient is clipped.
      regime: one of `REGIMES`: the data as they are; 40 % of the training labels replaced by random
        ones; images projected on their two leading principal components, a plane in their space;
        or the data as they are and magnitude-preserving layers. All others have ordinary layers.
      num_steps: updates.
      batch_size: examples of one, drawn with replacement.
      width: hidden features of the two layers and of the embedding.
    """

    loss: str
    optimizer: str
    regime: str = "clean"
    num_steps: int = 600
    batch_size: int = 64
    width: int = 64


@dataclasses.dataclass(frozen=True)
class Curves:
    """What runs R leave behind.

    Attributes:
      loss: `[R, T]` of each batch, at least 0.
      gradient_norm: `[R, T]`, before the update.
      accuracy: `[R]` on held-out data, NaN counted as wrong.
    """

    loss: np.ndarray
    gradient_norm: np.ndarray
    accuracy: np.ndarray


def train(setting: Setting, data: Dataset, seeds: list[int], rates: list[float]) -> Curves:
    """Every seed with every rate, `R = len(seeds) * len(rates)`, rates running faster.

    A seed decides the start and the batches, so runs of one seed differ in their rate alone. The
    targets of NGMG are the laid-out centres of the classes.

    Raises:
      InputError: an unknown loss, optimiser or regime, or data without labels.
    """
    _check(setting, data)
    x, label, heldout_x, heldout_label = _arrays(setting, data)
    objective, network = _model(setting, data.num_classes)
    offset = LOSSES[setting.loss][2]
    starts = [initialise(lambda key: network.init(key, x[:1]), seed) for seed in seeds]
    pairs = [(s, r) for s in range(len(seeds)) for r in rates]
    params = jax.tree.map(lambda *leaves: jnp.stack([leaves[s] for s, _ in pairs]), *starts)
    keys = jnp.stack([jax.random.key(seeds[s]) for s, _ in pairs])
    targets = jax.nn.one_hot(label, data.num_classes)

    def mean_loss(params, x, weights):
        out, _ = network.apply({"params": params}, x)
        return jnp.mean(objective(out, weights)) + offset

    def run(params, key, rate):
        optimizer = optax.inject_hyperparams(OPTIMIZERS[setting.optimizer])(learning_rate=rate)
        finish = normalize_weights if setting.regime == "normalised" else lambda p: p
        params = finish(params)

        def step(carry, i):
            params, opt_state = carry
            index = jax.random.randint(jax.random.fold_in(key, i), (setting.batch_size,), 0, len(x))
            loss, slope = jax.value_and_grad(mean_loss)(params, x[index], targets[index])
            updates, opt_state = optimizer.update(slope, opt_state, params)
            params = finish(optax.apply_updates(params, updates))
            return (params, opt_state), (loss, optax.tree.norm(slope))

        carry = params, optimizer.init(params)
        (params, _), (losses, norms) = jax.lax.scan(step, carry, jnp.arange(setting.num_steps))
        shares = objective.components(network.apply({"params": params}, heldout_x)[0])
        hit = jnp.isfinite(shares).all(axis=1) & (shares.argmax(axis=1) == heldout_label)
        return losses, norms, jnp.mean(hit)

    rates = jnp.asarray([r for _, r in pairs], jnp.float32)
    return Curves(*jax.device_get(jax.jit(jax.vmap(run))(params, keys, rates)))


def _check(setting, data):
    for name, value, valid in (
        ("loss", setting.loss, LOSSES),
        ("optimizer", setting.optimizer, OPTIMIZERS),
        ("regime", setting.regime, REGIMES),
    ):
        if value not in valid:
            raise InputError(f"{name} is {value!r}; valid are {', '.join(valid)}.")
    if data.num_classes < 2:
        raise InputError(f"dataset {data.name} has {data.num_classes} classes; 2 are needed.")


def _model(setting, num_classes):
    mix = lay_out(num_classes)
    loss, form, _ = LOSSES[setting.loss]
    objective = Objective(loss, mix, ngmg.scales(mix.means), form)
    normalised = setting.regime == "normalised"
    return objective, MLPEncoder(objective.out_dim, setting.width, setting.width, normalised)


def _flat(x: np.ndarray, transform) -> np.ndarray:
    index = np.arange(len(x))
    return batches.make_batch(x, index, np.zeros(len(x), bool), transform).reshape(len(x), -1)


def _arrays(setting, data) -> tuple[Array, np.ndarray, Array, np.ndarray]:
    """Inputs of unit RMS and labels, for training and held out."""
    transform, _ = batches.fit_transform_stats(data.train.x)
    x, heldout_x = (_flat(split.x, transform) for split in (data.train, data.heldout))
    if setting.regime == "two dimensions":
        plane = np.linalg.svd(x, full_matrices=False)[2][:2]
        x, heldout_x = (points @ plane.T @ plane for points in (x, heldout_x))
    scale = np.sqrt(np.mean(np.square(x)))
    label = data.train.label
    if setting.regime == "label noise":
        rng = np.random.default_rng(0)
        other = rng.integers(data.num_classes, size=len(label))
        label = np.where(rng.random(len(label)) < _NOISY_LABELS, other, label)
    return jnp.asarray(x / scale), label, jnp.asarray(heldout_x / scale), data.heldout.label
