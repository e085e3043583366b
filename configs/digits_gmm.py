"""Digits conditioned on a Gaussian mixture fitted to each class."""

from ml_collections import ConfigDict

from gmm_diffusion import config as config_lib


def get_config() -> ConfigDict:
    """The defaults are this run."""
    return config_lib.default()
