"""Faces by classes and by attributes, at a size that wants a GPU.

    launch/comparison.sh runs/comparison --full

The stage `faces` of configs/sweeps/comparison.py with images of 64 x 64, 100,000 of them, a network
of four resolutions and twenty times the examples.
"""


def get_sweep() -> list[dict]:
    """Classes and attributes, three seeds each."""
    return [
        {
            "name": "faces_full",
            "config": "configs/faces_gmm.py",
            "fixed": {
                "data.resolution": 64,
                "data.num_train": 100_000,
                "network.channels": 64,
                "network.channel_mult": (1, 2, 2, 2),
                "network.dtype": "bfloat16",
                "training.batch_size": 256,
                "training.num_steps": 10_000,
                "training.heldout_every": 2000,
                "evaluation.judge_dir": "..",
                "evaluation.blocks": 3,
                "evaluation.max_samples": 2000,
            },
            "grid": {"training.seed": [0, 1, 2]},
            "points": [
                {"conditioning.kind": "class", "conditioning.embedding": "table"},
                {"conditioning.kind": "attributes"},
            ],
        }
    ]
