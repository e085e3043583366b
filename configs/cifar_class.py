"""The baseline of `cifar_gmm`: the same network, conditioned on class labels.

python -m gmm_diffusion.main --config=configs/cifar_class.py --workdir=runs/cifar_class
"""

import pathlib
import runpy

from ml_collections import ConfigDict

CIFAR_GMM = pathlib.Path(__file__).with_name("cifar_gmm.py")


def get_config() -> ConfigDict:
    """One-hot labels through a learned table, as in EDM2 (arXiv 2312.02696)."""
    config = runpy.run_path(str(CIFAR_GMM))["get_config"]()
    config.conditioning.kind = "class"
    config.conditioning.embedding = "table"
    return config
