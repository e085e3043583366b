"""What the TPU's own compiler makes of a run's programs, on a machine without a TPU.

    pip install -e ".[tpu-compile]"
    python benchmarks/tpu_compile.py --config=configs/digits_gmm.py [--topology=v5e:2x2,v6e:2x2]
        [--part=step,sampler,em] [--save=DIR] [--config.GROUP.FIELD=VALUE]

Compiles the train step and the sampler as `devices` maps them with `pmap`, and EM as a run fits its
mixture, for the devices of a topology that is only described: 4 chips are v5e:2x2, 16 of four hosts
v5e:4x4. The data are random; only their shapes count. Prints a row each, what the compiled text
tells beside it, and with --save keeps that text. The total is what one device holds at once:
arguments, results that take no argument's place, temporaries and the program. Of a loop the
operations of one turn are counted: an update of the step, an iteration of EM, a step of the sampler
(and its last one, which stands behind the loop). Exit status 1 if a program does not fit, calls the
host, or holds code that is the CPU's.
"""

import collections
import importlib.util
import math
import os
import pathlib
import re
import sys
import time
from typing import NamedTuple

# A clone that is not installed works, too.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.experimental import topologies

from gmm_diffusion import assembly, command_line, devices, extras
from gmm_diffusion import config as config_lib
from gmm_diffusion.assembly.sampling import sampler
from gmm_diffusion.data import Dataset, Split
from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture import blocks
from gmm_diffusion.mixture.em_loop import iterate
from gmm_diffusion.mixture.starts import make_start
from gmm_diffusion.model import generation
from gmm_diffusion.networks.convolution import FOR_CPU
from gmm_diffusion.training import state as state_lib
from gmm_diffusion.types import Batch

# By the name of the data: shape of an example, training examples, classes.
SOURCES = {
    "digits": ((8, 8, 1), 1294, 10),
    "cifar10": ((32, 32, 3), 50_000, 10),
    "celeb_a": ((218, 178, 3), 162_770, 0),
}
PARTS = ("step", "sampler", "em")
# GiB of a device by its kind, of which the system keeps a little.
MEMORY = {"TPU v4": 32, "TPU v5": 95, "TPU v5 lite": 16, "TPU v6 lite": 32}
# What the compiler itself puts into a program; the second joins parts that were fetched ahead.
OWN_CALLS = {"AllocateBuffer", "ConcatBitcast"}
HOST = ("infeed", "outfeed", "send", "send-done", "recv", "recv-done")
_EXAMPLES = 500
_MIB = 2**20


def random_data(config):
    """A few random examples of the shapes of the config's data, and how many there really are."""
    name = config.data.tfds_name or config.data.name
    if name not in SOURCES:
        raise InputError(f"The data are {name!r}; valid here are {', '.join(SOURCES)}.")
    shape, num, classes = SOURCES[name]
    side = config.data.resolution
    shape = (side, side, shape[2]) if side else shape
    rng = np.random.default_rng(0)
    names = tuple(config.data.attributes)
    split = Split(
        rng.integers(0, 256, (_EXAMPLES, *shape), dtype=np.uint8),
        (np.arange(_EXAMPLES) % classes).astype(np.int32) if classes else None,
        rng.integers(0, 2, (_EXAMPLES, len(names)), dtype=np.uint8) if names else None,
    )
    data = Dataset(
        "random images",
        split,
        split,
        num_classes=classes,
        class_names=tuple(map(str, range(classes))),
        attribute_names=names,
    )
    return data, num * (2 if config.data.flip else 1)


class Programs:
    """The programs of one config, each lowered for some devices."""

    def __init__(self, config):
        config_lib.validate(config)
        # The fit is not what is looked at.
        quick = config.copy_and_resolve_references()
        quick.conditioning.em_starts = quick.conditioning.em_iterations = 1
        self.config = config
        self.data, self.num = random_data(config)
        self.fitted = assembly.fit_statistics(quick, self.data)
        self.params = assembly.init_params(config, self.data.shape, self.fitted)

    def step(self, on):
        """`training.steps_per_call` updates."""
        group, count = self.config.training, len(on)
        if group.batch_size % count:
            raise InputError(
                f"training.batch_size is {group.batch_size}; it must be a multiple of {count}."
            )
        lead = (count, group.steps_per_call, group.batch_size // count)
        state = jax.eval_shape(
            lambda params: state_lib.create(
                params, assembly.optimizer(self.config), len(group.ema_widths)
            ),
            self.params,
        )
        batch = Batch(
            jax.ShapeDtypeStruct((*lead, *self.data.shape), jnp.float32),
            jax.ShapeDtypeStruct(lead, jnp.int32),
            jax.ShapeDtypeStruct(lead, jnp.float32),
            self._weights(lead),
        )
        mapped = devices.mapped_train_steps(assembly.train_step_fn(self.config, self.fitted), on)
        key = jax.eval_shape(lambda: jax.random.key(0))
        return mapped.lower(_abstract(state, (count,)), batch, key)

    def sampler(self, on):
        """Samples of one batch, unguided."""
        model = assembly.model(self.config, self.data.shape, self.fitted, self.params)
        group = self.config.sample
        sample = generation.sample_fn(sampler(self.config), group.steps, model.sigma_max)
        lead = (len(on), -(-group.batch_size // len(on)))
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), lead))
        shared = _abstract((model, ()), lead[:1])
        return devices.mapped_examples(sample, on).lower(shared, (keys, self._weights(lead)))

    def em(self, on):
        """A fit from one start, on one device."""
        group, mixture = self.config.conditioning, self.fitted.conditioner.mixture
        shares = self.data.num_classes if group.per_class else 1
        num, count = min(self.num, group.em_max_points) // shares, group.num_components // shares
        points = np.empty((num, mixture.dim), np.float32)
        # As where there are no caches to stay in.
        blocks.BLOCK_ELEMENTS["cpu"] = blocks.BLOCK_ELEMENTS["other"]
        key = jax.random.key(0)
        start = jax.eval_shape(
            lambda: make_start(key, jnp.asarray(points), count, group.covariance, "random")
        )
        number = jnp.float32(0)
        arguments = (start, *blocks.split(points, None, count), key, number, number, jnp.int32(0))
        place = jax.sharding.SingleDeviceSharding(on[0])
        fit = jax.jit(iterate, static_argnames="history_size")
        return fit.lower(*_abstract(arguments, (), place), history_size=256)

    def _weights(self, lead):
        conditioner = self.fitted.conditioner
        if conditioner is None:
            return None
        return jax.ShapeDtypeStruct((*lead, conditioner.num_components), jnp.float32)


def _abstract(tree, lead, place=None):
    """Shapes and types of a pytree with leading axes, without their arrays."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((*lead, *leaf.shape), leaf.dtype, sharding=place), tree
    )


_LINE = re.compile(
    r"^\s*(?:ROOT )?%?(?P<name>[\w.-]+) = "
    r"(?P<array>(?P<type>\w+)\[(?P<sizes>[\d,]*)\]"
    r"(?:\{(?P<order>[\d,]*)(?::T\((?P<tile>[\d,]+)\))?[^}]*\})?) "
    r"(?P<operation>[\w-]+)\((?P<rest>.*)$",
    re.MULTILINE,
)
_OPERATION = re.compile(r"^\s*(?:ROOT )?%?[\w.-]+ = .*? ([a-z][\w-]*)\(", re.MULTILINE)


def numbers(text):
    """`"3,0"` -> `[3, 0]`; what is absent is empty."""
    return [int(number) for number in (text or "").split(",") if number]


def padded(sizes, order, tile):
    """Entries of an array as it lies in memory.

    `order` lists its axes, the one that changes fastest first, of which as many as `tile` has
    entries are rounded up: on a TPU to (8, 128), the lanes last.
    """
    sizes = list(sizes)
    for axis, unit in zip(order, reversed(tile), strict=False):
        sizes[axis] = -(-sizes[axis] // unit) * unit
    return math.prod(sizes)


class Product(NamedTuple):
    """A convolution or a product of matrices, which a TPU's compiler writes as one.

    Attributes:
      place: the last three names of where it stands in the program.
      arrays: its operands as they are written, with their layouts.
      entries: of both.
      stored: entries of both with their padding.
      rounded: whether float32 is read as bfloat16.
    """

    place: str
    arrays: list[str]
    entries: int
    stored: int
    rounded: bool

    @property
    def ratio(self):
        """How many times as much room as needed."""
        return self.stored / self.entries


def products(text):
    """All convolutions and products of a compiled text."""
    found = []
    # Names are of one computation only, which ends with a brace at the start of a line.
    for computation in re.split(r"^\}", text, flags=re.MULTILINE):
        arrays = {line["name"]: line for line in _LINE.finditer(computation)}
        for line in arrays.values():
            if line["operation"] not in ("convolution", "dot"):
                continue
            names = re.findall(r"%([\w.-]+)", line["rest"].split(")")[0])
            operands = [arrays[name] for name in names]
            sizes = [numbers(operand["sizes"]) for operand in operands]
            stored = [
                padded(size, numbers(operand["order"]), numbers(operand["tile"]))
                for size, operand in zip(sizes, operands, strict=True)
            ]
            place = re.search(r'op_name="([^"]*)"', line["rest"])
            found.append(
                Product(
                    "/".join(place[1].split("/")[-3:]) if place else line["name"],
                    [operand["array"] for operand in operands],
                    sum(map(math.prod, sizes)),
                    sum(stored),
                    "f32" in [operand["type"] for operand in operands]
                    and "highest" not in line["rest"],
                )
            )
    return found


def inspect(text):
    """What the compiled text tells, as sentences, and those of them that are faults."""
    told, faults = [], []
    operations = collections.Counter(_OPERATION.findall(text))
    calls = collections.Counter(re.findall(r'custom_call_target="([^"]+)"', text))
    host = {name: operations[name] for name in HOST if operations[name]}
    foreign = {name: count for name, count in calls.items() if name not in OWN_CALLS}
    for name, seen in (("transfers to or from the host", host), ("foreign calls", foreign)):
        if seen:
            faults.append(f"{name}: {', '.join(f'{c} {n}' for n, c in seen.items())}")
    if FOR_CPU in text:
        faults.append(f"code for the CPU: {text.count(FOR_CPU)} operations of {FOR_CPU!r}")
    if not faults:
        told.append("no transfer to or from the host, no foreign call, no code for the CPU")
    found = products(text)
    if found:
        entries, stored = sum(one.entries for one in found), sum(one.stored for one in found)
        rounded = sum(one.rounded for one in found)
        told.append(
            f"{len(found)} convolutions and products, {rounded} of them of float32 rounded to "
            f"bfloat16; operands of {entries / 1e6:.1f} M entries take {stored / 1e6:.1f} M, "
            f"{stored / entries:.1f} times as many; most room is lost in"
        )
        most = sorted(found, key=lambda one: one.entries - one.stored)[:5]
        told += [
            f"  {one.ratio:.1f} times: {one.place} of {' and '.join(one.arrays)}" for one in most
        ]
    counts = f"{operations['fusion']} fusions, {operations['while']} loops"
    told.append(f"{text.count(chr(10))} lines, {counts}, {operations['all-reduce']} all-reduces")
    return told, faults


def measure(lowered, kind):
    """The cells of a row, and the compiled text, or None where the program does not fit."""
    began, worked = time.perf_counter(), time.process_time()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        used = re.search(r"Used ([\d.]+\w) of ([\d.]+\w) hbm", str(error))
        cause = f"needs {used[1]} of {used[2]}" if used else "does not fit"
        return ["-", "-", cause, "-", "-"], None
    seconds, processor = time.perf_counter() - began, time.process_time() - worked
    memory = compiled.memory_analysis()
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    code = memory.generated_code_size_in_bytes
    total = memory.argument_size_in_bytes + new + memory.temp_size_in_bytes + code
    share = total / (MEMORY[kind] * 2**30)
    cells = [
        f"{memory.argument_size_in_bytes / _MIB:.1f}",
        f"{memory.temp_size_in_bytes / _MIB:.1f}",
        f"{total / _MIB:.1f}, {100 * share:.1f} % of {MEMORY[kind]} GiB",
        f"{compiled.cost_analysis()['flops'] / 1e9:.3g}",
        f"{seconds:.0f} ({processor:.0f})",
    ]
    return cells, compiled.as_text()


def _define(values):
    flags.DEFINE_list("topology", ["v5e:2x2"], "Names of topologies.", flag_values=values)
    flags.DEFINE_list("part", list(PARTS), "Programs.", flag_values=values)
    flags.DEFINE_string("save", None, "Folder for the compiled texts.", flag_values=values)


def described(topology):
    """The devices of a topology that need not be here, those of a host together."""
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(f"libtpu is not installed; get it with {extras.advice('tpu-compile')}.")
    # It is not to ask the cloud which TPU this machine is, nor to keep others from its compiler.
    os.environ.update(
        TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost", ALLOW_MULTIPLE_LIBTPU_LOAD="1"
    )
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except jax.errors.JaxRuntimeError as error:
        cause = str(error).splitlines()[0]
        raise InputError(f"--topology is {topology!r}; libtpu says: {cause}") from error
    on: list[jax.Device] = found.devices
    if on[0].device_kind not in MEMORY:
        raise InputError(
            f"--topology is {topology!r}, of {on[0].device_kind}; valid are those of "
            f"{', '.join(MEMORY)}."
        )
    return sorted(on, key=lambda device: device.process_index)


def _work(argv):
    parsed = command_line.parse(argv, _define)
    for part in parsed.flags.part:
        if part not in PARTS:
            raise InputError(f"--part is {part!r}; valid are {', '.join(PARTS)}.")
    # What is fitted here is fitted on the CPU, also where libtpu would look for a TPU.
    jax.config.update("jax_platforms", "cpu")
    programs, status = Programs(parsed.config), 0
    name = pathlib.Path(parsed.path or "default").stem
    millions = sum(leaf.size for leaf in jax.tree.leaves(programs.params)) / 1e6
    batch = f"{parsed.config.training.batch_size}, {parsed.config.sample.batch_size}"
    print(f"{name}: {millions:.2f} M parameters; examples a call over all devices: {batch}\n")
    print(
        "| program | topology | arguments MiB | temporaries MiB | total MiB | GFLOP a device | "
        "seconds to compile (of processor) |\n|---|---|---|---|---|---|---|"
    )
    notes = []
    for topology in parsed.flags.topology:
        on = described(topology)
        for part in parsed.flags.part:
            kind = parsed.config.conditioning.kind
            if part == "em" and kind != "gmm":
                notes.append(f"em: conditioning.kind {kind} fits no mixture")
                continue
            cells, text = measure(getattr(programs, part)(on), on[0].device_kind)
            print(f"| {name} {part} | {topology} | {' | '.join(cells)} |", flush=True)
            if text is None:
                status = 1
                continue
            told, faults = inspect(text)
            notes += [f"{part} on {topology}: {note}" for note in [*faults, *told]]
            status = 1 if faults else status
            if parsed.flags.save:
                folder = pathlib.Path(parsed.flags.save)
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{name}-{part}-{topology.replace(':', '-')}.txt").write_text(text)
    print("", *notes, sep="\n")
    return status


if __name__ == "__main__":
    sys.exit(command_line.run(sys.argv, __file__, _work))
