"""Three kinds of guidance of one model of digits, against their scale, by three training seeds.

    python -m gmm_diffusion.sweep --out=runs/digits_guidance configs/sweeps/digits_guidance.py
    python -m gmm_diffusion.report runs/digits_guidance/main --x guidance.scale \
        --metric defect_rate recall agreement memorisation

Autoguidance takes a network of half the width, trained for a third of the steps; mixture guidance
the same network under covariances twice as wide.
"""

SEEDS = [0, 1, 2]
SCALES = [1.5, 2.0, 3.0]
CONFIG = "configs/digits_gmm.py"
# Classifier-free guidance needs a null condition.
TRAINING = {"conditioning.dropout": 0.1}


def get_sweep() -> list[dict]:
    """Guides first, as the main runs' evaluations need them."""
    kinds = [
        {
            "guidance.kind": "auto",
            "guidance.guide": "{out}/guide/seed{training.seed}",
            "guidance.guide_ema": 0.1,
        },
        {"guidance.kind": "classifier_free"},
        {"guidance.kind": "mixture"},
    ]
    points = [{"guidance.kind": "none", "guidance.scale": 1.0}]
    points += [{**kind, "guidance.scale": scale} for kind in kinds for scale in SCALES]
    return [
        {
            "name": "guide",
            "config": CONFIG,
            "fixed": TRAINING | {"network.channels": 16, "training.num_steps": 400},
            "grid": {"training.seed": SEEDS},
            "evaluate": False,
            "minutes": (1.0, 0.0),
        },
        {
            "name": "main",
            "config": CONFIG,
            # One set of judges for all seeds.
            "fixed": TRAINING | {"evaluation.blocks": 2, "evaluation.judge_dir": ".."},
            "grid": {"training.seed": SEEDS},
            "points": points,
            "minutes": (4.0, 0.6),
        },
    ]
