"""Does a little of the contrastive loss, at the end of training, improve digits or save rounds?

    python -m gmm_diffusion.sweep --out=runs/contrastive_tuned configs/sweeps/contrastive_tuned.py
    python -m gmm_diffusion.report runs/contrastive_tuned/digits --against contrastive.weight=0 \\
        --by training.num_steps sample.sampler \\
        --metric defect_rate frechet recall rounds

A finished run goes on for 2, 5 and 10 % of its 1,000 updates, with the loss and without, at the
rate where it ended. Each is sampled by Heun one step after another, and by 32 steps of Euler all at
once. Zeta is logistic about the data's size, 0.54, as published (Wu et al. 2024, arXiv 2407.08946),
and cut off at a tenth and ten times that, as training ends at twice as much. Results:
docs/contrastive.md.
"""

from gmm_diffusion import config

UPDATES = 1000
SHARES = (2, 5, 10)
DECAY = 400
SEEDS = [0, 1, 2, 3, 4]
FIXED = {
    "training.tensorboard": False,
    "training.heldout_every": 0,
    "network.channels": 16,
    "training.batch_size": 64,
    "training.steps_per_call": 10,
    "checkpoint.snapshot_every": 0,
    "optimizer.decay_steps": DECAY,
    "evaluation.blocks": 1,
}


def get_sweep() -> list[dict]:
    """The finished runs, and what goes on from them."""
    rate = config.default().optimizer.learning_rate / (UPDATES / DECAY) ** 0.5
    return [
        {
            "name": "digits_base",
            "config": "configs/digits_gmm.py",
            "fixed": FIXED | {"training.num_steps": UPDATES, "checkpoint.every": UPDATES},
            "grid": {"training.seed": SEEDS},
            "evaluate": False,
            "minutes": (1.3, 0.0),
        },
        {
            "name": "digits",
            "config": "configs/digits_gmm.py",
            "fixed": FIXED
            | {
                "training.init_from": "{out}/digits_base/seed{training.seed}",
                "optimizer.schedule": "constant",
                "optimizer.warmup_steps": 10,
                "optimizer.learning_rate": rate,
                "contrastive.zeta": (0.054, 5.4),
                "contrastive.zeta_law": "logistic",
                "contrastive.points": 16,
                "contrastive.num_points": 8,
                # One set of judges for all runs.
                "evaluation.judge_dir": "..",
            },
            "grid": {
                "training.seed": SEEDS,
                "training.num_steps": [UPDATES * share // 100 for share in SHARES],
                "contrastive.weight": [0.0, 0.1],
            },
            "points": [
                {"sample.sampler": "heun", "sample.steps": 18},
                {
                    "sample.sampler": "euler",
                    "sample.steps": 32,
                    "sample.parallel_window": 32,
                    "sample.parallel_tolerance": 1.0,
                },
            ],
            "minutes": (0.4, 0.2),
        },
    ]
