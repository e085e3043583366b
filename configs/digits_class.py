"""The baseline of `digits_gmm`: the same network, conditioned on class labels.

python -m gmm_diffusion.main --config=configs/digits_class.py --workdir=runs/digits_class
"""

from ml_collections import ConfigDict

from gmm_diffusion import config as config_lib


def get_config() -> ConfigDict:
    """One-hot labels through a learned table, as in EDM2 (arXiv 2312.02696)."""
    config = config_lib.default()
    config.conditioning.kind = "class"
    config.conditioning.embedding = "table"
    return config
