"""The figure of guidance on the tree, and what its exact denoiser scores.

  python -m experiments.run_tree_figure --out=DIR   DIR is that of the sweep configs/sweeps/tree.py

Writes DIR/tree.png, and DIR/figure.json: the scores of the exact denoiser, with the sampler of the
main model and as many samples; and of the samples in each panel how many lie far out, and how far.
Exit status: 0 done, 1 failed, 2 bad input, 130 or 143 after Ctrl-C or SIGTERM.
"""

import sys

import numpy as np

from experiments import flags, stoppable, tree_figure
from gmm_diffusion import assembly
from gmm_diffusion.metrics.vector_scores import VectorScores
from gmm_diffusion.runs.workdir import read_config, write_json

NUM = 8192
BOUNDED = {"limit": 1.0, "interval": (0.01, 1000.0)}
PANELS = {
    "no guidance": {"kind": "none"},
    "guided by itself at step 1024, w = 5": {
        "kind": "auto",
        "scale": 5.0,
        "guide_ema": 0.01,
        "guide_step": 1024,
    },
    "autoguidance, w = 4": {"kind": "auto", "scale": 4.0, "guide_ema": 0.01, **BOUNDED},
    "classifier-free, w = 4": {"kind": "classifier_free", "scale": 4.0},
    "mixture guidance, w = 2": {"kind": "mixture", "scale": 2.0},
}


def run(argv: list[str]) -> int:
    """One command, without the program's name; returns the exit status."""
    parser = flags.Parser(description=__doc__)
    parser.add_argument("--out", type=flags.folder, required=True)
    return stoppable.run(lambda poll: _draw(parser.parse_args(argv).out, poll))


def _draw(out, poll):
    config = read_config(out / "main" / "seed0")
    data = assembly.dataset(config)
    score = VectorScores(data)
    labels = np.arange(2 * NUM, dtype=np.int32) % 2
    sigmas = tree_figure.noise_range(out / "main" / "seed0")
    x = tree_figure.exact_samples(data, labels, config.sample.steps, sigmas)
    scores = score(x, labels)
    for name, value in scores.items():
        print(f"exact denoiser: {name} {value:.4f}")
    panels = [("exact denoiser", x[labels == 0])]
    for title, guidance in PANELS.items():
        if guidance["kind"] == "auto" and "guide_step" not in guidance:
            guidance = guidance | {"guide": str(out / "guide" / "seed0")}
        poll()
        panels.append((title, tree_figure.model_samples(out / "main" / "seed0", guidance, 0, NUM)))
    tails = {title: tree_figure.tail(data, 0, points, score) for title, points in panels}
    for title, tail in tails.items():
        print(f"{title}: {tail['far']:.4%} far, at most {tail['distance']:.2f} away")
    write_json(out / "figure.json", {"exact": scores, "tails": tails})
    tree_figure.plot(data, 0, panels, str(out / "tree.png"))
    print(f"Figure: {out / 'tree.png'}")


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
