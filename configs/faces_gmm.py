"""Faces rendered on the spot, conditioned on a mixture laid out over their ten attributes.

python -m gmm_diffusion.main --config=configs/faces_gmm.py --workdir=runs/faces_gmm

Two components an attribute. Training never shows glasses under a hat, nor a blond moustache: what
the model makes of these requests is measured on faces that have them. Made for an accelerator, and
nobody has trained it to the end yet. What a CPU core makes of 16 x 16 in eight minutes is the stage
`faces` of configs/sweeps/comparison.py.
"""

from ml_collections import ConfigDict

from gmm_diffusion import config as config_lib


def get_config() -> ConfigDict:
    """20,000 faces of 32 x 32 and a U-Net of three resolutions."""
    config = config_lib.default()

    config.data.name = "faces"
    config.data.resolution = 32
    config.data.num_train = 20_000
    config.data.num_heldout = 2000
    config.data.held_out = ("Eyeglasses=1,Wearing_Hat=1", "Blond_Hair=1,Mustache=1")

    config.conditioning.kind = "attributes"

    config.network.channels = 24
    config.network.channel_mult = (1, 2, 2)
    config.network.attention_resolutions = (8,)

    config.optimizer.decay_steps = 2000
    config.training.num_steps = 10_000
    config.training.batch_size = 64
    config.training.heldout_every = 1000
    config.checkpoint.every = 1000
    config.checkpoint.snapshot_every = 200

    config.evaluation.blocks = 1
    config.evaluation.max_samples = 1000
    config.evaluation.max_reference = 4000
    config.evaluation.judge_epochs = 6
    return config
