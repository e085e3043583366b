"""Points of a 2-D mixture whose density is known, conditioned on a mixture fitted to each class.

python -m gmm_diffusion.main --config=configs/toy_gmm.py --workdir=runs/toy_gmm

A minute on two CPU cores.
"""

from ml_collections import ConfigDict

from gmm_diffusion import config as config_lib


def get_config() -> ConfigDict:
    """A ring of eight Gaussians in four classes, two components a class."""
    config = config_lib.default()

    config.data.name = "toy"
    config.data.toy_name = "ring"

    config.conditioning.features = "raw"
    config.conditioning.num_components = 8
    config.conditioning.covariance = "full"
    config.conditioning.embedding_features = 64

    config.network.name = "mlp"
    config.network.width = 64
    config.network.num_blocks = 3

    config.diffusion.law = "auto"

    config.training.num_steps = 4000
    config.training.batch_size = 1024
    config.training.steps_per_call = 100
    config.training.log_every = 200
    config.training.heldout_every = 1000
    config.checkpoint.every = 2000

    config.sample.num = 4096
    config.sample.batch_size = 4096
    config.evaluation.blocks = 1
    return config
