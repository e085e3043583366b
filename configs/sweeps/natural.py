"""The central claim on natural images: CIFAR-10 at 16 x 16, with curves of learning.

    python -m gmm_diffusion.sweep --out=runs/natural configs/sweeps/natural.py data.data_dir=FOLDER
    python -m gmm_diffusion.report runs/natural/natural --x sample.step \\
        --metric defect_rate frechet agreement recall coverage memorisation
    python -m gmm_diffusion.report runs/natural/natural --where sample.step=4800 \\
        --against conditioning.kind=class --out runs/natural/from_class

FOLDER, cifar10 unless it is named, holds train/CLASS/* and test/CLASS/*. The same network, updates
and two seeds for every conditioning: none, classes, k-means labels, as many as the mixture has
components, a mixture over all images, and one of each class. Each run is scored at four of its
steps, so that faster and better can be told apart. The command goes on where it was stopped, from
day to day. On two cores, where nothing else runs, less than five hours in all.
"""

UPDATES = 4800
STEPS = [600, 1200, 2400, UPDATES]
CLUSTERS = {"conditioning.kind": "clusters", "conditioning.embedding": "table"}
CLASS = {"conditioning.kind": "class", "conditioning.embedding": "table"}


def get_sweep() -> list[dict]:
    """Ten runs, and four evaluations of each."""
    return [
        {
            "name": "natural",
            "config": "configs/cifar_gmm.py",
            "fixed": {
                "data.name": "image_folder",
                "data.data_dir": "cifar10",
                "data.resolution": 16,
                # What shows on the way is not looked at, and nothing is chosen.
                "training.heldout_every": 0,
                "training.tensorboard": False,
                "training.num_steps": UPDATES,
                "training.batch_size": 64,
                "training.log_every": 200,
                "conditioning.num_components": 100,
                "network.dtype": "float32",
                "network.channels": 24,
                "network.channel_mult": (1, 2),
                "network.num_blocks": 1,
                "network.attention_resolutions": (8,),
                "network.dropout": 0.0,
                "optimizer.warmup_steps": 200,
                "optimizer.decay_steps": 1000,
                "checkpoint.every": 600,
                "checkpoint.keep": 1,
                "checkpoint.snapshot_every": 600,
                "sample.steps": 12,
                # One set of judges for all runs.
                "evaluation.judge_dir": "..",
                "evaluation.judges": 3,
                "evaluation.judge_epochs": 6,
                "evaluation.max_samples": 2000,
                "evaluation.max_reference": 10_000,
            },
            "grid": {"training.seed": [0, 1], "sample.step": STEPS},
            "points": [
                CLASS,
                {"conditioning.kind": "gmm"},
                {**CLUSTERS, "conditioning.per_class": False},
                {"conditioning.kind": "gmm", "conditioning.per_class": False},
                {"conditioning.kind": "none"},
            ],
            "minutes": (25.0, 4.0),
        }
    ]
