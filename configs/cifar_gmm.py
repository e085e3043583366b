"""CIFAR-10 conditioned on a Gaussian mixture fitted to each class.

pip install -e '.[data]'
python -m gmm_diffusion.main --config=configs/cifar_gmm.py --workdir=runs/cifar_gmm

TensorFlow Datasets fetches CIFAR-10 (170 MB) on first use. The network and the schedule follow
EDM2's ImageNet-64 recipe (arXiv 2312.02696, table 6) at half its width, and the noise levels
EDM's for CIFAR-10 (arXiv 2206.00364, table 1): about 33 million parameters. Made for an
accelerator; nobody has trained it to the end yet, so no figure is promised here.
"""

from ml_collections import ConfigDict

from gmm_diffusion import config as config_lib


def get_config() -> ConfigDict:
    """20 components a class in 64 principal components of the images and their mirror images."""
    config = config_lib.default()

    config.data.name = "tfds_images"
    config.data.tfds_name = "cifar10"
    config.data.flip = True
    # Published figures are of all 50,000 images.
    config.data.validation_fraction = 0.0

    config.conditioning.feature_dim = 64
    config.conditioning.num_components = 200
    config.conditioning.embedding_features = 512

    config.network.channels = 96
    config.network.channel_mult = (1, 2, 3)
    config.network.num_blocks = 3
    config.network.attention_resolutions = (16, 8)
    config.network.dropout = 0.1
    config.network.dtype = "bfloat16"

    config.optimizer.learning_rate = 1e-2
    config.optimizer.warmup_steps = 1000
    config.optimizer.decay_steps = 35_000

    config.training.num_steps = 200_000
    config.training.batch_size = 512
    config.training.log_every = 500
    config.training.heldout_every = 10_000
    config.checkpoint.every = 5000
    config.checkpoint.snapshot_every = 5000  # 80 files of 130 MB

    config.evaluation.judge_epochs = 10
    config.evaluation.blocks = 1
    config.evaluation.max_samples = 10_000
    config.evaluation.max_reference = 10_000
    return config
