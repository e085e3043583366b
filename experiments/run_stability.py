"""Is training by NGMG more stable than by cross-entropy? Many small classifiers of the digits.

  python -m experiments.run_stability --out=runs/ngmg_stability

NGMG in both forms and cross-entropy, SGD and Adam, no clipping, four regimes; for each a search for
the best rate and 8 seeds at 5 multiples of it. Writes OUT/tables.md, OUT/REGIME.png and OUT/cells;
the same command goes on with what is left. Minutes on two CPU cores; the time comes first.

  --out=DIR         of the whole experiment
  --regimes=A,B     some of: clean, label noise, two dimensions, normalised
  --seeds=8         of a cell
  --steps=600       updates of a run
  --dry_run         prints the time, and runs nothing

Exit status: 0 done, 1 failed, 2 bad input, 130 or 143 after Ctrl-C or SIGTERM.
"""

import sys

import numpy as np

from experiments import flags, rate_search, stability_plan, stability_report, stoppable
from experiments.many_classifiers import REGIMES
from gmm_diffusion.data import digits


def run(argv: list[str]) -> int:
    """One command, without the program's name; returns the exit status."""
    parser = flags.Parser(description=__doc__)
    parser.add_argument("--out", type=flags.folder, required=True)
    parser.add_argument("--regimes", default=",".join(REGIMES))
    parser.add_argument("--seeds", type=flags.count, default=8)
    parser.add_argument("--steps", type=flags.count, default=600)
    parser.add_argument("--dry_run", action="store_true")
    return stoppable.run(lambda poll: _work(parser.parse_args(argv), poll))


def _work(arguments, poll):
    regimes = tuple(arguments.regimes.split(","))
    plan = stability_plan.Plan(regimes, arguments.seeds, arguments.steps)
    data = digits()
    task = stability_plan.task(data)
    chance = float(np.bincount(data.heldout.label).max() / len(data.heldout))
    minutes = rate_search.estimate(plan, task, arguments.out)
    todo = len(rate_search.left(plan, task, arguments.out))
    print(f"{todo} cells left, about {minutes:.1f} minutes.", flush=True)
    if arguments.dry_run:
        return
    cells = rate_search.run(plan, task, arguments.out, poll)
    text = stability_report.tables(cells, chance)
    (arguments.out / "tables.md").write_text(text)
    for regime in regimes:
        file = arguments.out / f"{regime.replace(' ', '_')}.png"
        stability_report.figure(cells, chance, regime, file)
    print(text.split("\n\n")[0])
    print(f"\nWritten to {arguments.out}.")


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
