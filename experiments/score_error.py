"""How wrong is a trained denoiser's score, where data are and where none are?

Points are drawn from a known mixture, so that the exact denoiser is known everywhere. The error is
that of the predicted noise, `|D - D*|^2 / sigma^2` a dimension: 0 for the exact denoiser, and of
the order of 1 for one that knows nothing.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from gmm_diffusion import mixture
from gmm_diffusion.data import toy
from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture import GaussianMixture
from gmm_diffusion.model import denoiser as denoiser_lib
from gmm_diffusion.networks import MLP, LogVariance
from gmm_diffusion.networks.initialisation import initialise
from gmm_diffusion.training import loss as loss_lib
from gmm_diffusion.training import state as state_lib
from gmm_diffusion.training.contrastive_term import make_contrast
from gmm_diffusion.training.optimizer import learning_rate, make_optimizer
from gmm_diffusion.training.step import train_step
from gmm_diffusion.types import Batch

DATA = ("two modes", "tree")
_LOG_MEAN, _LOG_STD, _EMA = -1.2, 1.2, 0.05


@dataclasses.dataclass(frozen=True)
class Problem:
    """Sizes.

    Attributes:
      data: of `DATA`: two Gaussians on a line, or the tree in the plane.
      weight: of the contrastive loss.
      zeta: range of its smoothing.
      num_steps: updates.
      batch_size: fresh points an update.
      points: of these, those that take part in the contrastive loss.
      num_points: evaluations of its integrand a point.
      importance: share of its noise levels that are not evenly spaced.
      width: hidden features of the network, of 2 blocks.
    """

    data: str = "two modes"
    weight: float = 0.0
    zeta: tuple[float, float] = (0.05, 0.5)
    num_steps: int = 2000
    batch_size: int = 256
    points: int = 64
    num_points: int = 16
    importance: float = 0.8
    width: int = 32


def known(data: str) -> GaussianMixture:
    """The mixture, with mean 0 and mean square 1 an entry.

    Raises:
      InputError: other data.
    """
    if data == "two modes":
        spread = 0.15
        place = np.sqrt(1 - spread**2)
        return GaussianMixture.create(
            np.array([0.5, 0.5]), np.array([[-place], [place]]), np.full(2, spread**2), "spherical"
        )
    if data == "tree":
        law = toy.MIXTURES["tree"]()
        return GaussianMixture.create(law.weights, law.means, law.covariances, "full")
    raise InputError(f"data is {data!r}; valid are {' and '.join(map(repr, DATA))}.")


def train(problem: Problem, seed: int):
    """The average of the parameters of a run, a dict of parts."""
    x = jnp.zeros((1, known(problem.data).dim))
    inits = {
        "network": lambda key: MLP(problem.width, 2).init(key, x, jnp.zeros(1)),
        "log_variance": lambda key: LogVariance(32).init(key, jnp.zeros(1)),
    }
    params = {part: initialise(init, seed) for part, init in inits.items()}
    return _train(problem, params, jax.random.key(seed))


@functools.partial(jax.jit, static_argnums=0)
def _train(problem, params, key):
    mix = known(problem.data)
    denoise, log_variance = _model(problem)
    contrast = None
    if problem.weight:
        contrast = make_contrast(
            denoise,
            log_variance,
            weight=problem.weight,
            zeta=problem.zeta,
            num_points=problem.num_points,
            importance=problem.importance,
            stride=problem.batch_size // problem.points,
            chunk=2**15,
            sigma_data=1.0,
            sigma_log_mean=_LOG_MEAN,
            sigma_log_std=_LOG_STD,
        )
    loss_fn = loss_lib.make_loss_fn(
        denoise,
        log_variance,
        None,
        sigma_data=1.0,
        sigma_log_mean=_LOG_MEAN,
        sigma_log_std=_LOG_STD,
        contrast=contrast,
    )
    schedule = learning_rate("edm2", 1e-2, 100, problem.num_steps // 4, problem.num_steps)
    optimizer = {part: make_optimizer(schedule) for part in params}

    def step(state, number):
        points = mixture.sample(mix, jax.random.fold_in(key, number), problem.batch_size)
        batch = Batch(points, jnp.arange(problem.batch_size), jnp.ones(problem.batch_size))
        state, _ = train_step(
            state,
            batch,
            jax.random.fold_in(key, 2**31 - 1),
            loss_fn=loss_fn,
            optimizer=optimizer,
            ema_widths=(_EMA,),
        )
        return state, None

    state = state_lib.create(params, optimizer, 1)
    state, _ = jax.lax.scan(step, state, jnp.arange(problem.num_steps))
    return state.ema[0]


def _model(problem):
    denoise = denoiser_lib.Denoiser(MLP(problem.width, 2), 1.0)
    return denoise, denoiser_lib.make_log_variance(LogVariance(32))


@functools.partial(jax.jit, static_argnums=0)
def exact(data: str, x, sigma):
    """What the exact denoiser makes of noisy points `x [N, D]` of `sigma [N]`: `[N, D]`."""
    return mixture.denoise(known(data), x, sigma)


@functools.partial(jax.jit, static_argnums=0)
def error(problem: Problem, params, x, sigma, best):
    """`|D - D*|^2 / sigma^2` a dimension at noisy points `x [N, D]` of `sigma [N]`: `[N]`.

    `best [N, D]` is `exact` of them, the same for all seeds.
    """
    denoise, _ = _model(problem)
    difference = jnp.square(denoise(params, x, sigma) - best)
    return jnp.mean(difference, axis=1) / jnp.square(sigma)


def regions(
    problem: Problem, num: int, levels: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Noisy points and their levels in and outside the distribution of training, `num` a level.

    "in" has noisy data; "smoothed" has data smoothed by the widest zeta and then made noisy, as the
    loss asks; "box" is uniform in a cube of half-width 3 around the data.
    """
    mix, rng = known(problem.data), np.random.default_rng(0)
    sigma = np.repeat(levels, num).astype(np.float32)
    data = np.asarray(mixture.sample(mix, jax.random.key(10**6), len(sigma)))
    noise = rng.normal(size=(2, *data.shape))
    smoothed = data + problem.zeta[1] * noise[0]
    box = rng.uniform(-3, 3, data.shape)
    starts = {"in": data, "smoothed": smoothed, "box": box}
    return {
        name: ((x + sigma[:, None] * noise[1] * (name != "box")).astype(np.float32), sigma)
        for name, x in starts.items()
    }
