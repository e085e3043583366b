"""Does the contrastive loss make the score less wrong away from the data?

  python -m experiments.run_score_error --out=runs/contrastive_score

Trains small denoisers of two modes on a line and of a tree in the plane, with and without the loss,
and compares them with the exact denoisers: in the distribution of training, at smoothed data and
anywhere. Writes OUT/DATA.md, OUT/DATA.npz and for the line OUT/two_modes.png; data that are done
are not done again.

Minutes for the line, which is what docs/contrastive.md has; the tree takes several times as long.

  --out=DIR        of the whole experiment
  --data=A,B       two modes, tree
  --weights=A,B    of the contrastive loss
  --seeds=5        of training
  --steps=2000     updates of a run
  --num_points=16  evaluations of the loss's integrand a point

Exit status: 0 done, 1 failed, 2 bad input, 130 or 143 after Ctrl-C or SIGTERM.
"""

import dataclasses
import json
import sys
import time
from typing import Any

import numpy as np

from experiments import flags, score_error, score_error_report, stoppable
from gmm_diffusion.errors import InputError

LEVELS = np.geomspace(0.02, 5, 8)
_LINE, _MAP_LEVELS = np.linspace(-4, 4, 161), np.geomspace(0.01, 10, 60)
_POINTS = 4096


def run(argv: list[str]) -> int:
    """One command, without the program's name; returns the exit status."""
    parser = flags.Parser(description=__doc__)
    parser.add_argument("--out", type=flags.folder, required=True)
    parser.add_argument(
        "--data", type=flags.names(score_error.DATA), default=",".join(score_error.DATA)
    )
    parser.add_argument("--weights", type=flags.numbers, default="0,0.1,1")
    parser.add_argument("--seeds", type=flags.count, default=5)
    parser.add_argument("--steps", type=flags.count, default=2000)
    parser.add_argument("--num_points", type=flags.count, default=16)
    return stoppable.run(
        lambda poll: _work(parser.parse_args(argv), poll),
        "Stopped. Data that were finished are kept.",
    )


def _work(arguments, poll):
    for data in arguments.data.split(","):
        problem = score_error.Problem(
            data=data, num_steps=arguments.steps, num_points=arguments.num_points
        )
        _one(arguments.out, problem, arguments.weights, arguments.seeds, poll)
    print(f"Written to {arguments.out}.")


def _one(out, problem, weights, seeds, poll):
    name = problem.data.replace(" ", "_")
    file = out / f"{name}.npz"
    header = json.dumps([dataclasses.asdict(problem), weights, seeds])
    if file.exists():
        with np.load(file) as stored:
            if stored["header"].item() != header:
                raise InputError(
                    f"{file} was made with other settings; use another --out, or delete it."
                )
        print(f"{file} is there already.")
        return
    errors: dict[float, dict[str, Any]] = {}
    maps, begin = {}, time.monotonic()
    regions = {
        region: (*points, score_error.exact(problem.data, *points))
        for region, points in score_error.regions(problem, _POINTS, LEVELS).items()
    }
    for weight in weights:
        own = dataclasses.replace(problem, weight=weight)
        errors[weight] = {region: [] for region in regions}
        for seed in range(seeds):
            poll()
            params = score_error.train(own, seed)
            for region, points in regions.items():
                squares = np.asarray(score_error.error(own, params, *points))
                errors[weight][region].append(squares.reshape(len(LEVELS), -1).mean(axis=1))
            print(f"{problem.data}, weight {weight:g}, seed {seed}: "
                  f"{time.monotonic() - begin:.0f} s", flush=True)  # fmt: skip
        errors[weight] = {region: np.array(rows) for region, rows in errors[weight].items()}
        if score_error.known(problem.data).dim == 1:
            x = np.tile(_LINE, len(_MAP_LEVELS))[:, None].astype(np.float32)
            sigma = np.repeat(_MAP_LEVELS, len(_LINE)).astype(np.float32)
            best = score_error.exact(own.data, x, sigma)
            values = np.asarray(score_error.error(own, params, x, sigma, best))
            maps[weight] = values.reshape(len(_MAP_LEVELS), len(_LINE))
    out.mkdir(parents=True, exist_ok=True)
    text = score_error_report.table(errors, LEVELS)
    (out / f"{name}.md").write_text(text + "\n")
    if maps:
        score_error_report.figure(maps, _LINE, _MAP_LEVELS, out / f"{name}.png")
    arrays = {f"{w}/{r}": rows for w, by in errors.items() for r, rows in by.items()}
    np.savez(file, header=np.array(header), **arrays)
    print(f"{problem.data}\n\n{text}\n")


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
