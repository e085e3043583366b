"""Conditioning on features against classes: speed or quality?

  python -m experiments.run_speed --out=runs/speed

Points along a spiral, conditioned on their position, and the grid, conditioned on nothing, classes,
k-means labels and a mixture; one training a seed, scored after 1, 3 and 9 times as many updates.
Writes OUT/DATA.md and a file a training; the same command goes on with what is left. The time comes
first.

  --out=DIR         of the whole experiment
  --data=A,B        spiral, grid
  --seeds=3         trainings of each condition
  --steps=300       updates of the shortest
  --dry_run         prints the time, and runs nothing

Exit status: 0 done, 1 failed, 2 bad input, 130 or 143 after Ctrl-C or SIGTERM.
"""

import dataclasses
import sys

import numpy as np

from experiments import flags, kept, speed, speed_report, stoppable

# On one CPU core: seconds for an update, and for the fits, the compilation and the samples.
_SECONDS, _START = 0.008, 25.0


def run(argv: list[str]) -> int:
    """One command, without the program's name; returns the exit status."""
    parser = flags.Parser(description=__doc__)
    parser.add_argument("--out", type=flags.folder, required=True)
    parser.add_argument("--data", type=flags.names(speed.DATA), default=",".join(speed.DATA))
    parser.add_argument("--seeds", type=flags.count, default=3)
    parser.add_argument("--steps", type=flags.count, default=300)
    parser.add_argument("--dry_run", action="store_true")
    return stoppable.run(lambda poll: _work(parser.parse_args(argv), poll))


def _work(arguments, poll):
    names = arguments.data.split(",")
    todo = [
        (name, condition, seed)
        for name in names
        for condition in speed.CONDITIONS
        for seed in range(arguments.seeds)
        if not _file(arguments.out, speed.Problem(name, condition), seed).exists()
    ]
    each = _START + _SECONDS * speed.TIMES[-1] * arguments.steps
    minutes = len(todo) * each / 60
    print(f"{len(todo)} trainings left, about {minutes:.1f} minutes.", flush=True)
    if arguments.dry_run:
        return
    for name in names:
        _one(arguments.out, name, arguments.seeds, arguments.steps, poll)
    print(f"Written to {arguments.out}.")


def _file(out, problem, seed):
    return out / f"{problem.data}_{problem.condition.replace(' ', '-')}_{seed}.npz"


def _one(out, name, seeds, steps, poll):
    rows = {condition: [] for condition in speed.CONDITIONS}
    # By seed first: what is there after a stop is of all conditions.
    for seed in range(seeds):
        for condition in speed.CONDITIONS:
            poll()
            problem = speed.Problem(name, condition, num_steps=steps)
            settings = [dataclasses.asdict(problem), seed, list(speed.TIMES), list(speed.SCORES)]
            found = kept.arrays(
                _file(out, problem, seed),
                settings,
                lambda problem=problem, seed=seed: speed.measure(problem, seed),
            )
            rows[condition].append(found["scores"])
            floor = found["floor"]
    text = speed_report.table({c: np.stack(values) for c, values in rows.items()}, floor)
    (out / f"{name}.md").write_text(text + "\n")
    print(f"{name}\n\n{text}\n", flush=True)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
