"""Your own images, conditioned on a Gaussian mixture fitted to all of them; no labels needed.

python -m gmm_diffusion.inspect_data --config=configs/folder_gmm.py --config.data.data_dir=FOLDER
python -m gmm_diffusion.main --config=configs/folder_gmm.py --workdir=runs/folder_gmm \\
    --config.data.data_dir=FOLDER

FOLDER is `images` unless it is named. With a folder for each class in it, fit a mixture to each of
them: --config.conditioning.per_class=true, and a multiple of their number of components. The sizes
are of a small run, for some thousand images and one GPU; docs/data.md has the layouts.
"""

from ml_collections import ConfigDict

from gmm_diffusion import config as config_lib


def get_config() -> ConfigDict:
    """40 components in 32 principal components of the images at 32x32."""
    config = config_lib.default()

    config.data.name = "image_folder"
    config.data.data_dir = "images"
    config.data.resolution = 32
    config.data.flip = True

    config.conditioning.per_class = False
    config.conditioning.feature_dim = 32

    config.network.channels = 64
    config.network.channel_mult = (1, 2, 2)
    config.network.num_blocks = 2
    config.network.attention_resolutions = (8,)

    config.optimizer.warmup_steps = 500
    config.optimizer.decay_steps = 5000

    config.training.num_steps = 20_000
    config.training.log_every = 200
    config.training.heldout_every = 2000
    config.checkpoint.every = 2000
    config.checkpoint.snapshot_every = 500  # 80 files of 27 MB
    return config
