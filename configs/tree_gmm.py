"""Two trees of 1,016 thin Gaussians each, conditioned on a mixture fitted to each class.

After the two-dimensional example of Karras et al. 2024 (arXiv 2406.02507, figure 1): the density is
known, and a small network cannot follow the thinnest branches.

python -m gmm_diffusion.main --config=configs/tree_gmm.py --workdir=runs/tree_gmm

5 to 7 minutes on two CPU cores that had other work, too; 5.9 % of the samples are outliers, which
guidance takes to 2.8 % (`launch/tree.sh`, docs/results.md).
"""

from ml_collections import ConfigDict

from gmm_diffusion import config as config_lib


def get_config() -> ConfigDict:
    """The main model."""
    config = config_lib.default()

    config.data.name = "toy"
    config.data.toy_name = "tree"
    config.data.num_train = 2**18
    config.data.num_heldout = 2**14

    config.conditioning.features = "raw"
    config.conditioning.num_components = 2
    config.conditioning.covariance = "full"
    config.conditioning.embedding_features = 64
    config.conditioning.em_max_points = 2**16
    config.conditioning.dropout = 0.1

    config.network.name = "mlp"
    config.network.width = 64
    config.network.num_blocks = 3

    # As published.
    config.diffusion.sigma_log_mean = -2.3
    config.diffusion.sigma_log_std = 1.5

    config.optimizer.decay_steps = 512

    config.training.num_steps = 8192
    config.training.batch_size = 4096
    config.training.steps_per_call = 64
    config.training.ema_widths = (0.01, 0.05)
    config.training.log_every = 1024
    config.training.heldout_every = 4096
    config.checkpoint.every = 4096
    config.checkpoint.snapshot_every = 256

    config.sample.num = 8192
    config.sample.batch_size = 8192
    # With these the exact denoiser makes no more outliers than true points are.
    config.sample.steps = 40
    config.sample.sigma_min = 0.004
    config.sample.rho = 5.0
    config.sample.ema = 0.01
    config.evaluation.blocks = 1
    config.evaluation.max_samples = 2**14
    return config
