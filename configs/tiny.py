"""Everything once, at the smallest size: a check that a machine and an installation work.

python -m gmm_diffusion.main --config=configs/tiny.py --workdir=runs/tiny

Under a minute on two CPU cores, most of it compilation. The samples are not meant to be digits.
"""

from ml_collections import ConfigDict

from gmm_diffusion import config as config_lib


def get_config() -> ConfigDict:
    """One component a class, a network of 8 channels and a dozen updates."""
    config = config_lib.default()

    config.conditioning.feature_dim = 4
    config.conditioning.num_components = 10
    config.conditioning.em_iterations = 10
    config.conditioning.embedding_features = 16

    config.network.channels = 8
    config.network.channel_mult = (1,)
    config.network.attention_resolutions = ()
    config.network.log_variance_features = 16

    config.optimizer.warmup_steps = 2

    config.training.num_steps = 12
    config.training.batch_size = 32
    config.training.steps_per_call = 4
    config.training.log_every = 4
    config.training.heldout_every = 8
    config.checkpoint.every = 4
    config.checkpoint.snapshot_every = 4

    config.sample.num = 20
    config.sample.steps = 4

    config.evaluation.blocks = 2
    config.evaluation.max_samples = 100
    config.evaluation.judges = 2
    config.evaluation.judge_epochs = 2
    config.evaluation.loss_levels = 2
    return config
