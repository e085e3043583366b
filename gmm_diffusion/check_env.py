"""Whether this machine is ready for a run, in half a minute instead of an hour into it.

    python -m gmm_diffusion.check_env [--expect=tpu|gpu|cpu] [--workdir=DIR]
        [--processes=N [--coordinator=HOST:PORT --process=I] [--wait=SECONDS]]

Prints versions beside the floors of setup.py, whether TensorFlow is there and in the way, devices,
memory, whether DIR (runs) and the cache of compiled programs can be written, and how long a small
compiled step on all devices takes, whose result is checked. --expect names the platform that must
be found, --processes how many processes must have found each other: type the command in each of
them, with the flags or in the environment of the run. Exit status: 0 all is well, 2 something is
off, each in a sentence on standard error.
"""

import ast
import contextlib
import importlib.metadata
import math
import os
import pathlib
import platform
import re
import shutil
import statistics
import sys
import time

import numpy as np
from absl import flags
from packaging.requirements import Requirement
from packaging.version import Version

from gmm_diffusion import command_line, extras, paths
from gmm_diffusion.errors import InputError, printable
from gmm_diffusion.memory import free_memory
from gmm_diffusion.process_group import ProcessGroup

PLATFORMS = ("tpu", "gpu", "cpu")
# How to get JAX for them; the plain package is that for the CPU.
_INSTALL = {
    "tpu": "install it for TPUs with `pip install -U 'jax[tpu]'`",
    "gpu": (
        "install it for GPUs with `pip install -U 'jax[cuda13]'`, or cuda12 for the driver that "
        "`nvidia-smi` shows"
    ),
    "cpu": "unset JAX_PLATFORMS or set it to cpu",
}
# Names of packages with `-` for what pip takes as the same.
_ACCELERATED = r"libtpu(-nightly)?|jax-(cuda|rocm)\d*-(plugin|pjrt)"
_TENSORFLOW = r"(tf-nightly|tensorflow)(-(cpu|gpu|rocm|tpu|intel|macos))?"
# Of a TPU, which one process at a time may open.
_TPU_FILES = ("/dev/accel", "/dev/vfio/")
_GIB = 2**30
# Of memory and disks; a run of the smallest config needs about as much.
_LEAST = 1 * _GIB
_WIDTH, _ROWS, _REPEATS = 256, 512, 20
_RATE, _TOLERANCE = 0.1, 1e-4


def run(argv: list[str]) -> int:
    """One command; returns the exit status."""
    return command_line.run(argv, __file__, _work)


def _work(argv):
    values = flags.FlagValues()
    flags.DEFINE_enum("expect", None, PLATFORMS, "The platform.", flag_values=values)
    flags.DEFINE_string("workdir", "runs", "Directory of the run.", flag_values=values)
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.", flag_values=values)
    flags.DEFINE_integer("processes", 1, "How many.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("process", None, "Which.", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("wait", 60, "Seconds for the others.", lower_bound=1, flag_values=values)
    try:
        rest = values(argv)
    except flags.Error as error:
        raise InputError(f"{error}.") from error
    if len(rest) > 1:
        raise InputError(f"Unexpected argument {rest[1]!r}; --help shows the flags.")
    workdir = paths.folder(values.workdir, "--workdir", bucket=True)
    report = _Report()
    _versions(report)
    _plugins(report)
    _tensorflow(report)
    _memory(report)
    _place(report, "workdir", workdir, "--workdir")
    _place(report, "cache", command_line.compilation_cache(), "JAX_COMPILATION_CACHE_DIR")
    # Last, since a library that is broken may end the process.
    _devices(report, values)
    return report.end()


class _Report:
    """Prints what is found as it is found, and at the end what is off."""

    def __init__(self):
        self._off = []

    def found(self, name, text):
        print(f"{name:<19}{text}", flush=True)

    def off(self, sentence):
        self._off.append(sentence)

    def end(self):
        for sentence in self._off:
            print(f"Error: {printable(sentence)}", file=sys.stderr)
        if self._off:
            return 2
        print("All is well.")
        return 0


def _versions(report):
    report.found("python", f"{platform.python_version()} ({sys.executable})")
    for requirement in requirements():
        name, wanted = requirement.name, requirement.specifier
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            report.found(name, f"absent ({wanted})")
            report.off(f"{name} is not installed; it must be {wanted}.")
            continue
        report.found(name, f"{version} ({wanted})")
        if not wanted.contains(Version(version), prereleases=True):
            report.off(
                f"{name} is {version}; it must be {wanted}: `pip install -U '{name}{wanted}'`."
            )


def requirements() -> list[Requirement]:
    """The packages that are needed without any extra, with their floors.

    From setup.py in a checkout, where what pip has noted may be of an earlier version.
    """
    setup = extras.ROOT / "setup.py"
    if setup.is_file():
        for node in ast.parse(setup.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CORE":
                return [Requirement(text) for text in ast.literal_eval(node.value)]
    noted = map(Requirement, importlib.metadata.requires("gmm_diffusion") or ())
    return [r for r in noted if r.marker is None or r.marker.evaluate({"extra": ""})]


def _installed(pattern) -> dict[str, str]:
    """Name -> version of the installed packages whose name is matched as a whole."""
    found = {
        re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower(): d.version
        for d in importlib.metadata.distributions()
    }
    return {name: found[name] for name in sorted(found) if re.fullmatch(pattern, name)}


def _plugins(report):
    """Plugins of JAX: one for CUDA of another version than jaxlib is left out without an error."""
    jaxlib = _installed("jaxlib").get("jaxlib", "absent")
    report.found("jaxlib", jaxlib)
    for name, version in _installed(_ACCELERATED).items():
        report.found(name, version)
        if name.startswith("jax-cuda") and version != jaxlib:
            report.off(
                f"{name} is {version} and jaxlib {jaxlib}, so JAX will not use it; "
                f"{_INSTALL['gpu']}."
            )


def _tensorflow(report):
    """TensorFlow itself is not imported: with GPUs that alone takes memory."""
    installed = _installed(_TENSORFLOW)
    data = f"{extras.advice('data')} for TFDS datasets and TensorBoard"
    if not installed:
        report.found("tensorflow", f"absent, and not needed to train or sample; {data}")
    for name, version in installed.items():
        report.found(name, version)
        for_cpu = name.endswith("-cpu") or sys.platform != "linux"
        if not for_cpu and _installed(_ACCELERATED):
            report.off(
                f"{name} is installed, whose libraries of the accelerator can keep JAX from it; "
                f"`pip uninstall {name}` and `pip install tensorflow-cpu`."
            )
    missing = [name for name in ("tensorflow-datasets", "tensorboard") if not _installed(name)]
    if installed and missing:
        report.off(f"TensorFlow is installed without {' and '.join(missing)}; {data}.")


def _memory(report):
    free = free_memory() / _GIB
    report.found("memory", f"{free:.1f} GiB free")
    if free < _LEAST / _GIB:
        report.off(f"{free:.2f} GiB of memory are free; a run needs at least 1 GiB.")


def _place(report, name, path, setting):
    """Writes a file there, or in the nearest directory that exists."""
    if path is None:
        report.found(name, "none: each start compiles all programs")
        return
    there, free = path, math.inf
    try:
        if not paths.in_bucket(path):
            there = next((p for p in (path, *path.absolute().parents) if p.exists()), path)
            free = shutil.disk_usage(there).free / _GIB
        paths.write_trial(there)
    except OSError as error:
        report.found(name, f"{path}, not writable")
        report.off(f"{setting} is {path}, which cannot be written ({error.strerror}).")
        return
    report.found(name, f"{path}, writable, {free:.1f} GiB free".removesuffix(", inf GiB free"))
    if free < _LEAST / _GIB:
        report.off(f"{setting} is {path} with {free:.2f} GiB free; a run needs at least 1 GiB.")


def _devices(report, values):
    expected = values.expect
    try:
        with _joined(values):
            command_line.prepare_jax()
            _use(report, values)
    except (InputError, ImportError, RuntimeError) as error:  # A jaxlib that jax cannot use.
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        report.found("devices", "none")
        report.off(f"{cause}{_advice(expected)}.")


def _use(report, values):
    import jax

    expected = values.expect
    devices, count = jax.devices(), jax.process_count()
    kind = devices[0].platform
    report.found("devices", f"{len(devices)} x {kind} ({devices[0].device_kind})")
    report.found("processes", f"{count}, this one is {jax.process_index()}")
    if count != values.processes:
        report.off(
            f"--processes is {values.processes}, and JAX runs in {count}; start it in each of "
            "them, with --coordinator=HOST:PORT and --process=I where it does not find them."
        )
    if expected not in (None, kind):
        report.off(f"--expect is {expected}, and JAX finds {kind} only{_advice(expected)}.")
    for device in jax.local_devices():
        memory = device.memory_stats() or {}
        if "bytes_limit" in memory:
            used, limit = (memory[n] / _GIB for n in ("bytes_in_use", "bytes_limit"))
            report.found(f"device {device.id}", f"{used:.2f} of {limit:.2f} GiB in use")
    _step(report, devices)


def _joined(values):
    """Meets the other processes, where there are to be some."""
    from gmm_diffusion import processes

    count, index, place = values.processes, values.process, values.coordinator
    if count > 1 and index is None and place is None:
        group = ProcessGroup(wait=values.wait)  # The environment says who they are.
    else:
        group = ProcessGroup(place or "", count, index, values.wait)
    if group.alone and count > 1:
        raise InputError(
            f"--processes is {count}, and they cannot find each other (this one was "
            "started alone); give --coordinator=HOST:PORT of process 0 and --process=I."
        )
    late = f"--processes is {count}, and after {values.wait} s not all have met."
    return processes.joined(group, late, quiet=False)


def _advice(expected):
    if expected is None:
        return ""
    pids = tpu_holders() if expected == "tpu" else []
    return "".join([f"; {_INSTALL[expected]}", *(f"; process {pid} holds it" for pid in pids)])


def tpu_holders(proc: pathlib.Path = pathlib.Path("/proc")) -> list[int]:
    """Numbers of the other processes that have a TPU open, as far as this user may see."""
    holders = set()
    for link in proc.glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(link).startswith(_TPU_FILES):
                holders.add(int(link.parts[-3]))
    return sorted(holders - {os.getpid()})


def _step(report, devices):
    """A step down the gradient of the mean of `|x w - y|^2`, the rows spread over all devices."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = jax.sharding.Mesh(np.array(devices), ("devices",))
    rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("devices",), ()))
    size = _ROWS * len(devices)
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(size, _WIDTH)).astype(np.float32) for _ in range(2))
    w = np.eye(_WIDTH, dtype=np.float32)

    def loss(w, x, y):
        return jnp.sum(jnp.square(jnp.matmul(x, w, precision="highest") - y)) / size

    def step(w, x, y):
        return w - _RATE * jax.grad(loss)(w, x, y)

    def put(array, sharding):
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    start = time.monotonic()
    try:
        arguments = put(w, whole), put(x, rows), put(y, rows)
        compiled = jax.jit(step, out_shardings=whole).lower(*arguments).compile()
        seconds = time.monotonic() - start
        result = np.asarray(compiled(*arguments).addressable_data(0))
        times = []
        for _ in range(_REPEATS):
            start = time.monotonic()
            compiled(*arguments).block_until_ready()
            times.append(time.monotonic() - start)
    except RuntimeError as error:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        report.found("step", "failed")
        report.off(f"A small step failed on the devices: {cause[:200]}.")
        return
    once = 1000 * statistics.median(times)
    report.found("step", f"{seconds:.2f} s to compile, {once:.2f} ms to do")
    wide = x.astype(np.float64)
    exact = w - _RATE * 2 / size * (wide.T @ (wide @ w - y))
    wrong = float(np.abs(result - exact).max())
    if not wrong < _TOLERANCE:
        report.off(
            f"A small step gives parameters that are wrong by {wrong:.2g}; the devices cannot be "
            "trusted."
        )


def main() -> None:
    """The command `gmm-diffusion-check-env`."""
    command_line.leave(run(sys.argv))


if __name__ == "__main__":
    main()
