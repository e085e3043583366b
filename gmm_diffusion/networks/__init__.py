"""Networks in linen; see each file for its place in the system."""

from gmm_diffusion.networks.log_variance import LogVariance
from gmm_diffusion.networks.magnitude_preserving import normalize_weights
from gmm_diffusion.networks.mlp import MLP
from gmm_diffusion.networks.settings import MLPSettings, UNetSettings
from gmm_diffusion.networks.unet import UNet

NETWORKS = {"unet": UNet, "mlp": MLP}

__all__ = [
    "MLP",
    "NETWORKS",
    "LogVariance",
    "MLPSettings",
    "UNet",
    "UNetSettings",
    "normalize_weights",
]
