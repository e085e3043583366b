"""The baseline of `faces_gmm`: each combination of attributes in training is a class of its own.

python -m gmm_diffusion.main --config=configs/faces_class.py --workdir=runs/faces_class

A combination that training never shows has no class, so this model cannot be asked for one.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

FACES_GMM = pathlib.Path(__file__).with_name("faces_gmm.py")


def get_config() -> ConfigDict:
    """The same data, network and updates; one-hot classes through a learned table."""
    config = runpy.run_path(str(FACES_GMM))["get_config"]()
    config.conditioning.kind = "class"
    config.conditioning.embedding = "table"
    return config
