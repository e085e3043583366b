"""Does the contrastive loss improve samples, and does it let parallel sampling take fewer rounds?

    python -m gmm_diffusion.sweep --out=runs/contrastive configs/sweeps/contrastive.py
    python -m gmm_diffusion.report runs/contrastive/dino \
        --metric density_defects sliced_wasserstein mmd rounds evaluations

The outline of a dinosaur with and without the loss from the start, and without it for twice the
updates: these two stages come first and answer the question, in about half an hour on two quiet
cores. Then two moons and thin branches, 25 minutes each. Five seeds, each sampled by Heun one step
after another (sequential quality), and by Euler and ancestral steps all at once, by Euler one after
another, too. The value in brackets of `rounds` and `evaluations` is that of one step after another.
What the loss does at the end of training is contrastive_tuned.py. Results: docs/contrastive.md.
"""

SEEDS = [0, 1, 2, 3, 4]
# Chosen with seed 10.
WEIGHT = 0.1
ZETA = (0.05, 0.5)
# Branches are as thin as a third of the dinosaur's line.
BRANCHES = {"contrastive.zeta": (0.02, 0.3)}
STEPS = 32
QUIET = {"training.tensorboard": False, "training.heldout_every": 0, "evaluation.blocks": 1}
TOY = {
    "conditioning.num_components": 2,
    "network.num_blocks": 2,
    "optimizer.decay_steps": 300,
    "training.batch_size": 512,
    "training.num_steps": 1200,
    "checkpoint.every": 1200,
    "checkpoint.snapshot_every": 0,
    "evaluation.max_samples": 4096,
    # What a ratio in the plane needs to be known to 0.3; an update with the loss takes 17 times the
    # rows of one without.
    "contrastive.points": 16,
    "contrastive.num_points": 256,
}
HEUN = {"sample.sampler": "heun", "sample.steps": 18}


def _steps(sampler: str, *tolerances: float) -> list[dict]:
    """One point a tolerance; None is one step after another."""
    point = {"sample.sampler": sampler, "sample.steps": STEPS}
    window = {"sample.parallel_window": STEPS}
    return [
        point if t is None else {**point, **window, "sample.parallel_tolerance": t}
        for t in tolerances
    ]


def _toy(name: str, seeds: list[int], points: list[dict], fixed: dict, grid: dict) -> dict:
    return {
        "name": name,
        "config": "configs/toy_gmm.py",
        "fixed": QUIET | TOY | {"contrastive.zeta": ZETA} | fixed,
        "grid": {"training.seed": seeds, **grid},
        "points": points,
        # Without the loss a training takes a sixth of a minute.
        "minutes": (1.8, 0.1) if "contrastive.weight" in grid else (0.4, 0.1),
    }


def get_sweep() -> list[dict]:
    """One stage a dataset, and one for the dinosaur that is trained for longer."""
    points = [HEUN, *_steps("euler", None, 0.03, 0.3, 1.0), *_steps("ancestral", 0.3, 1.0)]
    weights = {"contrastive.weight": [0.0, WEIGHT]}
    longer = {"data.toy_name": "dino", "training.num_steps": 2400, "checkpoint.every": 2400}
    return [
        _toy("dino", SEEDS, points, {"data.toy_name": "dino"}, weights),
        _toy("dino_longer", SEEDS, [HEUN, *_steps("euler", 0.3, 1.0)], longer, {}),
        _toy("moons", SEEDS, points, {"data.toy_name": "moons"}, weights),
        _toy("branches", SEEDS, points, {"data.toy_name": "branches"} | BRANCHES, weights),
    ]
