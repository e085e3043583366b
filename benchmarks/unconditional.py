"""Updates and samples of an unconditional U-Net, made of the package's parts without a config.

It needs jax, flax and optax, and neither clu nor ml_collections: a borrowed accelerator may have no
more.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import operations
from gmm_diffusion import devices
from gmm_diffusion.model.denoiser import Denoiser, make_log_variance
from gmm_diffusion.networks import LogVariance, UNet
from gmm_diffusion.sampling.guidance import autoguided
from gmm_diffusion.sampling.samplers import initial_noise
from gmm_diffusion.sampling.settings import SamplerSettings
from gmm_diffusion.training import state as state_lib
from gmm_diffusion.training.loss import make_loss_fn
from gmm_diffusion.training.optimizer import learning_rate, make_optimizer
from gmm_diffusion.training.step import train_step
from gmm_diffusion.types import Batch

SIGMA_DATA, SIGMA_MAX = 0.5, 80.0
EMA_WIDTHS = (0.05, 0.10)


@dataclasses.dataclass(frozen=True)
class Case:
    """A U-Net and its images, `[side, side, image_channels]`; the rest as of `networks.UNet`."""

    side: int
    channels: int
    channel_mult: tuple[int, ...]
    num_blocks: int
    attention_resolutions: tuple[int, ...] = ()
    attention_middle: bool = True
    dtype: str = "float32"
    image_channels: int = 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image."""
        return self.side, self.side, self.image_channels

    def network(self) -> UNet:
        """The module."""
        return UNet(
            self.channels,
            self.channel_mult,
            self.num_blocks,
            self.attention_resolutions,
            self.attention_middle,
            dtype=jnp.dtype(self.dtype),
        )

    def count(self) -> operations.UNetOperations:
        """Its operations and parameters."""
        return operations.unet(
            self.side,
            self.image_channels,
            self.channels,
            self.channel_mult,
            self.num_blocks,
            self.attention_resolutions,
            self.attention_middle,
        )

    def parameters(self, seed: int = 0):
        """Parameters of the network and of its uncertainty, a dict of parts."""
        network_key, variance_key = jax.random.split(jax.random.key(seed))
        level = jnp.zeros(1)
        image = jnp.zeros((1, *self.shape))
        return {
            "network": jax.jit(self.network().init)(network_key, image, level)["params"],
            "log_variance": LogVariance().init(variance_key, level)["params"],
        }


class Training:
    """Updates of one case, compiled and laid out as those of a run of the package."""

    def __init__(self, case: Case, num_devices: int = 1):
        params = case.parameters()
        rate = learning_rate("edm2", 1e-2, 100, 35_000, 200_000)
        optimizer = {part: make_optimizer(rate) for part in params}
        loss_fn = make_loss_fn(
            Denoiser(case.network(), SIGMA_DATA),
            make_log_variance(LogVariance()),
            None,
            sigma_data=SIGMA_DATA,
            sigma_log_mean=-1.2,
            sigma_log_std=1.2,
        )
        step = functools.partial(
            train_step, loss_fn=loss_fn, optimizer=optimizer, ema_widths=EMA_WIDTHS
        )
        state = state_lib.create(params, optimizer, len(EMA_WIDTHS))
        self.state = devices.replicate(state, num_devices)
        self.key = jax.random.key(1)
        self.num_devices = num_devices
        self._run = devices.mapped_train_steps(step, devices.found()[:num_devices])

    def place(self, batches: Batch) -> Batch:
        """Batches that stay on the devices, where each of several gets the first one's share."""
        share = jax.tree.map(lambda x: x[0], self.spread(batches))
        return devices.replicate(share, self.num_devices)

    def spread(self, batches: Batch) -> Batch:
        """Batches on the host, `[S, B, ...] -> [devices, S, B / devices, ...]`."""
        return devices.split_batches(batches, self.num_devices)

    def begin(self, batches: Batch) -> dict[str, jax.Array]:
        """The updates of batches from `place` or `spread`, not waited for; their metrics."""
        self.state, metrics = self._run(self.state, batches, self.key)
        return metrics

    def call(self, batches: Batch) -> dict[str, np.ndarray]:
        """The same, waited for."""
        return jax.device_get(self.begin(batches))


def batches_of(x: np.ndarray) -> Batch:
    """Centred images `[S, B, ...]` as batches without conditions."""
    steps, size = x.shape[:2]
    index = np.tile(np.arange(size, dtype=np.int32), (steps, 1))
    return Batch(x=x, index=index, mask=np.ones((steps, size), np.float32))


def noise_batches(case: Case, steps: int, size: int) -> Batch:
    """Batches of white images."""
    x = np.random.default_rng(1).normal(size=(steps, size, *case.shape))
    return batches_of(SIGMA_DATA * x.astype(np.float32))


def sampler(case: Case, steps: int, guide: Case | None = None):
    """`(params, guide's params, keys [B]) -> [B, ...]` by Heun steps, guided at all noise levels.

    Args:
      case: of the main network.
      steps: Heun steps, of `2 steps - 1` evaluations.
      guide: of a second network, or None for no guidance.
    """
    settings = SamplerSettings()
    grid = settings.grid(steps, SIGMA_MAX)
    draw = settings.sampler(SIGMA_DATA)
    main = Denoiser(case.network(), SIGMA_DATA)
    other = None if guide is None else Denoiser(guide.network(), SIGMA_DATA)

    @jax.jit
    def sample(params, guide_params, keys):
        def denoise_fn(x, sigma, cond):
            return main(params, x, sigma, cond)

        if other is not None:
            denoise_fn = autoguided(
                denoise_fn, lambda x, sigma, cond: other(guide_params, x, sigma, cond), 2.0
            )
        return draw(denoise_fn, keys, initial_noise(keys, case.shape, grid[0]), grid, None)[0]

    return sample
