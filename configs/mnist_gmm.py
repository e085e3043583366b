"""MNIST conditioned on a Gaussian mixture fitted to each digit.

pip install -e '.[data]'
python -m gmm_diffusion.main --config=configs/mnist_gmm.py --workdir=runs/mnist_gmm

TensorFlow Datasets fetches MNIST (11 MB) on first use. Nobody has trained it to the end yet, so no
figure is promised here.
"""

from ml_collections import ConfigDict

from gmm_diffusion import config as config_lib


def get_config() -> ConfigDict:
    """Ten components a digit; the images are halved twice, from 28 to 7 pixels."""
    config = config_lib.default()

    config.data.name = "tfds_images"
    config.data.tfds_name = "mnist"

    config.conditioning.feature_dim = 32
    config.conditioning.num_components = 100

    config.network.channel_mult = (1, 2, 2)
    config.network.num_blocks = 2
    config.network.attention_resolutions = (7,)

    config.optimizer.warmup_steps = 500
    config.optimizer.decay_steps = 5000

    config.training.num_steps = 20_000
    config.training.log_every = 200
    config.training.heldout_every = 2000
    config.checkpoint.every = 2000
    config.checkpoint.snapshot_every = 500  # 80 files of 7 MB

    config.evaluation.judge_epochs = 5
    config.evaluation.blocks = 1
    config.evaluation.max_samples = 10_000
    config.evaluation.max_reference = 10_000
    return config
