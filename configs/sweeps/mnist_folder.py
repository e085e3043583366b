"""MNIST from a folder of PNGs: a mixture of each digit against the digits' labels, three seeds.

Each run is sampled without a guide, and guided by its own step 1,200 (autoguidance).

    python -m gmm_diffusion.sweep --out=runs/mnist_folder configs/sweeps/mnist_folder.py \\
        data.data_dir=FOLDER
    python -m gmm_diffusion.report runs/mnist_folder/mnist \\
        --by conditioning.kind guidance.kind \\
        --metric agreement defect_rate memorisation recall coverage frechet

The command goes on where it was stopped, also within a run.
"""


def get_sweep() -> list[dict]:
    """The same network, updates and judges for both; six runs, twice evaluated."""
    return [
        {
            "name": "mnist",
            "config": "configs/mnist_folder_gmm.py",
            "fixed": {
                "training.tensorboard": False,
                # One set of judges for all runs.
                "evaluation.judge_dir": "..",
            },
            "grid": {"training.seed": [0, 1, 2]},
            "points": [
                condition | guidance
                for condition in (
                    {"conditioning.kind": "gmm"},
                    {"conditioning.kind": "class", "conditioning.embedding": "table"},
                )
                for guidance in ({"guidance.kind": "none", "guidance.scale": 1.0}, {})
            ],
            "minutes": (30.0, 6.0),
        }
    ]
