"""CelebA at 64x64, conditioned on ten attributes through a mixture laid out for them.

pip install -e '.[data]'
python -m gmm_diffusion.main --config=configs/celeba_gmm.py --workdir=runs/celeba_gmm

TensorFlow Datasets fetches CelebA (1.4 GB) on first use. Its host often refuses; with the files at
hand, neither it nor TensorFlow is needed (docs/data.md):

python -m gmm_diffusion.main --config=configs/celeba_gmm.py --workdir=runs/celeba_gmm \\
    --config.data.name=image_folder --config.data.data_dir=FOLDER

The cut is the usual one, 128x128 pixels about the face (D2C, arXiv 2106.06819). Made for an
accelerator: about 2.3 GiB of images are held in memory. Nobody has trained it to the end yet, so no
figure is promised here.
"""

from ml_collections import ConfigDict

from gmm_diffusion import config as config_lib


def get_config() -> ConfigDict:
    """Two components an attribute; the network and schedule of `cifar_gmm`, a resolution more."""
    config = config_lib.default()

    config.data.name = "tfds_images"
    config.data.tfds_name = "celeb_a"
    config.data.resolution = 64
    config.data.crop = "57,25,128,128"
    config.data.flip = True
    config.data.attributes = (
        "Bald",
        "Bangs",
        "Black_Hair",
        "Blond_Hair",
        "Eyeglasses",
        "Male",
        "Mustache",
        "Smiling",
        "Wearing_Hat",
        "Young",
    )

    config.conditioning.kind = "attributes"

    config.network.channels = 96
    config.network.channel_mult = (1, 2, 3, 4)
    config.network.num_blocks = 3
    config.network.attention_resolutions = (16, 8)
    config.network.dtype = "bfloat16"

    config.optimizer.warmup_steps = 1000
    config.optimizer.decay_steps = 35_000

    config.training.num_steps = 200_000
    config.training.batch_size = 256
    config.training.log_every = 500
    config.training.heldout_every = 10_000
    config.checkpoint.every = 5000
    config.checkpoint.snapshot_every = 10_000  # 40 files of 280 MB

    config.evaluation.judge_epochs = 3
    config.evaluation.blocks = 1
    config.evaluation.max_samples = 10_000
    config.evaluation.max_reference = 10_000
    return config
