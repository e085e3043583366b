"""Speed or quality on digits: how each condition's samples go on with training.

    python -m gmm_diffusion.sweep --out=runs/digits_curves configs/sweeps/digits_curves.py
    python -m gmm_diffusion.report runs/digits_curves/digits --x sample.step \\
        --metric defect_rate agreement recall coverage frechet memorisation
    python -m gmm_diffusion.report runs/digits_curves/digits --where sample.step=3600 \\
        --against conditioning.kind=class --out runs/digits_curves/from_class

The digits of configs/sweeps/comparison.py, trained nine times as long and scored after 400, 1,200
and 3,600 updates: a condition that is only faster meets the others at the right end. The losses of
the digits kept for validation say on the way when a network begins to learn examples by heart. The
command goes on where it was stopped; with training.seed=0 it is, by an estimate, 40 minutes on two
cores where nothing else runs.
"""

UPDATES = 3600
STEPS = [400, 1200, UPDATES]


def get_sweep() -> list[dict]:
    """Twenty runs, and three evaluations of each."""
    return [
        {
            "name": "digits",
            "config": "configs/digits_gmm.py",
            "fixed": {
                "training.num_steps": UPDATES,
                "training.heldout_every": 400,
                "training.tensorboard": False,
                "checkpoint.every": 400,
                "checkpoint.keep": 1,
                "checkpoint.snapshot_every": 200,
                # One set of judges for all runs.
                "evaluation.judge_dir": "..",
                "evaluation.blocks": 2,
            },
            "grid": {"training.seed": [0, 1, 2, 3, 4], "sample.step": STEPS},
            "points": [
                {"conditioning.kind": "class", "conditioning.embedding": "table"},
                {"conditioning.kind": "gmm"},
                {"conditioning.kind": "clusters", "conditioning.embedding": "table"},
                {"conditioning.kind": "none"},
            ],
            "minutes": (18.0, 0.4),
        }
    ]
