"""Fashion-MNIST with the settings of `mnist_gmm`.

pip install -e '.[data]'
python -m gmm_diffusion.main --config=configs/fashion_mnist_gmm.py --workdir=runs/fashion_mnist_gmm

TensorFlow Datasets fetches Fashion-MNIST (30 MB) on first use. Nobody has trained it to the end
yet, so no figure is promised here.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

MNIST_GMM = pathlib.Path(__file__).with_name("mnist_gmm.py")


def get_config() -> ConfigDict:
    """Clothes look the same in a mirror, digits do not."""
    config = runpy.run_path(str(MNIST_GMM))["get_config"]()
    config.data.tfds_name = "fashion_mnist"
    config.data.flip = True
    return config
