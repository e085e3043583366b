"""Does the contrastive loss improve samples, and does it let parallel sampling take fewer rounds?

    python launch/sweep.py --out=runs/contrastive configs/sweeps/contrastive.py
    python -m gmm_diffusion.report runs/contrastive/moons \
        --metric sliced_wasserstein density_defects rounds

Two moons, two trees and digits, five seeds, with and without the loss from the start; each sampled
by Heun one step after another (sequential quality), and by Euler and ancestral steps one after
another and all at once at three tolerances. The value in brackets of `rounds` is the number of
steps.
"""

SEEDS = [0, 1, 2, 3, 4]
WEIGHTS = [0.0, 0.1]
STEPS = 32
QUIET = {"training.tensorboard": False, "training.heldout_every": 0}
# Narrow branches: the smoothing is of the order of their widths.
TREE = {"contrastive.zeta": (0.02, 0.3)}


def get_sweep() -> list[dict]:
    """One stage a dataset."""
    toy = {"data.num_train": 2**17, "conditioning.num_components": 2}
    return [
        _stage("moons", "configs/toy_gmm.py", toy | {"data.toy_name": "moons"}, (2.0, 0.3)),
        _stage(
            "branches", "configs/toy_gmm.py", toy | TREE | {"data.toy_name": "branches"}, (2.0, 0.3)
        ),
        _stage("tree", "configs/tree_gmm.py", TREE, (4.0, 0.5)),
        _stage("digits", "configs/digits_gmm.py", {"contrastive.zeta": (0.05, 0.3)}, (9.0, 1.5)),
    ]


def _stage(name, config, fixed, minutes):
    points = [{"sample.sampler": "heun", "sample.steps": 18}]
    for sampler in ("euler", "ancestral"):
        steps = {"sample.sampler": sampler, "sample.steps": STEPS}
        points.append(steps)
        points += [
            {**steps, "sample.parallel_window": STEPS, "sample.parallel_tolerance": tolerance}
            for tolerance in (0.03, 0.3, 1.0)
        ]
    return {
        "name": name,
        "config": config,
        "fixed": QUIET | fixed,
        "grid": {"training.seed": SEEDS, "contrastive.weight": WEIGHTS},
        "points": points,
        "minutes": minutes,
    }
