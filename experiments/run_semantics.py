"""What weights mean: `mixture` and `example` semantics against exact targets.

  python -m experiments.run_semantics --out=runs/semantics

On the grid and the moons, for each seed a model of either semantics, asked for components, blends,
random weights and the average, in both ways. Writes OUT/DATA.md and OUT/DATA_SEED.npz; the same
command goes on with what is left. The time comes first.

  --out=DIR         of the whole experiment
  --data=A,B        grid, moons
  --seeds=3         models of each semantics
  --steps=1500      updates of a model
  --dry_run         prints the time, and runs nothing

Exit status: 0 done, 1 failed, 2 bad input, 130 or 143 after Ctrl-C or SIGTERM.
"""

import dataclasses
import sys

import numpy as np

from experiments import flags, kept, semantics, semantics_report, stoppable

# On one CPU core: seconds for an update of a model, and for its fits and its samples.
_SECONDS, _START = 0.012, 50.0


def run(argv: list[str]) -> int:
    """One command, without the program's name; returns the exit status."""
    parser = flags.Parser(description=__doc__)
    parser.add_argument("--out", type=flags.folder, required=True)
    parser.add_argument("--data", default=",".join(semantics.NUM_COMPONENTS))
    parser.add_argument("--seeds", type=flags.count, default=3)
    parser.add_argument("--steps", type=flags.count, default=1500)
    parser.add_argument("--dry_run", action="store_true")
    return stoppable.run(lambda poll: _work(parser.parse_args(argv), poll))


def _work(arguments, poll):
    problems = [
        semantics.Problem(name, num_steps=arguments.steps) for name in arguments.data.split(",")
    ]
    todo = [
        (problem, seed)
        for problem in problems
        for seed in range(arguments.seeds)
        if not _file(arguments.out, problem, seed).exists()
    ]
    minutes = len(todo) * 2 * (_START + _SECONDS * arguments.steps) / 60
    print(f"{2 * len(todo)} models left, about {minutes:.1f} minutes.", flush=True)
    if arguments.dry_run:
        return
    for problem in problems:
        _one(arguments.out, problem, arguments.seeds, poll)
    print(f"Written to {arguments.out}.")


def _file(out, problem, seed):
    return out / f"{problem.name}_{seed}.npz"


def _one(out, problem, seeds, poll):
    rows = []
    for seed in range(seeds):
        poll()
        rows.append(_measured(out, problem, seed))
    stacked = {name: np.stack([row[name] for row in rows]) for name in ("distance", "defects")}
    stacked["alike"] = np.stack([row["alike"] for row in rows])
    text = semantics_report.table([str(kind) for kind in rows[0]["kinds"]], stacked)
    (out / f"{problem.name}.md").write_text(text + "\n")
    print(f"{problem.name}\n\n{text}\n", flush=True)


def _measured(out, problem, seed):
    def compute():
        models = {name: semantics.fit(problem, name, seed) for name in ("mixture", "example")}
        known = semantics.oracle(problem, models["mixture"])
        found = semantics.scores(problem, models, known, seed)
        return found | {"kinds": np.array(list(semantics.requests(known)))}

    settings = [dataclasses.asdict(problem), seed, list(semantics.WAYS), semantics.NUM_SAMPLES]
    return kept.arrays(_file(out, problem, seed), settings, compute)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
