"""The comparison on a labelled dataset of TensorFlow Datasets, made small enough for a CPU.

    launch/comparison.sh runs/comparison --tfds=mnist

The points of the stage `digits` with images of 16 x 16, of as many channels as the data have.
Another dataset of the command line must have a number of classes that divides 100.
"""

import pathlib
import runpy

COMPARISON = pathlib.Path(__file__).with_name("comparison.py")


def get_sweep() -> list[dict]:
    """Nothing, classes, clusters and the two mixtures; three seeds each."""
    (digits,) = [s for s in runpy.run_path(str(COMPARISON))["get_sweep"]() if s["name"] == "digits"]
    size = {
        "data.name": "tfds_images",
        "data.tfds_name": "mnist",
        "data.resolution": 16,
        "conditioning.feature_dim": 32,
        "conditioning.num_components": 100,
        "network.channels": 16,
        "network.attention_resolutions": (8,),
        "training.batch_size": 32,
        "training.num_steps": 2800,
        "sample.steps": 12,
        # A judge of two passes over 60,000 images.
        "evaluation.judge_epochs": 2,
        "evaluation.blocks": 1,
        "evaluation.max_samples": 1000,
        "evaluation.max_reference": 4000,
    }
    return [
        {
            "name": "tfds",
            "config": digits["config"],
            "fixed": digits["fixed"] | size,
            "grid": {"training.seed": [0, 1, 2]},
            "points": digits["points"],
        }
    ]
