"""NGMG for attributes, one number each, against cross-entropy and other bounded losses.

  python -m experiments.run_attributes --out=runs/ngmg_attributes

Ten losses, SGD and Adam, with 0, 10 and 40 % of the training labels wrong: for each a search for
the best rate (8 seeds) and 8 other seeds at 5 multiples of it. The faces are rendered here, and
attributes are had by half of all people down to one in two hundred. Writes OUT/tables.md and
OUT/cells; the same command goes on with what is left. The time comes first.

  --out=DIR         of the whole experiment
  --losses=A;B      some of the table in experiments/attributes.py, by name
  --optimizers=A,B  sgd, adam
  --flipped=0,0.4   shares of wrong labels
  --seeds=8         of a cell
  --steps=600       updates of a run
  --dry_run         prints the time, and runs nothing

Exit status: 0 done, 1 failed, 2 bad input, 130 or 143 after Ctrl-C or SIGTERM.
"""

import sys

from experiments import (
    attributes,
    attributes_plan,
    attributes_report,
    flags,
    rate_search,
    stoppable,
)
from gmm_diffusion.errors import InputError


def run(argv: list[str]) -> int:
    """One command, without the program's name; returns the exit status."""
    parser = flags.Parser(description=__doc__)
    parser.add_argument("--out", type=flags.folder, required=True)
    parser.add_argument("--losses", default=";".join(attributes.LOSSES))
    parser.add_argument("--optimizers", default=",".join(attributes.OPTIMIZERS))
    parser.add_argument("--flipped", default=",".join(f"{f:g}" for f in attributes_plan.FLIPPED))
    parser.add_argument("--seeds", type=flags.count, default=8)
    parser.add_argument("--steps", type=flags.count, default=600)
    parser.add_argument("--dry_run", action="store_true")
    return stoppable.run(lambda poll: _work(parser.parse_args(argv), poll))


def _work(arguments, poll):
    plan = attributes_plan.Plan(
        tuple(arguments.losses.split(";")),
        tuple(arguments.optimizers.split(",")),
        _shares(arguments.flipped),
        arguments.seeds,
        arguments.steps,
    )
    list(plan.settings())
    task = attributes_plan.task(attributes.load())
    minutes = rate_search.estimate(plan, task, arguments.out)
    todo = len(rate_search.left(plan, task, arguments.out))
    print(f"{todo} cells left, about {minutes:.1f} minutes.", flush=True)
    if arguments.dry_run:
        return
    cells = rate_search.run(plan, task, arguments.out, poll)
    text = attributes_report.tables(cells)
    (arguments.out / "tables.md").write_text(text)
    print(f"{text}\nWritten to {arguments.out}.")


def _shares(text):
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--flipped is {text!r}; valid are numbers such as 0,0.1,0.4.") from None


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
