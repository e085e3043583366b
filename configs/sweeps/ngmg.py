"""Denoisers of digits with a classifier beside, by NGMG and by cross-entropy, and without.

    python -m experiments.run_denoiser --out=runs/ngmg_denoiser

Three seeds by five rates of the classifier: a quarter, one, 4, 16 and 64 times the best of its
loss in `experiments/run_stability.py` (Adam, ordinary layers), so that something may diverge.
Beside them the term at ten times the weight, at the best rate and at 16 times it.
"""

SEEDS = [0, 1, 2]
LOSSES = ["ngmg", "cross_entropy"]
# Of both, so that they are compared at the same rates.
BEST = 2.0**-7
SMALL = {
    "network.channels": 16,
    "training.num_steps": 600,
    "training.batch_size": 64,
    "training.steps_per_call": 5,
    "training.log_every": 5,
    "training.heldout_every": 0,
    "training.max_nonfinite": 1000,
    "training.tensorboard": False,
    "checkpoint.every": 600,
    "checkpoint.snapshot_every": 0,
    "evaluation.blocks": 1,
    # One set of judges for all stages.
    "evaluation.judge_dir": "../..",
}


def get_sweep() -> list[dict]:
    """The baseline first."""
    stages = [_stage("none", {}, {})]
    for loss in LOSSES:
        fixed = {"ngmg.weight": 0.1, "classifier.loss": loss, "classifier.normalize": False}
        rates = [BEST / 4, BEST, 4 * BEST, 16 * BEST, 64 * BEST]
        stages.append(_stage(loss, fixed, {"classifier.learning_rate": rates}))
        rates = [BEST, 16 * BEST]
        strong = fixed | {"ngmg.weight": 1.0}
        stages.append(_stage(f"{loss}_strong", strong, {"classifier.learning_rate": rates}))
    return stages


def _stage(name, fixed, grid):
    return {
        "name": name,
        "config": "configs/digits_gmm.py",
        "fixed": SMALL | fixed,
        "grid": {"training.seed": SEEDS, **grid},
        "minutes": (0.7, 0.2),
    }
