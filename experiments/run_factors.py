"""Where does the gain of conditioning on a mixture come from?

  python -m experiments.run_factors --out=runs/factors

Trains what configs/sweeps/mixture_factors.py lists, after its time, and writes OUT/METRIC.md: the
metric of each condition, and what each part of a mixture changes. The same command goes on with
what is left; a table is of the seeds that are complete.

  --out=DIR       of the sweep
  --parallel=2    runs at a time
  --dry_run       prints the plan and its time, and runs nothing
  --table         makes the tables of what is there, and trains nothing

Exit status: 0 done, 1 a run failed, 2 bad input, 130 or 143 after Ctrl-C or SIGTERM.
"""

import pathlib
import sys

from experiments import factors, flags
from gmm_diffusion import command_line
from gmm_diffusion.report import results
from gmm_diffusion.sweep import __main__ as sweep

SWEEP = pathlib.Path(__file__).parents[1] / "configs" / "sweeps" / "mixture_factors.py"


def run(argv: list[str]) -> int:
    """One command, without the program's name; returns the exit status."""
    parser = flags.Parser(description=__doc__)
    parser.add_argument("--out", type=flags.folder, required=True)
    parser.add_argument("--parallel", type=flags.count, default=2)
    parser.add_argument("--dry_run", action="store_true")
    parser.add_argument("--table", action="store_true")
    return command_line.ended(lambda: _work(parser.parse_args(argv)))


def _work(arguments):
    if not arguments.table:
        line = [f"--out={arguments.out}", f"--parallel={arguments.parallel}", str(SWEEP)]
        status = sweep.run([*line, *(["--dry_run"] if arguments.dry_run else [])])
        if status or arguments.dry_run:
            return status
    _write(arguments.out)
    return 0


def _write(out):
    found, skipped = results.find([out / "digits"])
    for metric in factors.METRICS:
        text = factors.tables(*factors.collect(found, metric), metric)
        (out / f"{metric}.md").write_text(text + "\n")
        print(f"{text}\n", flush=True)
    for line in skipped:
        print(line, file=sys.stderr)
    print(f"Written to {out}.")


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
