"""Digits conditioned on a Gaussian mixture, with a classifier trained beside that teaches by NGMG.

python -m gmm_diffusion.main --config=configs/digits_ngmg.py --workdir=runs/digits_ngmg

Source: arXiv 2401.11261, in the reading of docs/method.md. It is `digits_gmm` with one term more:
the classifier reads where the denoised image lies in the mixture's feature space.
"""

from ml_collections import ConfigDict

from gmm_diffusion import config as config_lib


def get_config() -> ConfigDict:
    """The defaults, and the term."""
    config = config_lib.default()
    config.ngmg.weight = 0.1
    return config
