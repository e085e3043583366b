"""The most memory that the start of a run takes, up to its first update, for each kind of
conditioning.

    python benchmarks/start_memory.py [--kinds gmm,class] [--examples 60000] [--size 32]

Random RGB images with flips, classes and attributes; one process a kind runs the real command up to
its first call of the train step, which is not made. The data stand in memory before it starts.
Growth is that of the peak of resident memory over what Python, its libraries and the data take; the
peak counts these, too.
"""

import argparse
import contextlib
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

# A clone that is not installed works, too.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import numpy as np

from gmm_diffusion import config as config_lib
from gmm_diffusion import devices
from gmm_diffusion.assembly import datasets
from gmm_diffusion.commands import train
from gmm_diffusion.data import Dataset, Split

KINDS = ("none", "class", "attributes", "gmm", "clusters")
CLASSES, ATTRIBUTES = 10, 20


class _Started(BaseException):
    """The first update would come now."""


def resident(name):
    """MiB of this process: VmRSS now, or VmHWM at most."""
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith(name)]
    return int(line.split()[1]) / 1024


def split(num, size, seed):
    """Images that have classes in them: a grey level of their own, and noise."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, num).astype(np.int32)
    x = np.empty((num, size, size, 3), np.uint8)
    for start in range(0, num, 1000):
        block = x[start : start + 1000]
        block[:] = rng.integers(0, 128, block.shape, np.uint8)
        block += (12 * label[start : start + 1000]).astype(np.uint8)[:, None, None, None]
    attributes = rng.integers(0, 2, (num, ATTRIBUTES)).astype(np.uint8)
    attributes[0], attributes[1] = 0, 1
    return Split(x, label, attributes)


def measure(kind, num, size):
    """One line of the table."""
    rest = [split(1000, size, seed) for seed in (1, 2)]
    names = tuple(f"attribute_{i}" for i in range(ATTRIBUTES))
    data = Dataset(
        "random images",
        split(num, size, 0),
        rest[0],
        num_classes=CLASSES,
        class_names=tuple(map(str, range(CLASSES))),
        attribute_names=names,
        validation=rest[1],
    )
    datasets.DATASETS = {"digits": lambda **_: data}
    config = config_lib.default()
    config.data.flip = True
    config.conditioning.kind = kind
    config.training.tensorboard = False

    def no_steps(_):
        def run(*_):
            raise _Started

        return run

    devices.make_train_steps = no_steps
    jax.block_until_ready(jax.numpy.zeros(1) + 1)
    before, held = resident("VmRSS"), data.train.x.nbytes / 2**20
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(_Started):
        train.train(config, os.path.join(folder, "run"))
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"| {kind} | {held:.0f} | {before:.0f} | {peak:.0f} | {peak - before:.0f} | {seconds:.0f} |"
    )


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--examples", type=int, default=60_000)
    parser.add_argument("--size", type=int, default=32, help="height and width")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        measure(arguments.one, arguments.examples, arguments.size)
        return
    print("| kind | data MiB | before MiB | peak MiB | growth MiB | s |", flush=True)
    print("|---|---|---|---|---|---|", flush=True)
    for kind in arguments.kinds.split(","):
        line = [sys.executable, __file__, f"--one={kind}", f"--examples={arguments.examples}"]
        subprocess.run([*line, f"--size={arguments.size}"], check=True)


if __name__ == "__main__":
    main()
