"""Which components of the tree samples occupy under each guidance, and how widely.

  python -m experiments.run_occupancy --out=DIR   DIR is that of the sweep configs/sweeps/tree.py

Draws samples of both classes from each main model (DIR/main/seed*) under each guidance, whose
scales are several, so that ways can be compared at equal rates of outliers; and from the density
itself and its exact denoiser. Writes DIR/occupancy.md and a file a model and guidance to
DIR/occupancy; the same command goes on with what is left. The time comes first.

  --out=DIR       of the sweep
  --num=8192      samples a class
  --dry_run       prints the time, and samples nothing

Exit status: 0 done, 1 failed, 2 bad input, 130 or 143 after Ctrl-C or SIGTERM.
"""

import functools
import re
import sys

import jax
import numpy as np

from experiments import flags, kept, occupancy, occupancy_report, stoppable, tree_figure
from gmm_diffusion import assembly, mixture
from gmm_diffusion.errors import InputError
from gmm_diffusion.metrics.vector_scores import VectorScores
from gmm_diffusion.runs import storage
from gmm_diffusion.runs.workdir import CHECKPOINTS, read_config

# On one CPU core: seconds for the samples of one way, and their scores.
_SECONDS = 25.0
_QUANTILE = 0.001
ITSELF = {"kind": "auto", "guide_step": 1024, "guide_ema": 0.01}
SMALLER = {"kind": "auto", "guide_ema": 0.01, "guide": "guide"}
WAYS = {
    occupancy_report.BASELINE: {"kind": "none"},
    **{f"by itself at step 1,024, w = {w:g}": {**ITSELF, "scale": w} for w in (1.5, 2.0, 3.0, 5.0)},
    **{f"by a smaller model, w = {w:g}": {**SMALLER, "scale": w} for w in (2.0, 4.0)},
    **{f"classifier-free, w = {w:g}": {"kind": "classifier_free", "scale": w} for w in (1.5, 2.0)},
    "mixture, covariances, w = 2": {"kind": "mixture", "scale": 2.0},
    "mixture, weights, w = 2": {
        "kind": "mixture",
        "blur": "weights",
        "blur_amount": 0.3,
        "scale": 2.0,
    },
}
TRUE, EXACT = "true points", "exact denoiser"


def run(argv: list[str]) -> int:
    """One command, without the program's name; returns the exit status."""
    parser = flags.Parser(description=__doc__)
    parser.add_argument("--out", type=flags.folder, required=True)
    parser.add_argument("--num", type=flags.count, default=8192)
    parser.add_argument("--dry_run", action="store_true")
    return stoppable.run(lambda poll: _work(parser.parse_args(argv), poll))


def _work(arguments, poll):
    out, num = arguments.out, arguments.num
    seeds = sorted(
        int(match[1])
        for path in (out / "main").glob("seed*")
        if (match := re.fullmatch(r"seed(\d+)", path.name))
    )
    if not seeds:
        raise InputError(
            f"--out is {out}; it holds no main/seed*, models of configs/sweeps/tree.py."
        )
    guides = {str(way["guide"]) for way in WAYS.values() if "guide" in way}
    for run_dir in [out / stage / f"seed{seed}" for stage in ("main", *guides) for seed in seeds]:
        _check_finished(run_dir)
    todo = [
        (seed, way)
        for seed in seeds
        for way in (*WAYS, TRUE, EXACT)
        if not _file(out, seed, way).exists()
    ]
    print(f"{len(todo)} ways left, about {len(todo) * _SECONDS / 60:.1f} minutes.", flush=True)
    if arguments.dry_run:
        return
    config = read_config(out / "main" / f"seed{seeds[0]}")
    data = assembly.dataset(config)
    if data.mixture is None:
        raise InputError(f"--out is {out}, whose data have no known density; valid is the tree's.")
    score = VectorScores(data)
    trees = [occupancy.tree(config.data.toy_name, label) for label in range(data.num_classes)]
    found: dict[str, list] = {way: [] for way in (TRUE, EXACT, *WAYS)}
    for seed in seeds:
        draw = functools.partial(_samples, out, config, data, trees, num, seed)
        for way, rows in found.items():
            poll()
            settings = [way, WAYS.get(way), seed, num, _QUANTILE]
            rows.append(
                kept.arrays(
                    _file(out, seed, way),
                    settings,
                    lambda way=way, seed=seed, draw=draw: _measured(draw(way), trees, score, seed),
                )
            )
    stacked = {
        way: {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        for way, rows in found.items()
    }
    expected = np.mean([occupancy.by_depth(own, own.weights) for own in trees], axis=0)
    empty = np.mean([occupancy.expected_empty(own.weights, num) for own in trees])
    text = occupancy_report.tables(stacked, expected)
    text += f"\n\nOf {len(trees[0].weights)} components {num} draws leave {empty:.0f} empty."
    (out / "occupancy.md").write_text(text + "\n")
    print(f"{text}\nWritten to {out / 'occupancy.md'}.")


def _check_finished(run_dir):
    """What is measured is kept for good, and so must be the finished models."""
    wanted = read_config(run_dir).training.num_steps
    step = storage.last_complete_step(run_dir / CHECKPOINTS)
    if step != wanted:
        raise InputError(
            f"{run_dir} is at step {step or 0} of {wanted}; the sweep must be finished."
        )


def _file(out, seed, way):
    name = re.sub(r"[^a-z0-9.]+", "-", way.replace(",", ""))
    return out / "occupancy" / f"seed{seed}-{name}.npz"


def _samples(out, config, data, trees, num, seed, way):
    """`[classes, num, 2]`."""
    if way == TRUE:
        keys = [jax.random.fold_in(jax.random.key(seed), label) for label in range(len(trees))]
        parts = [mixture.sample(own.mixture, k, num) for own, k in zip(trees, keys, strict=True)]
        return np.stack([np.asarray(x) for x in parts])
    if way == EXACT:
        labels = np.repeat(np.arange(len(trees), dtype=np.int32), num)
        sigmas = tree_figure.noise_range(out / "main" / f"seed{seed}")
        x = tree_figure.exact_samples(data, labels, config.sample.steps, sigmas, seed)
        return x.reshape(len(trees), num, 2)
    guidance = dict(WAYS[way])
    if "guide" in guidance:
        guidance["guide"] = str(out / guidance["guide"] / f"seed{seed}")
    run_dir = out / "main" / f"seed{seed}"
    labels = range(len(trees))
    return np.stack([tree_figure.model_samples(run_dir, guidance, label, num) for label in labels])


def _measured(samples, trees, score, seed):
    """Means over the classes."""
    rows = []
    for label, (own, x) in enumerate(zip(trees, samples, strict=True)):
        values = np.asarray(score.log_prob(x, score.class_weights[label]))
        cut = np.quantile(score.class_reference[label], _QUANTILE)
        rows.append(occupancy.measure(own, x, values >= cut, seed))
    return {name: np.mean([row[name] for row in rows], axis=0) for name in rows[0]}


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
