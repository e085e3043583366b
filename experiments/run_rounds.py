"""Does the contrastive loss save rounds of parallel sampling, by the published protocol?

  python -m experiments.run_rounds --out=runs/rounds

Points of known density. Networks that predict noise or are preconditioned as in EDM, trained with
each level's loss weighted by its size or by the likelihood, with and without the contrastive loss:
as many updates, as many evaluations of the network, and 2, 5 and 10 % more of a finished run. Each
is sampled by 1,000 ancestral steps at once, and judged after every round by its squared MMD to the
density; the exact denoiser stands beside them. Writes OUT/DATA.md, a file a model in OUT/measured
and the runs; the same command goes on with what is left, within a training too. The time comes
first.

  --out=DIR            of the whole experiment
  --data=dino          a point set of data.toy
  --seeds=5            trainings of each kind
  --updates=20000      of a run with the loss; the paper has 782,000
  --networks=A,B       noise, edm
  --weightings=A,B     denoising, likelihood
  --weight=0.1         of the loss
  --zeta=LOW,HIGH      range of the smoothing, in units of the data's size
  --zeta_law=logistic  of its logarithm: logistic or uniform
  --width=128          of the network
  --samples=1024       of each model
  --rounds=60          most rounds
  --sampling_steps=1000
  --no_tuning          leaves out what goes on from a finished run
  --dry_run            prints the time, and runs nothing

Exit status: 0 done, 1 failed, 2 bad input, 130 or 143 after Ctrl-C or SIGTERM.
"""

import dataclasses
import re
import sys

import jax
import numpy as np

from experiments import flags, kept, rounds, rounds_report, rounds_runs, stoppable
from gmm_diffusion import mixture
from gmm_diffusion.errors import InputError
from gmm_diffusion.metrics import mmd

# On two CPU cores, seconds: for what an update takes however small, and for a row of width 1 in it;
# for what a training takes before its first update; for a row of width 1 in a round, where about
# half of the rounds are needed; and for a row of the exact denoiser.
_UPDATE, _ROW, _START, _ROUND_ROW, _EXACT_ROW = 7e-4, 2e-8, 25.0, 2e-8, 2e-6


def run(argv: list[str]) -> int:
    """One command, without the program's name; returns the exit status."""
    parser = flags.Parser(description=__doc__)
    parser.add_argument("--out", type=flags.folder, required=True)
    parser.add_argument("--data", default="dino")
    parser.add_argument("--seeds", type=flags.count, default=5)
    parser.add_argument("--updates", type=flags.count, default=20_000)
    parser.add_argument("--networks", default=",".join(rounds_runs.NETWORKS))
    parser.add_argument("--weightings", default=",".join(rounds_runs.WEIGHTINGS))
    parser.add_argument("--weight", type=float, default=0.1)
    parser.add_argument("--zeta", default="0.011,90")
    parser.add_argument("--zeta_law", default="logistic")
    parser.add_argument("--width", type=flags.count, default=128)
    parser.add_argument("--samples", type=flags.count, default=1024)
    parser.add_argument("--rounds", type=flags.count, default=60)
    parser.add_argument("--sampling_steps", type=flags.count, default=1000)
    parser.add_argument("--no_tuning", action="store_true")
    parser.add_argument("--dry_run", action="store_true")
    return stoppable.run(lambda poll: _work(parser.parse_args(argv), poll))


def _settings(arguments):
    try:
        zeta = tuple(float(end) for end in arguments.zeta.split(","))
    except ValueError:
        zeta = ()
    if len(zeta) != 2:
        raise InputError(f"zeta is {arguments.zeta!r}; valid are two numbers, LOW,HIGH.")
    protocol = rounds.Protocol(
        arguments.data, arguments.samples, arguments.sampling_steps, arguments.rounds
    )
    problem = rounds_runs.Problem(
        arguments.data,
        arguments.updates,
        arguments.width,
        weight=arguments.weight,
        zeta=zeta,
        zeta_law=arguments.zeta_law,
    )
    arms = [
        rounds_runs.Arm(network, weighting, contrast, tuned)
        for network in arguments.networks.split(",")
        for weighting in arguments.weightings.split(",")
        for tuned in ([False] if arguments.no_tuning else [False, True])
        for contrast in (False, True)
    ]
    return protocol, problem, arms


def _file(out, name, seed):
    return out / "measured" / f"{re.sub('[^a-z0-9]+', '_', name)}_{seed}.npz"


def _work(arguments, poll):
    out, seeds = arguments.out, range(arguments.seeds)
    protocol, problem, arms = _settings(arguments)
    for arm in arms:
        rounds_runs.check(problem, arm)
    print(f"{_left(out, protocol, problem, arms, seeds)} left.", flush=True)
    if arguments.dry_run:
        return
    exact, true_points, found = [], [], {}
    for seed in seeds:
        one, floor = _exact(out, protocol, seed, poll)
        exact.append(one)
        true_points.append(floor)
        for arm in arms:
            models = found.setdefault((arm.network, arm.weighting), {})
            for name, values in _one(out, protocol, problem, arm, seed, poll).items():
                models.setdefault(name, []).append(values)
        text = rounds_report.tables(
            {
                kind: {name: np.stack(values) for name, values in models.items()}
                for kind, models in found.items()
            },
            np.stack(exact),
            true_points,
            protocol.num_rounds,
        )
        (out / f"{protocol.data}.md").write_text(text + "\n")
    print(f"{text}\n\nWritten to {out}.", flush=True)


def _left(out, protocol, problem, arms, seeds):
    """What is left to do, in words."""
    trainings = [(a, s) for a in arms for s in seeds if _missing(out, problem, a, s)]
    number = sum(_missing(out, problem, arm, seed) for arm, seed in trainings)
    seconds = 0.0
    for arm, _ in trainings:
        updates = max(rounds_runs.models(problem, arm).values())
        size = problem.width * problem.batch_size * rounds_runs.rows(problem, arm)
        seconds += _START + _UPDATE * updates + _ROW * size
    asked = protocol.num_rounds * protocol.num_samples * protocol.num_steps
    seconds += number * asked * problem.width * _ROUND_ROW
    missing = sum(not _file(out, "exact", seed).exists() for seed in seeds)
    seconds += missing * asked * _EXACT_ROW
    return f"{number} models of {len(trainings)} trainings, about {seconds / 60:.0f} minutes"


def _missing(out, problem, arm, seed):
    names = rounds_runs.models(problem, arm)
    return sum(not _file(out, f"{arm.network}_{arm.weighting}_{n}", seed).exists() for n in names)


def _exact(out, protocol, seed, poll):
    def compute():
        made = rounds.Denoiser(rounds.Exact(protocol.data))
        own = rounds.known(protocol.data)
        x = mixture.sample(own, jax.random.key(10**6 + seed), protocol.num_samples)
        floor = mmd.squared_to(own, np.array([protocol.width]))(np.asarray(x))
        return rounds.measure(protocol, made, {}, seed, poll) | {"true": np.array(floor)}

    found = kept.arrays(
        _file(out, "exact", seed), [dataclasses.asdict(protocol), "exact", seed], compute
    )
    return rounds_report.figures(found), float(found["true"])


def _one(out, protocol, problem, arm, seed, poll):
    """The figures of a training's models, by name."""
    made, figures = None, {}
    for name in rounds_runs.models(problem, arm):

        def compute(name=name):
            nonlocal made
            poll()
            if made is None:
                made = rounds_runs.trained(problem, arm, seed, out / "runs")
            denoiser, model = made[name]
            print(f"{arm.network}, {arm.weighting}, {name}, seed {seed}", flush=True)
            return rounds.measure(protocol, denoiser, model.params, seed, poll)

        settings = [*map(dataclasses.asdict, (protocol, problem, arm)), name, seed]
        file = _file(out, f"{arm.network}_{arm.weighting}_{name}", seed)
        figures[name] = rounds_report.figures(kept.arrays(file, settings, compute))
    return figures


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
