"""The baseline of `cifar_gmm`: the same network, conditioned on class labels.

python -m gmm_diffusion.main --config=configs/cifar_class.py --workdir=runs/cifar_class
"""

from ml_collections import ConfigDict

from configs import cifar_gmm


def get_config() -> ConfigDict:
    """One-hot labels through a learned table, as in EDM2 (arXiv 2312.02696)."""
    config = cifar_gmm.get_config()
    config.conditioning.kind = "class"
    config.conditioning.embedding = "table"
    return config
