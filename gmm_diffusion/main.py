"""The command line: `gmm-diffusion --config=FILE [--workdir=DIR] [--mode=MODE]`.

  --mode=train     trains, or goes on with the run in DIR; ends with an evaluation (default)
  --mode=sample    writes DIR/samples/NAME.npz and NAME.png: sample.name, or what is asked for
  --mode=evaluate  writes DIR/evaluation.json, or DIR/evaluations/NAME.json for evaluation.name
  --mode=ema       writes DIR/ema/width_W_step_N.npz: the average of any width sample.ema

It is `python -m gmm_diffusion.main`, too. FILE is the path of a config, or the name of one that
comes with the package, such as tiny. Settings are overridden as --config.GROUP.FIELD=VALUE. Without
--workdir DIR is runs/ and the name of the config. Without --config the settings are those stored in
DIR. Paths may start with ~, and relative ones are relative to the current directory.

Several processes, on one machine or many, do the same together when each is started with
  --coordinator=HOST:PORT --processes=N --process=I
HOST being where process 0 runs and PORT any free one there, or by srun, mpirun or on all workers
of a TPU slice without these. --processes=1 asks for none.

  --devices=N      devices to make of a CPU; without it one a core, if the batch spreads evenly
  --deterministic  the same bits each time on GPUs, too, at some cost of speed

Exit status: 0 done, 1 the run failed, 2 bad input, 130 or 143
saved after Ctrl-C or SIGTERM; a reader of the output that leaves, as in `| head`, changes none of
it.
"""

import logging
import pathlib
import signal
import sys
from collections.abc import Callable
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict

from gmm_diffusion import allocator, command_line, cpu_devices, paths, signals
from gmm_diffusion import config as config_lib
from gmm_diffusion.errors import InputError
from gmm_diffusion.process_group import ProcessGroup

log = logging.getLogger(__name__)

MODES = ("train", "sample", "evaluate", "ema")


class Command(NamedTuple):
    """What a command line asks for.

    Attributes:
      mode: one of `MODES`.
      workdir: directory of the run.
      config: its settings.
      group: the processes that do it.
      deterministic: whether GPUs are to give the same bits each time.
      devices: to make of a CPU; None is one a core.
    """

    mode: str
    workdir: str
    config: ConfigDict
    group: ProcessGroup
    deterministic: bool = False
    devices: int | None = None


def parse(argv: list[str]) -> Command:
    """Command line, program name first -> what it asks for.

    Without `--workdir` the log says which it is.

    Raises:
      InputError: as `command_line.parse`, without a config and a workdir that holds one, or for
        processes that cannot be.
    """

    def define(values):
        flags.DEFINE_enum("mode", "train", MODES, "What to do.", flag_values=values)
        flags.DEFINE_string("workdir", None, "Directory of the run.", flag_values=values)
        flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0.", flag_values=values)
        flags.DEFINE_integer("processes", None, "How many there are.", flag_values=values)
        flags.DEFINE_integer("process", None, "Which this one is.", flag_values=values)
        flags.DEFINE_integer("wait", 300, "Seconds to wait for the others.", flag_values=values)
        flags.DEFINE_integer(
            "devices", None, "Of a CPU.", lower_bound=1, upper_bound=1024, flag_values=values
        )
        flags.DEFINE_boolean("deterministic", False, "The same bits.", flag_values=values)

    path, config, overrides, values = command_line.parse(argv, define)
    workdir = str(paths.folder(_workdir(values.workdir, path), "--workdir", bucket=True))
    group = ProcessGroup(values.coordinator, values.processes, values.process, values.wait)
    config = _merge(values.mode, workdir, path, config, overrides)
    return Command(values.mode, workdir, config, group, values.deterministic, values.devices)


def _workdir(given, config):
    """The directory of the run, from `--workdir` and the file that `--config` names."""
    if given:
        return given
    if given is not None:
        raise InputError("--workdir is empty; it must name the directory of the run.")
    if config is None:
        raise InputError(
            "--config and --workdir are missing; one must name a config, for example "
            "configs/digits_gmm.py, or the other the directory of a run."
        )
    workdir = pathlib.Path("runs") / pathlib.Path(config).stem
    log.info("The directory of the run is %s.", workdir)
    return workdir


def _merge(mode, workdir, path, config, overrides):
    """The stored settings under those of the file and the flags, which may not change the model."""
    from gmm_diffusion.runs.workdir import CONFIG, as_written, read_config

    if mode == "train" and path is not None:
        return config
    if mode == "train" and not (paths.of(workdir) / CONFIG).exists():
        raise InputError(
            "--config is missing; it must name a config, for example configs/digits_gmm.py."
        )
    merged = read_config(workdir)
    stored = merged.copy_and_resolve_references()
    if path is not None:
        config = as_written(config, workdir)
        for group in config_lib.SAMPLING_GROUPS:
            if group in config:
                merged[group].update(config[group])
    for field, value in overrides.items():
        group, name = field.split(".")
        merged[group][name] = value
    differences = config_lib.differences(merged, stored)
    if differences:
        raise InputError(
            f"--mode={mode} takes the model from {workdir} as it is: {'; '.join(differences)}."
        )
    return merged


def _check_other_runs(command):
    from gmm_diffusion.runs import other_runs
    from gmm_diffusion.runs.workdir import CONFIG

    new = command.mode == "train" and not (paths.of(command.workdir) / CONFIG).exists()
    other_runs.check(command.config, new)


def run(argv: list[str]) -> int:
    """One command; returns the exit status."""
    return command_line.run(argv, __file__, _work)


def _work(argv):
    command = parse(argv)
    config_lib.validate(command.config)
    _check_other_runs(command)
    if command.deterministic:
        command_line.make_deterministic()
    command_line.check_address_space()
    # Imported late: a bad flag should be refused before jax has loaded.
    with signals.importing():
        from gmm_diffusion import processes

    try:
        # Before anything else uses jax.
        with processes.joined(command.group):
            return do(command)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def do(command: Command) -> int:
    """One command, or this process's part in it; returns the exit status."""
    training, contrastive = command.config.training, command.config.contrastive
    cpu_devices.choose(
        command.devices,
        command.group.alone,
        training.batch_size,
        training.microbatch,
        contrastive.points if contrastive.weight else 0,
    )
    command_line.prepare_jax()
    with signals.importing():
        from gmm_diffusion import devices, processes

    devices.found()
    cpu_devices.check(command.devices)
    processes.same("Programs", processes.versions)
    # The same data may lie elsewhere.
    elsewhere = dict.fromkeys(("data.data_dir", "data.heldout_dir"), "")
    settings = {"--mode": command.mode, **config_lib.fields(command.config), **elsewhere}
    processes.same("Settings", lambda: settings)
    # Devices connect when they are first used together, and wait for each other for seconds only.
    devices.highest(0)
    with signals.importing():
        work = _mode(command.mode)
    try:
        work(command.config, command.workdir)
    except signals.Interrupted as interrupted:
        return interrupted.exit_status
    return 0


def _mode(name) -> Callable[[ConfigDict, str], object]:
    """The command of a mode. What the others need is not imported: it takes seconds."""
    if name == "train":
        from gmm_diffusion.commands.train import train

        return train
    if name == "sample":
        from gmm_diffusion.commands.sample import sample

        return sample
    if name == "evaluate":
        from gmm_diffusion.commands.evaluate import evaluate

        return evaluate
    from gmm_diffusion.commands.ema import ema

    return ema


def main() -> None:
    """The command `gmm-diffusion`."""
    allocator.start_again()
    command_line.leave(run(sys.argv))


if __name__ == "__main__":
    main()
