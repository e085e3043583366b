"""Are samples conditioned on features better than samples conditioned on classes?

    launch/comparison.sh runs/comparison

The central claim of Lu et al. (arXiv 2401.11261) on points whose density is known, on digits and on
faces with attributes: the same network, budget and seeds for every conditioning. `clusters` is the
control that a gain of the mixture is more than the gain of more labels: k-means, as many as the
mixture has components. The command goes on where it was stopped.
"""

SEEDS = [0, 1, 2, 3, 4]
NO_LOG = {"training.tensorboard": False, "training.heldout_every": 0}
SNAPSHOTS = {"checkpoint.snapshot_every": 0}
# One judge for all runs of a stage.
SHARED_JUDGE = {"evaluation.judge_dir": ".."}
DIGITS = {"training.num_steps": 400, "evaluation.blocks": 2}
# At most ten minutes a run on one core; at 32 x 32 that is too little to compare: docs/results.md.
FACES = {
    "data.resolution": 16,
    "network.channels": 16,
    "network.channel_mult": (1, 2),
    "optimizer.decay_steps": 500,
    "training.batch_size": 32,
    "training.num_steps": 2800,
    "sample.steps": 12,
}
# Labels go through a learned table, as class embeddings do.
CLASS = {"conditioning.kind": "class", "conditioning.embedding": "table"}
CLUSTERS = {"conditioning.kind": "clusters", "conditioning.embedding": "table"}
NONE = {"conditioning.kind": "none"}


def _gmm(**fields: object) -> dict:
    return {"conditioning.kind": "gmm"} | {f"conditioning.{k}": v for k, v in fields.items()}


def get_sweep() -> list[dict]:
    """Five rows of five modes, digits and faces."""
    embeddings = ("mean_embedding", "draws", "table")
    # A model of `mixture` semantics is asked both ways; of the others they are the same.
    ways = [
        {"conditioning.semantics": "example"},
        *(
            {"conditioning.semantics": "mixture", "sample.component": component}
            for component in ("drawn", "literal")
        ),
    ]
    toy = [
        NONE,
        CLASS,
        {**CLUSTERS, "conditioning.num_components": 25},
        *(_gmm(num_components=25, embedding=e) | way for way in ways for e in embeddings),
        *(_gmm(num_components=5 * n) | way for way in ways for n in (1, 2, 10)),
    ]
    digits = [
        NONE,
        CLASS,
        CLUSTERS,
        # The two that do best on the toy.
        *(_gmm(embedding=e, semantics="example") for e in ("mean_embedding", "table")),
    ]
    return [
        {
            "name": "toy",
            "config": "configs/toy_gmm.py",
            "fixed": NO_LOG
            | SNAPSHOTS
            | {"data.toy_name": "grid", "training.num_steps": 1500, "network.width": 32}
            # 16 draws tell the component, at a quarter of the cost of 64.
            | {"conditioning.num_draws": 16},
            "grid": {"training.seed": SEEDS},
            "points": toy,
            "minutes": (0.6, 0.15),
        },
        _images(
            "faces",
            "configs/faces_gmm.py",
            FACES,
            SEEDS[:3],
            [CLASS, {"conditioning.kind": "attributes"}],
            (7.0, 1.5),
        ),
        _images("digits", "configs/digits_gmm.py", DIGITS, SEEDS, digits, (2.3, 0.4)),
    ]


def _images(name, config, size, seeds, points, minutes):
    return {
        "name": name,
        "config": config,
        "fixed": NO_LOG | SNAPSHOTS | SHARED_JUDGE | size,
        "grid": {"training.seed": seeds},
        "points": points,
        "minutes": minutes,
    }
