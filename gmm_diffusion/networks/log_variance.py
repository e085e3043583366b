"""EDM2's learned uncertainty of the denoising loss as a function of the noise level."""

import flax.linen as nn
import jax.numpy as jnp

from gmm_diffusion.networks.magnitude_preserving import MPLinear, fourier_features
from gmm_diffusion.types import Array


class LogVariance(nn.Module):
    """`c_noise [B] -> u [B]`, zero at the start (arXiv 2312.02696, eq. 16 and appendix B.3).

    The loss is divided by `exp(u)` and `u` is added, so that every noise level's share of the
    gradient is of about one size. Only the denoising term is divided.
    """

    num_features: int = 128

    @nn.compact
    def __call__(self, c_noise: Array) -> Array:
        gain = self.param("gain", nn.initializers.zeros, ())
        features = fourier_features(c_noise, self.num_features)
        # A gain keeps the start at zero while the layer's weight stays normalised.
        return jnp.squeeze(MPLinear(1, name="linear")(features, gain), axis=-1)
