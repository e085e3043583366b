"""Does NGMG follow the geometry of distributions on a line or circle, as W1 does and KL does not?

  python -m experiments.run_manifold --out=runs/ngmg_manifold

Learns the position of a circle (or a line) in 10 dimensions by gradient descent on W1, NGMG, KL and
JS, each at 14 rates and 5 seeds. Writes OUT/SHAPE.md, OUT/SHAPE.png and OUT/SHAPE/*.npz; the same
command goes on with what is left. Two or three minutes on two CPU cores.

  --out=DIR         of the whole experiment
  --shapes=A,B      line, circle
  --steps=300       updates of a run
  --dry_run         prints the time, and runs nothing

Exit status: 0 done, 1 failed, 2 bad input, 130 or 143 after Ctrl-C or SIGTERM.
"""

import dataclasses
import sys

import numpy as np

from experiments import flags, kept, manifold, manifold_report, stoppable

DISTANCES = np.append(0.0, np.geomspace(1e-3, 10, 33))
# On two CPU cores: seconds for an update of one cost in all its runs, and to compile.
_SECONDS, _START = 0.02, 3.0


def run(argv: list[str]) -> int:
    """One command, without the program's name; returns the exit status."""
    parser = flags.Parser(description=__doc__)
    parser.add_argument("--out", type=flags.folder, required=True)
    parser.add_argument(
        "--shapes", type=flags.names(manifold.SHAPES), default=",".join(manifold.SHAPES)
    )
    parser.add_argument("--steps", type=flags.count, default=300)
    parser.add_argument("--dry_run", action="store_true")
    return stoppable.run(lambda poll: _work(parser.parse_args(argv), poll))


def _work(arguments, poll):
    problems = [
        manifold.Problem(shape=shape, num_steps=arguments.steps)
        for shape in arguments.shapes.split(",")
    ]
    todo = [
        (p, name)
        for p in problems
        for name in manifold.COSTS
        if not _file(arguments.out, p, name).exists()
    ]
    minutes = len(todo) * (_START + _SECONDS * arguments.steps) / 60
    print(f"{len(todo)} costs left, about {minutes:.1f} minutes.", flush=True)
    if arguments.dry_run:
        return
    for problem in problems:
        _run_shape(arguments.out, problem, poll)
    print(f"Written to {arguments.out}.")


def _run_shape(out, problem, poll):
    curves, learned = {}, {}
    for name in manifold.COSTS:
        poll()
        curves[name], learned[name] = _cost(out, problem, name)
    text = manifold_report.table(learned, problem)
    (out / f"{problem.shape}.md").write_text(text + "\n")
    manifold_report.figure(curves, DISTANCES, learned, out / f"{problem.shape}.png")
    print(f"{problem.shape}\n\n{text}\n")


def _file(out, problem, name):
    return out / problem.shape / (name.replace(" ", "_").replace(",", "") + ".npz")


def _cost(out, problem, name):
    """Curve and runs of one cost, computed or read."""
    settings = [name, dataclasses.asdict(problem)]

    def compute():
        cost, slope = manifold.curve(name, problem, DISTANCES)
        return {"cost": cost, "slope": slope, "learned": manifold.learn(name, problem)}

    found = kept.arrays(_file(out, problem, name), settings, compute)
    return (found["cost"], found["slope"]), found["learned"]


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
