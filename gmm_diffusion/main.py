"""The command line: `python -m gmm_diffusion.main --config=FILE --workdir=DIR [--mode=MODE]`.

  --mode=train     trains, or goes on with the run in DIR; ends with an evaluation (default)
  --mode=sample    writes DIR/samples/samples.npz and samples.png
  --mode=evaluate  writes DIR/evaluation.json, or DIR/evaluations/NAME.json for evaluation.name
  --mode=ema       writes DIR/ema/width_W_step_N.npz: the average of any width sample.ema

Settings are overridden as --config.GROUP.FIELD=VALUE. Without --config the settings are those
stored in DIR. Exit status: 0 done, 1 the run failed, 2 bad input, 130 or 143 saved after Ctrl-C or
SIGTERM.
"""

import logging
import os
import pathlib
import re
import runpy
import sys
import traceback

from absl import flags
from ml_collections import ConfigDict, config_flags

from gmm_diffusion import config as config_lib
from gmm_diffusion.errors import InputError, RunError

MODES = ("train", "sample", "evaluate", "ema")


def parse(argv: list[str]) -> tuple[str, str, ConfigDict]:
    """Command line, program name first -> (mode, workdir, config).

    Raises:
      InputError: for an unknown flag or field, a wrong type, a file that is missing or broken.
    """
    path, argv = _take_config_path(argv)
    config = _load(path)
    _check_field_names(argv)
    values = flags.FlagValues()
    flags.DEFINE_enum("mode", "train", MODES, "What to do.", flag_values=values)
    flags.DEFINE_string("workdir", None, "Directory of the run.", flag_values=values)
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    try:
        rest = values(argv)
    except flags.Error as error:
        raise InputError(_flag_cause(error)) from error
    config = values.config
    overrides = dict(values["config"].override_values)
    if len(rest) > 1:
        raise InputError(
            f"Unexpected argument {rest[1]!r}; settings are --config.GROUP.FIELD=VALUE."
        )
    if not values.workdir:
        raise InputError("--workdir is missing; it must name the directory of the run.")
    return values.mode, values.workdir, _merge(values.mode, values.workdir, path, config, overrides)


def _take_config_path(argv):
    """The file that `--config` names, or None, and the arguments without it."""
    path, rest, arguments = None, [], iter(argv)
    for argument in arguments:
        match = re.fullmatch(r"--?config(?:=(.*))?", argument)
        if not match:
            rest.append(argument)
            continue
        path = match[1] if match[1] is not None else next(arguments, "")
        if not os.path.isfile(path):
            raise InputError(f"--config is {path!r}, which is not a file; it must be a config.")
    return path, rest


def _load(path):
    """The config that a file's `get_config` returns; without a file, the defaults."""
    if path is None:
        return config_lib.default()
    try:
        config = runpy.run_path(path)["get_config"]()
        config_lib.check_fields(config)
    except Exception as error:  # A config file is Python: it may fail in any way.
        cause = _cause(error, path)
        end = "" if cause.endswith("?") else "."
        raise InputError(f"--config {path} cannot be loaded: {cause}{end}") from error
    return config


def _check_field_names(argv):
    for argument in argv:
        match = re.match(r"--?config\.([^=]+)", argument)
        if match:
            config_lib.check_name(match[1])


def _cause(error, path):
    """The part of a config file's failure that a person needs."""
    text = str(error)
    if isinstance(error, InputError):
        return text.rstrip(".")
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    where = f"line {lines[-1]}: " if lines else ""
    near = re.search(r'Did you mean "(\w+)" instead of "(\w+)"', text)
    absent = re.search(r'Key "(\w+)" does not exist', text)
    kind = re.search(r"field '(\w+)'.*?\. (.*) is of original type .* type <class '(\w+)'>", text)
    if near:
        return f"{where}{near[2]} is not a setting; did you mean {near[1]}?"
    if absent:
        return f"{where}{absent[1]} is not a setting; config.py lists all fields"
    if kind:
        return f"{where}{kind[1]} is {kind[2]}; it must be of type {kind[3]}"
    if error.args == ("get_config",) and not lines:
        return "it has no function get_config"
    first = next((line.strip() for line in text.splitlines() if line.strip()), "no message")
    return f"{where}{type(error).__name__}: {first}"


def _flag_cause(error):
    """One sentence of what absl says about a flag."""
    value = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error))
    if value:
        kind = type(config_lib.fields(config_lib.default())[value[1]]).__name__
        return f"{value[1]} is {value[2]!r}; it must be of type {kind}."
    return f"{error}.".replace(" ?.", "?")


def _merge(mode, workdir, path, config, overrides):
    """Flags over the config file over the stored settings; the model's groups stay as stored."""
    from gmm_diffusion.training.workdir import CONFIG, read_config

    if mode == "train" and path is not None:
        return config
    if mode == "train" and not (pathlib.Path(workdir) / CONFIG).exists():
        raise InputError(
            "--config is missing; it must name a config, for example configs/digits_gmm.py."
        )
    merged = read_config(workdir)
    stored = merged.copy_and_resolve_references()
    if path is not None:
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


def run(argv: list[str]) -> int:
    """One command; returns the exit status."""
    if any(argument in ("--help", "-h", "--helpfull") for argument in argv):
        print(__doc__)
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    for noisy in ("orbax", "jax", "tensorflow"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # orbax and TFDS log through it; what a person needs of that is in our own messages.
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        mode, workdir, config = parse(argv)
        config_lib.validate(config)
        return _dispatch(mode, workdir, config)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"Failed: {error}", file=sys.stderr)
        return 1


def _dispatch(mode, workdir, config):
    # Imported late: a bad flag should be refused before jax has loaded.
    _use_compilation_cache()
    from gmm_diffusion.training import loop, offline, signals

    modes = {
        "train": loop.train,
        "sample": offline.sample,
        "evaluate": offline.evaluate,
        "ema": offline.ema,
    }
    try:
        modes[mode](config, workdir)
    except signals.Interrupted as interrupted:
        return interrupted.exit_status
    return 0


def _use_compilation_cache():
    """Keeps compiled programs between starts, unless the user has chosen a place or none."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "gmm_diffusion"))


if __name__ == "__main__":
    sys.exit(run(sys.argv))
