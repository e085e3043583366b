"""Which law of training noise suits which points, and from which noise level to sample.

    python -m gmm_diffusion.sweep --out=runs/noise_law configs/sweeps/noise_law.py
    python -m gmm_diffusion.report runs/noise_law/points --metric density_defects sliced_wasserstein

Every set of points under EDM's law for images and under the law that is fitted to the points; each
model sampled from the highest level of images, 80, the given one also from 20, and the fitted one
from its own.
"""

SETS = ["ring", "grid", "moons", "branches", "tree", "dino"]
SEEDS = [0, 1, 2]
FIXED = {
    "conditioning.num_components": 20,
    "network.width": 64,
    "network.num_blocks": 2,
    "optimizer.decay_steps": 300,
    "training.batch_size": 512,
    "training.num_steps": 1200,
    "training.tensorboard": False,
    "training.heldout_every": 0,
    "checkpoint.every": 1200,
    "checkpoint.snapshot_every": 0,
    "evaluation.max_samples": 4096,
}


def get_sweep() -> list[dict]:
    """One stage."""
    given, auto = {"diffusion.law": "given"}, {"diffusion.law": "auto"}
    return [
        {
            "name": "points",
            "config": "configs/toy_gmm.py",
            "fixed": FIXED,
            "grid": {"training.seed": SEEDS, "data.toy_name": SETS},
            "points": [
                given | {"sample.sigma_max": 80.0},
                given | {"sample.sigma_max": 20.0},
                auto | {"sample.sigma_max": 80.0},
                auto | {"sample.sigma_max": 0.0},
            ],
            "minutes": (0.6, 0.1),
        }
    ]
