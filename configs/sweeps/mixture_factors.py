"""Where does the gain of conditioning on a mixture come from? Its parts, one by one, on digits.

    python -m experiments.run_factors --out=runs/factors

runs this sweep and then its table. The digits, network and budget of the stage `digits` of
configs/sweeps/comparison.py. A mixture differs from labels made by k-means in three things, each of
which is there or not: it is fitted by EM or by k-means, an example's responsibilities are soft or
one-hot, and the network reads the distribution (its mean embedding) or a table of components.
Labels made by k-means are one corner, and the mixture as it is by default is the opposite one. Two
controls: classes, and as many components with examples put into them at random.
"""

SEEDS = [0, 1, 2, 3, 4]
FIXED = {
    "training.num_steps": 400,
    "training.tensorboard": False,
    "training.heldout_every": 0,
    "checkpoint.snapshot_every": 0,
    "evaluation.blocks": 2,
    # One set of judges for all runs.
    "evaluation.judge_dir": "..",
}
CLASS = {"conditioning.kind": "class", "conditioning.embedding": "table"}


def corner(fit: str, responsibilities: str, embedding: str) -> dict[str, str]:
    """Settings of one mixture."""
    return {
        "conditioning.kind": "gmm",
        "conditioning.fit": fit,
        "conditioning.responsibilities": responsibilities,
        "conditioning.embedding": embedding,
    }


def get_sweep() -> list[dict]:
    """Both controls and the eight corners, a seed after the other: a stop leaves whole seeds."""
    corners = [
        corner(fit, how, embedding)
        for fit in ("k_means", "em")
        for how in ("hard", "soft")
        for embedding in ("table", "mean_embedding")
    ]
    points = [CLASS, corner("em", "random", "table"), *corners]
    return [
        {
            "name": "digits",
            "config": "configs/digits_gmm.py",
            "fixed": FIXED,
            "points": [{"training.seed": seed} | point for seed in SEEDS for point in points],
            "minutes": (2.3, 0.4),
        }
    ]
