"""How cost grows: with an image's side, batch, channels, K, D, N and the number of devices.

    python benchmarks/growth.py [--rows update,EM,devices] [--seconds 1]

Each row of the table takes one size through four values or more and fits `cost = a size^p` to them
by least squares of the logarithms. The expected exponent is that of the operations, counted by
operations.py and fitted over the same values, so that it holds the terms of lower order that they
still have. As the size grows it tends to the limit beside it:

side      pixels, side^2; with attention over all of them its products, side^4
batch     1
channels  a convolution has inputs times outputs, 2; 1 of its activations
N, K      each of the N K densities and moments costs the same, 1
D         diagonal covariances 1; full ones whiten D entries for each of D, 2, and take a root of
          every component's matrix, 3, once an iteration: its share is K D^3 of N K D^2
devices   of a CPU, for a batch that stays the same: -1 up to the cores there are, 0 from there on.
          The expected exponent is that of 1 / min(devices, cores)

An update is forwards, backwards, Adam and two averages of a float32 U-Net of two resolutions; an
iteration of EM is timed with points on the device. Time that stays below the expected exponent at
small sizes is what does not grow: calls, and passes over parameters. Costs are medians; the range
is that of the seconds measured. A row of updates took a minute or more on two cores, most of it
compiling.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np

# A clone that is not installed works, too.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import mixture, operations

ROOT = pathlib.Path(__file__).resolve().parents[1]
UPDATE = {"side": 16, "batch": 16, "channels": 16, "attention": False}
EM = {"num_points": 20_000, "dim": 16, "num_components": 32}
DEVICES = {"side": 16, "batch": 32, "channels": 32, "attention": False}
KINDS = ("update", "EM", "devices")


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The least-squares p of `log cost = log a + p log size`.

    Raises:
      ValueError: fewer than four sizes, or a size or cost that is not positive.
    """
    if len(sizes) < 4 or len(sizes) != len(costs):
        raise ValueError(f"{len(sizes)} sizes and {len(costs)} costs; valid are 4 pairs or more.")
    if not (min(sizes) > 0 and min(costs) > 0):
        raise ValueError(f"sizes {list(sizes)}, costs {list(costs)}; valid are positive ones.")
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
      kind: one of `KINDS`.
      cost: what takes time.
      size: what grows.
      values: of it.
      limit: the exponent as the size grows on.
      expected: `(value) ->` operations, or what time is proportional to.
      measured: `(value, seconds) ->` seconds; takes at least `seconds` for it.
    """

    kind: str
    cost: str
    size: str
    values: tuple[int, ...]
    limit: str
    expected: Callable[[int], float]
    measured: Callable[[int, float], float]


def case_of(settings: dict):
    """The network of an update."""
    from benchmarks.unconditional import Case

    side = settings["side"]
    heights = (side, side // 2) if settings["attention"] else ()
    return Case(side, settings["channels"], (1, 2), 1, heights, bool(heights))


def update_operations(settings: dict) -> int:
    """Of an update of a batch."""
    return settings["batch"] * case_of(settings).count().update_flops


def update_seconds(settings: dict, seconds: float, num_devices: int = 1) -> float:
    """Median time of an update."""
    from benchmarks.timing import median_seconds
    from benchmarks.unconditional import Training, noise_batches

    training = Training(case_of(settings), num_devices)
    given = training.place(noise_batches(case_of(settings), 1, settings["batch"]))
    return median_seconds(lambda: training.call(given), 3, seconds)


def em_seconds(cell: dict, seconds: float) -> float:
    """Median time of an iteration."""
    from benchmarks import em_iteration

    x, start = mixture.data(**cell)
    # Of about `seconds` together, where a core makes 10^10 products a second.
    count = int(np.clip(seconds * 1e10 / operations.em(**cell).products, 4, 100))
    return em_iteration.seconds(x, start, cell["kind"], count, 3)


def devices_seconds(num_devices: int, seconds: float) -> float:
    """Median time of an update on so many devices, in a process of its own."""
    line = [sys.executable, __file__, "--worker", json.dumps([num_devices, seconds])]
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
    done = subprocess.run(
        line, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    return json.loads(done.stdout.splitlines()[-1])


def rows(num_cores: int) -> list[Row]:
    """Of the table."""

    def update(size, values, limit, text="update", **other):
        def settings(value):
            return UPDATE | other | {size: value}

        return Row(
            "update",
            text,
            size,
            values,
            limit,
            lambda value: update_operations(settings(value)),
            lambda value, seconds: update_seconds(settings(value), seconds),
        )

    def em(kind, name, size, values, limit):
        def cell(value):
            return EM | {"kind": kind, size: value}

        return Row(
            "EM",
            f"iteration of EM, {kind}",
            name,
            values,
            limit,
            lambda value: operations.em(**cell(value)).products,
            lambda value, seconds: em_seconds(cell(value), seconds),
        )

    found = [
        update("side", (8, 16, 32, 64), "2"),
        update(
            "side",
            (8, 16, 24, 32),
            "4",
            "update, attention over all pixels",
            attention=True,
            batch=4,
        ),
        update("batch", (8, 16, 32, 64), "1"),
        update("channels", (16, 32, 64, 128), "2"),
    ]
    for kind, limit in (("diag", "1"), ("full", "2, then 3")):
        found += [
            em(kind, "N", "num_points", (10_000, 20_000, 40_000, 80_000), "1"),
            em(kind, "K", "num_components", (16, 32, 64, 128), "1"),
            em(kind, "D", "dim", (8, 16, 32, 64), limit),
        ]
    found.append(
        Row(
            "devices",
            "update",
            "devices",
            (1, 2, 4, 8),
            "-1, then 0",
            lambda value: 1 / min(value, num_cores),
            devices_seconds,
        )
    )
    return found


def main(argv: list[str] | None = None) -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--seconds", type=float, default=1.0, help="least time of one value")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.worker:
        num_devices, seconds = json.loads(arguments.worker)
        import jax

        jax.config.update("jax_num_cpu_devices", num_devices)
        print(json.dumps(update_seconds(DEVICES, seconds, num_devices)))
        return
    kinds = arguments.rows.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"--rows has {', '.join(sorted(unknown))}; valid are {', '.join(KINDS)}")
    from gmm_diffusion.cpu_devices import cores

    print(f"{cores()} cores, load {os.getloadavg()[0]:.1f} at the start\n")
    print("| cost | grows with | values | expected | limit | measured | ms |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for row in rows(cores()):
        if row.kind not in kinds:
            continue
        taken = [row.measured(value, arguments.seconds) for value in row.values]
        expected = exponent(row.values, [row.expected(value) for value in row.values])
        text = " ".join(f"{1e3 * one:.3g}" for one in taken)
        print(
            f"| {row.cost} | {row.size} | {' '.join(map(str, row.values))} | {expected:.2f} | "
            f"{row.limit} | {exponent(row.values, taken):.2f} | {text} |",
            flush=True,
        )
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
