"""Settings from a config file and flags, and exit statuses, for every command with `--config`."""

import argparse
import ast
import contextlib
import logging
import os
import pathlib
import re
import resource
import runpy
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from gmm_diffusion import config as config_lib
from gmm_diffusion import paths, shipped_configs, signals, standard_streams
from gmm_diffusion.errors import InputError, RunError, out_of_memory

# On two cores a run needs 1.5 to 2.2 GiB, most of which is never used; on more cores more.
_LEAST_ADDRESS_SPACE = 2 << 30

# Seconds of compiling from which on a program is kept; one if nothing is said.
_KEPT_FROM = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"

# Seconds after which a Ctrl-C that was lost is sent again: not before its callback has returned.
_AGAIN_AFTER = 0.1

# Of XLA_FLAGS; XLA for the CPU takes it and needs it not.
_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


class Parsed(NamedTuple):
    """What a command line says.

    Attributes:
      path: the file that `--config` names, or None.
      config: that file's settings, or the defaults, with those of flags in their places; paths are
        absolute.
      overrides: the settings of flags alone, by their dotted names, likewise.
      flags: the values of the command's own flags.
    """

    path: str | None
    config: ConfigDict
    overrides: dict
    flags: flags.FlagValues


def parse(argv: list[str], define: Callable[[flags.FlagValues], None]) -> Parsed:
    """Command line, program name first -> settings and the flags that `define` defines.

    Raises:
      InputError: for an unknown flag or field, a wrong type, a file that is missing or broken.
    """
    path, argv = _take_config_path(argv)
    config = _load(path)
    _check_field_names(argv)
    values = flags.FlagValues()
    define(values)
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    try:
        rest = values(argv)
    except Exception as error:  # Some of what absl cannot parse fails in ways of its own.
        raise InputError(_flag_cause(error)) from error
    if len(rest) > 1:
        raise InputError(
            f"Unexpected argument {rest[1]!r}; settings are --config.GROUP.FIELD=VALUE."
        )
    config = config_lib.with_paths(values.config)
    config_flag: Any = values["config"]  # Of ml_collections, and not absl's own kind.
    set_by_flags = config_flag.override_values
    overrides = {f: v for f, v in config_lib.fields(config).items() if f in set_by_flags}
    return Parsed(path, config, overrides, values)


class Parser(argparse.ArgumentParser):
    """One that refuses by an InputError, as flags are, and not by ending the program."""

    def error(self, message: str) -> NoReturn:
        """Raises InputError."""
        raise InputError(f"{message[:1].upper()}{message[1:]}; see --help.")


def run(argv: list[str], source: str, work: Callable[[list[str]], int | None]) -> int:
    """Does `work(argv)` and returns the exit status: its own or 0, 1 if it failed, 2 for bad input,
    130 after Ctrl-C.

    A failure is one sentence on standard error. A reader of the output that leaves (`| head`) and
    streams that are closed change nothing: the work is done to its end.

    Args:
      argv: the command line.
      source: file of the command's module, whose docstring is the help.
      work: the command.
    """
    standard_streams.occupy_closed()
    with standard_streams.unfailing() as (out, _):
        status = _run(argv, source, work)
        if out.lost is not None and status == 0:
            print(f"Failed: Standard output was lost: {out.lost.strerror}.", file=sys.stderr)
            return 1
    return status


def _run(argv, source, work):
    if any(argument in ("--help", "-h", "--helpfull") for argument in argv):
        # From the file, because `python -OO` drops docstrings.
        print(ast.get_docstring(ast.parse(pathlib.Path(source).read_text(encoding="utf-8"))))
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    for noisy in ("orbax", "jax", "tensorflow"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # orbax and TFDS log through it; what a person needs of that is in our own messages.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    # orbax and gcsfs print pages of what went wrong in their threads; its cause is in their errors.
    for silent in ("asyncio", "gcsfs"):
        logging.getLogger(silent).setLevel(logging.CRITICAL)
    sys.unraisablehook = _report_unraisable
    return ended(lambda: work(argv))


def ended(work: Callable[[], int | None]) -> int:
    """The exit status of `work()`, as that of `run`; a failure is a sentence on standard error."""
    try:
        return work() or 0
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"Failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 128 + signal.SIGINT
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"Failed: {where}{error.strerror or error}.", file=sys.stderr)
        return 1
    except Exception as error:
        if (refused := out_of_memory(error)) is None:
            raise
        print(f"Failed: {refused}", file=sys.stderr)
        return 1


def _report_unraisable(event):
    """Python's own report, but for what orbax leaves behind where it could not read.

    A Ctrl-C is sent again: as an exception it is lost where none can leave, such as in what JAX
    does when memory is collected.
    """
    if isinstance(event.exc_value, KeyboardInterrupt):
        again = threading.Timer(_AGAIN_AFTER, os.kill, (os.getpid(), signal.SIGINT))
        again.daemon = True
        again.start()
    elif str(event.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(event)


def leave(status: int) -> None:
    """Ends the process with `status`.

    A thread that a library has left waiting for a save that failed does not hold it up.
    """
    others = [t for t in threading.enumerate() if t is not threading.main_thread()]
    if status and any(not thread.daemon for thread in others):
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(status)
    sys.exit(status)


def _take_config_path(argv):
    """The file that `--config` names, or None, and the arguments without it."""
    path, rest, arguments = None, [], iter(argv)
    for argument in arguments:
        match = re.fullmatch(r"--?config(?:=(.*))?", argument)
        if not match:
            rest.append(argument)
            continue
        path = match[1] if match[1] is not None else next(arguments, "")
        path = config_file(path)
    return path, rest


def config_file(text: str) -> str:
    """The config that `text` names: a file, or without one the shipped config of this name.

    Raises:
      InputError: there is neither.
    """
    is_name, names = text.isidentifier(), shipped_configs.names()
    if text in names and not paths.expand(text, "--config").is_file():
        return str(shipped_configs.folder() / f"{text}.py")
    wanted = f"a config, by its path or one of {', '.join(names)}" if is_name else "a config"
    return str(paths.file(text, "--config", exists=wanted))


def _load(path):
    """The config that a file's `get_config` returns; without a file, the defaults."""
    if path is None:
        return config_lib.default()
    try:
        config = runpy.run_path(path)["get_config"]()
        config_lib.check_fields(config)
        # A frozen one takes no flags.
        config = ConfigDict(config)
    except (Exception, SystemExit) as error:  # A config file is Python: it may fail in any way.
        cause = _cause(error, path)
        end = "" if cause.endswith("?") else "."
        raise InputError(f"--config {path} cannot be loaded: {cause}{end}") from error
    return config


def _check_field_names(argv):
    for argument in argv:
        match = re.match(r"--?(no)?config\.([^=]*)(=)?", argument)
        if not match:
            continue
        config_lib.check_name(match[2])
        if match[1] and match[3]:
            raise InputError(
                f"{argument} has both 'no' and a value; valid are --noconfig.{match[2]} and "
                f"--config.{match[2]}=VALUE."
            )


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
        return f"{where}{absent[1]} is not a setting; config/defaults.py lists all fields"
    if kind:
        return f"{where}{kind[1]} is {kind[2]}; it must be of type {kind[3]}"
    if error.args == ("get_config",) and not lines:
        return "it has no function get_config"
    first = next((line.strip() for line in text.splitlines() if line.strip()), "no message")
    return f"{where}{type(error).__name__}: {first}"


def _flag_cause(error):
    """One sentence of what absl says about a flag."""
    value = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.S)
    if value:
        kind = type(config_lib.fields(config_lib.default())[value[1]]).__name__
        return f"{value[1]} is {value[2]!r}; it must be of type {kind}."
    return f"{error}.".replace(" ?.", "?")


def make_deterministic() -> None:
    """Tells XLA to take on GPUs only operations that give the same bits each time.

    Raises:
      InputError: JAX has found its devices in this process already, and no longer listens.
    """
    if "jax" in sys.modules:
        from jax._src import xla_bridge  # No public name says so.

        if xla_bridge.backends_are_initialized():
            raise InputError(
                "--deterministic comes too late, since JAX runs in this process already; set "
                f"XLA_FLAGS={_DETERMINISTIC} before it starts."
            )
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DETERMINISTIC}".strip()


def check_address_space() -> None:
    """Refuses a limit (`ulimit -v`) under which the libraries cannot be loaded.

    OpenBLAS asks for its buffers again and again, for ever, where the system refuses them.

    Raises:
      RunError: the limit is too low.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < _LEAST_ADDRESS_SPACE:
        raise RunError(
            f"There is not enough memory: the address space is limited to {limit / 2**30:.2f} GiB "
            f"(ulimit -v), and a run needs at least {_LEAST_ADDRESS_SPACE / 2**30:.0f} GiB."
        )


def prepare_jax() -> None:
    """Finds the devices, and keeps compiled programs between starts.

    Raises:
      InputError: JAX finds no device, for example because `JAX_PLATFORMS` names what is not there,
        or several processes on CPUs cannot find this machine by its name.
    """
    try:
        with signals.importing():
            import jax

            jax.devices()
    except (RuntimeError, AssertionError) as error:
        if "gloo" in str(error) and not _knows_its_name():
            raise InputError(
                f"This machine is called {socket.gethostname()}, and finds no address of that "
                "name, by which processes on CPUs meet; name one in /etc/hosts, such as 127.0.0.1 "
                "on a machine alone."
            ) from error
        named = os.environ.get("JAX_PLATFORMS", "")
        cause = (str(error).strip().splitlines() or ["no such device"])[0].split(" (set ")[0]
        raise InputError(
            f"JAX_PLATFORMS is {named!r}, and JAX finds no device there ({cause.rstrip('.')}); it "
            "must name what this machine has, such as cpu, or be unset."
        ) from error
    cache = compilation_cache()
    if cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(cache))
        # The many small programs of a start take longer to compile than to read; not from a bucket.
        if _KEPT_FROM not in os.environ and not paths.in_bucket(cache):
            jax.config.update(_KEPT_FROM.lower(), 0.0)


def _knows_its_name():
    try:
        socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        return False
    return True


def compilation_cache() -> pathlib.Path | None:
    """The folder of compiled programs, or None: without one a run only starts more slowly.

    It is `JAX_COMPILATION_CACHE_DIR`, none if that is empty, or else in the user's cache, where
    there is one.
    """
    name = "JAX_COMPILATION_CACHE_DIR"
    if name in os.environ:
        return paths.expand(os.environ[name], name, bucket=True) if os.environ[name] else None
    return paths.user_cache()
