"""Runs grids of configs and seeds, and goes on where it was stopped.

  python -m gmm_diffusion.sweep --out=runs/sweep --config=configs/digits_gmm.py \
      training.seed=0,1,2 sample.ema=0.05,0.1
  python -m gmm_diffusion.sweep --out=runs/sweep SWEEP.py [training.num_steps=300 ...]

SWEEP.py has a function `get_sweep()` that returns a list of stages: gmm_diffusion/sweep/plan.py
says what a stage is. Settings with one value hold for all runs. Values that have commas themselves
are separated by semicolons, "data.crop=0,0,8,8;0,0,4,4". Each combination of values is one
training, OUT/STAGE/seed0, or one evaluation of it, OUT/STAGE/seed0/evaluations/ema0.05.json, where
only the settings of sampling differ; what is printed goes to OUT/STAGE/seed0.log.

  --out=DIR         of the whole sweep; the same command goes on with what is left
  --config=FILE     in place of SWEEP.py: one stage, named after the file
  --minutes=T,E     how long one training and one evaluation take, if known
  --parallel=N      runs at a time, each on its share of the processors, which small networks use
                    better alone
  --dry_run         prints the plan and its time, and runs nothing
  --cluster=slurm   gives the runs to SLURM, an array job a stage, and ends; typed again, the same
                    command says how they are and submits those that have ended and are not done.
                    --parallel is how many of a stage run at a time, --cluster=local a trial
                    without SLURM. For each run, as sbatch takes them:
    --time=4:00:00  after which it is saved and goes back into the queue, as when it is preempted
    --gpus=N --cpus=N --memory=GB --partition= --account= --qos= --constraint=

The plan comes first, with the time it takes: as measured in this sweep, or as declared, or guessed
from a short run. Exit status: 0 done, 1 a run failed, 2 bad input, 130 or 143 after Ctrl-C or
SIGTERM.
"""

import functools
import math
import pathlib
import runpy
import sys

from gmm_diffusion import command_line, paths, signals
from gmm_diffusion import config as config_lib
from gmm_diffusion import main as main_lib
from gmm_diffusion.errors import InputError
from gmm_diffusion.sweep import assignments, cluster, plan, probe, runner, times
from gmm_diffusion.sweep.jobs import check_workdirs, is_done


def run(argv: list[str]) -> int:
    """One command, without the program's name; returns the exit status."""
    return command_line.run(argv, __file__, _work)


def _work(argv):
    arguments = _parse(argv)
    jobs = plan.make_jobs(_stages(arguments), arguments.out, _load)
    check_workdirs(jobs)
    try:
        with signals.graceful() as interrupt:
            return _run(jobs, arguments, interrupt)
    except signals.Interrupted as interrupted:
        print("Stopped. The same command goes on from here.")
        return interrupted.exit_status
    except KeyboardInterrupt:
        return 130


def _run(jobs, arguments, interrupt):
    store = arguments.out / "sweep.json"
    records, log = times.read(store), arguments.out / "probe.log"
    left = [job for job in jobs if not is_done(job)]
    if not arguments.dry_run and not arguments.cluster:
        for stage in dict.fromkeys(job.stage for job in left):
            mine = [job for job in jobs if job.stage == stage]
            known = [times.estimate(job, records) for job in mine if job in left]
            if all(known) or any(r.stage == stage and r.source == "probed" for r in records):
                continue
            print(f"Probing the time of {stage} with a short run, log in {log}", flush=True)
            records += probe.probe(mine, lambda line: runner.command(line, log, interrupt))
            interrupt.check()
            times.write(store, records)
    print(times.table(jobs, left, records, arguments.parallel or 1), flush=True)
    if arguments.dry_run:
        return 0
    if arguments.cluster:
        return _submit(left, arguments, interrupt)
    outcome = runner.run(
        jobs,
        records,
        lambda job, cores: runner.command(job.arguments(), job.log, interrupt, cores),
        interrupt,
        lambda records: times.write(store, records),
        lambda line: print(line, flush=True),
        parallel=arguments.parallel or 1,
    )
    for job in outcome.failed:
        print(f"Failed: {job.title}, see {job.log}", file=sys.stderr)
    if outcome.left_out:
        print(f"Left out after a failure: {len(outcome.left_out)} evaluations", file=sys.stderr)
    return 1 if outcome.failed else 0


def _submit(left, arguments, interrupt):
    """The exit status; that of SLURM's jobs is not known yet."""
    cluster.submit(
        left,
        arguments.out,
        arguments.cluster,
        arguments.settings,
        arguments.parallel,
        interrupt,
        lambda line: print(line, flush=True),
    )
    failed = [] if arguments.cluster == "slurm" else [job for job in left if not is_done(job)]
    for job in failed:
        print(f"Failed: {job.title}, see {job.log}", file=sys.stderr)
    return 1 if failed else 0


def _parse(argv):
    parser = command_line.Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--out")
    parser.add_argument("--config")
    parser.add_argument("--minutes")
    parser.add_argument("--parallel")
    parser.add_argument("--cluster")
    for flag in cluster.FLAGS:
        parser.add_argument(f"--{flag}")
    parser.add_argument("--dry_run", action="store_true")
    parser.add_argument("rest", nargs="*")
    arguments = parser.parse_intermixed_args(argv)
    if not arguments.out:
        raise InputError("--out is missing; it must name the directory of the sweep.")
    arguments.out = paths.folder(arguments.out, "--out", bucket=True)
    if arguments.parallel is not None:
        if not arguments.parallel.isdecimal() or int(arguments.parallel) < 1:
            raise InputError(f"--parallel is {arguments.parallel!r}; valid is an integer from 1.")
        arguments.parallel = int(arguments.parallel)
    given = {f: getattr(arguments, f) for f in cluster.FLAGS if getattr(arguments, f) is not None}
    if arguments.cluster is not None:
        arguments.settings = cluster.parameters(given)
        cluster.check(arguments.cluster)
        if paths.in_bucket(arguments.out):
            raise InputError(
                f"--out is {arguments.out}, in a bucket; with --cluster it must be on a disk that "
                "all nodes share."
            )
        # Elsewhere the current directory may be another.
        arguments.out = pathlib.Path(paths.absolute(arguments.out, "--out"))
    elif given:
        raise InputError(f"--{next(iter(given))} is for a cluster; add --cluster=slurm.")
    arguments.files = [text for text in arguments.rest if "=" not in text and text.endswith(".py")]
    rest = [text for text in arguments.rest if text not in arguments.files]
    arguments.assignments = assignments.parse_all(rest)
    if (arguments.config is None) == (not arguments.files) or len(arguments.files) > 1:
        raise InputError("Name one sweep file, or a config with --config=FILE.")
    return arguments


def _stages(arguments):
    single = {f: values[0] for f, values in arguments.assignments.items() if len(values) == 1}
    several = {f: values for f, values in arguments.assignments.items() if len(values) > 1}
    if arguments.config is not None:
        stage = {"name": pathlib.Path(arguments.config).stem, "config": arguments.config}
        return [stage | {"fixed": single, "grid": several} | _minutes(arguments.minutes)]
    if several:
        field = next(iter(several))
        raise InputError(f"{field} has several values; with a sweep file it must have one.")
    path = str(paths.file(arguments.files[0], "SWEEP.py", exists="a sweep"))
    try:
        stages = list(runpy.run_path(path)["get_sweep"]())
    except (Exception, SystemExit) as error:  # A sweep is Python: it may fail in any way.
        raise InputError(f"{path} cannot be loaded: {type(error).__name__}: {error}.") from error
    return [_override(stage, single) | _minutes(arguments.minutes) for stage in stages]


def _override(stage, single):
    """A stage in which the settings of the command line have one value."""
    plan.check_stage(stage)
    for field in single:
        if any(field in point for point in stage.get("points", ())):
            raise InputError(f"{field} is in points of stage {stage['name']}; change it there.")
    grid = stage.get("grid", {})
    kept = {field: [single[field]] if field in single else grid[field] for field in grid}
    fixed = {**stage.get("fixed", {}), **{f: v for f, v in single.items() if f not in grid}}
    return stage | {"fixed": fixed, "grid": kept}


def _minutes(text):
    if text is None:
        return {}
    try:
        train, evaluate = map(float, text.split(","))
    except ValueError:
        train = evaluate = math.nan
    if not (0 <= train < math.inf and 0 <= evaluate < math.inf):
        raise InputError(f"--minutes is {text!r}; it must be two numbers, such as 3,0.5.")
    return {"minutes": (train, evaluate)}


@functools.cache
def _read(path):
    return main_lib.parse(["main", f"--config={path}", "--workdir=unused"])[2]


def _load(path, overrides):
    """The config of a file with overrides, valid."""
    config = _read(path).copy_and_resolve_references()
    for field, value in overrides.items():
        group, name = field.split(".")
        try:
            config[group][name] = value
        except TypeError:
            kind = type(config[group][name]).__name__
            raise InputError(f"{field} is {value!r}; it must be of type {kind}.") from None
    config_lib.validate(config)
    config_lib.check_splits(config)
    return config_lib.with_paths(config)


def main() -> None:
    """The command `gmm-diffusion-sweep`."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
