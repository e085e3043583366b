"""Does NGMG order distributions as W1 does?

  python -m experiments.run_likeness --out=runs/ngmg_likeness

A uniform line, circle and sphere in 10, 32 and 100 dimensions is shifted, scaled, rotated, loses
modes or gets unequal masses, in eight strengths each; writes the rank correlations of NGMG, KL, JS
and the energy distance with W1 to OUT/tables.md. The same command goes on with what is left. Six
minutes on one CPU core; the time comes first.

  --out=DIR         of the whole experiment
  --shapes=A,B      line, circle, sphere
  --dims=10,32,100  of the space
  --seeds=8         repetitions
  --points=200      of each distribution
  --dry_run         prints the time, and runs nothing

Exit status: 0 done, 1 failed, 2 bad input, 130 or 143 after Ctrl-C or SIGTERM.
"""

import dataclasses
import sys

from experiments import flags, kept, likeness, likeness_report, stoppable
from gmm_diffusion.errors import InputError

# On one CPU core, of one repetition at 200 points, by dimension, and to compile.
_SECONDS, _PER_DIM, _START = 2.0, 0.07, 2.0


def run(argv: list[str]) -> int:
    """One command, without the program's name; returns the exit status."""
    parser = flags.Parser(description=__doc__)
    parser.add_argument("--out", type=flags.folder, required=True)
    parser.add_argument("--shapes", default=",".join(likeness.SHAPES))
    parser.add_argument("--dims", default="10,32,100")
    parser.add_argument("--seeds", type=flags.count, default=8)
    parser.add_argument("--points", type=flags.count, default=200)
    parser.add_argument("--dry_run", action="store_true")
    return stoppable.run(lambda poll: _work(parser.parse_args(argv), poll))


def _work(arguments, poll):
    problems = [
        likeness.Problem(shape, dim, arguments.points, arguments.seeds)
        for shape in arguments.shapes.split(",")
        for dim in _dims(arguments.dims)
    ]
    todo = [p for p in problems if not _file(arguments.out, p).exists()]
    share = (arguments.points / 200) ** 2
    seconds = sum(_START + p.num_seeds * share * (_SECONDS + _PER_DIM * p.dim) for p in todo)
    print(f"{len(todo)} problems left, about {seconds / 60:.1f} minutes.", flush=True)
    if arguments.dry_run:
        return
    found = {}
    for problem in problems:
        poll()
        found[problem] = _measured(arguments.out, problem)
    text = likeness_report.tables(found, likeness.opposite_pairs())
    (arguments.out / "tables.md").write_text(text)
    print(f"{text}\nWritten to {arguments.out}.")


def _dims(text):
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise InputError(f"--dims is {text!r}; valid are whole numbers with commas between them.")
    return [int(part) for part in text.split(",")]


def _file(out, problem):
    return out / f"{problem.shape}_{problem.dim}.npz"


def _measured(out, problem):
    settings = [dataclasses.asdict(problem), list(likeness.COSTS), list(likeness.CHANGES)]
    found = kept.arrays(_file(out, problem), settings, lambda: {"costs": likeness.measure(problem)})
    return found["costs"]


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
