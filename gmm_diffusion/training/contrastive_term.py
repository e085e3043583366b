"""The contrastive loss as a term of a denoiser's training loss, on some examples of each batch."""

import jax
import jax.numpy as jnp

from gmm_diffusion.diffusion import noise_levels
from gmm_diffusion.diffusion.contrastive_loss import contrastive_loss
from gmm_diffusion.diffusion.preconditioning import loss_weight
from gmm_diffusion.errors import InputError
from gmm_diffusion.types import Array, Batch, ContrastTerm, Denoise, LogVariance, PyTree

# A ratio of larger size is decided: the loss there hardly depends on the chance in it.
_DECIDED = 5.0
# The most of the noise's variance that counts as left after denoising: all of it would stand for
# data of infinite variance.
_MOST = 0.999


def make_contrast(
    denoise: Denoise,
    log_variance: LogVariance,
    *,
    weight: float,
    zeta: tuple[float, float],
    num_points: int,
    importance: float,
    stride: int,
    chunk: int,
    sigma_data: float,
    sigma_log_mean: float,
    sigma_log_std: float,
    zeta_law: str = "uniform",
    preconditioning: str = "edm",
) -> ContrastTerm:
    """The term, of every `stride`-th example: of these every other one is smoothed.

    The control variate's variance, and with it where most noise levels are, is read off the learned
    uncertainty of the denoising loss: an error `exp(u)` at noise level sigma is that of Gaussian
    data of one variance.

    Args:
      denoise: `(params, x, sigma, cond) -> x0`.
      log_variance: `(params, sigma [S]) -> u [S]`.
      weight: of the term.
      zeta: range of the smoothing, in the units of the data.
      num_points: evaluations of the integrand a point.
      importance: see `density_ratio.integrate`.
      stride: how many examples there are for each one that takes part.
      chunk: most rows in one call of the denoiser.
      sigma_data: RMS of the centred data.
      sigma_log_mean: mean of `ln sigma` in training.
      sigma_log_std: standard deviation of `ln sigma` in training.
      zeta_law: of the smoothing in its range, a key of `contrastive_loss.ZETA_LAWS`.
      preconditioning: whose weight the denoising loss has.

    Returns:
      `(params, batch, cond, keys [B]) -> ([B] losses, diagnostics)`; the diagnostics are
      "contrastive_loss", "contrastive_right" and "contrastive_spread", the standard deviation of a
      ratio where it is below 5. Examples that take no part have 0, the others `stride` times their
      own, so that a mean over the batch is the mean over points.

    Raises:
      InputError: when called with a batch that is no multiple of `stride`.
    """
    low, high = noise_levels.trained_range(sigma_log_mean, sigma_log_std)

    def upper(level):
        trained = jnp.sqrt(high**2 - jnp.square(level))
        return jnp.minimum(7.4 * jnp.sqrt(sigma_data**2 + jnp.square(level)), trained)

    def contrast(params: PyTree, batch: Batch, cond: PyTree, keys: Array):
        if batch.x.shape[0] % stride:
            raise InputError(
                f"{batch.x.shape[0]} examples a device are no multiple of {stride}; "
                "contrastive.points must be a multiple of the devices."
            )

        def variance(sigma):
            scale = loss_weight(sigma, sigma_data, preconditioning) * jnp.square(sigma)
            left = jnp.minimum(jnp.exp(log_variance(params, sigma)) / scale, _MOST)
            return jnp.square(sigma) * left / (1.0 - left)

        def denoise_fn(x, sigma, cond=None):
            return denoise(params, x, sigma, cond)

        x, index, keys, cond = jax.tree.map(
            lambda leaf: leaf[::stride], (batch.x, batch.index, keys, cond)
        )
        label = jnp.where((index // stride) % 2 == 0, 1.0, -1.0)
        loss, ratio, deviation = contrastive_loss(
            denoise_fn,
            keys,
            x,
            label,
            cond,
            zeta=zeta,
            law=zeta_law,
            num_points=num_points,
            sigma_min=low,
            sigma_max=upper,
            variance=variance,
            importance=importance,
            chunk=chunk,
        )

        def spread(values):
            return jnp.zeros(batch.x.shape[0]).at[::stride].set(stride * values)

        right = (label * ratio > 0).astype(jnp.float32)
        undecided = jnp.abs(ratio) < _DECIDED
        chance = jnp.sum(jnp.where(undecided, deviation, 0.0)) / jnp.maximum(jnp.sum(undecided), 1)
        found = {
            "contrastive_loss": spread(loss),
            "contrastive_right": spread(right),
            "contrastive_spread": jnp.full(batch.x.shape[0], chance),
        }
        return weight * spread(loss), found

    return contrast
