"""The comparison on a labelled dataset of TensorFlow Datasets, made small enough for a CPU.

    launch/comparison.sh runs/comparison --tfds=mnist

The points of the stage `digits` with images of 16 x 16, of as many channels as the data have.
Another dataset of the command line must have a number of classes that divides 100.
"""

GMM = {"conditioning.kind": "gmm", "conditioning.num_components": 100}


def get_sweep() -> list[dict]:
    """Nothing, classes, clusters and mixtures; three seeds each."""
    return [
        {
            "name": "tfds",
            "config": "configs/digits_gmm.py",
            "fixed": {
                "data.name": "tfds_images",
                "data.tfds_name": "mnist",
                "data.resolution": 16,
                "conditioning.feature_dim": 32,
                "network.channels": 16,
                "network.attention_resolutions": (8,),
                "training.batch_size": 32,
                "training.num_steps": 2800,
                "training.tensorboard": False,
                "training.heldout_every": 0,
                "checkpoint.snapshot_every": 0,
                "sample.steps": 12,
                # A judge of two passes over 60,000 images.
                "evaluation.judge_epochs": 2,
                "evaluation.judge_dir": "..",
                "evaluation.blocks": 1,
                "evaluation.max_samples": 1000,
                "evaluation.max_reference": 4000,
            },
            "grid": {"training.seed": [0, 1, 2]},
            "points": [
                {"conditioning.kind": "none"},
                {"conditioning.kind": "class", "conditioning.embedding": "table"},
                {
                    "conditioning.kind": "clusters",
                    "conditioning.embedding": "table",
                    "conditioning.num_components": 100,
                },
                GMM | {"conditioning.semantics": "example"},
                GMM | {"conditioning.semantics": "mixture"},
            ],
        }
    ]
