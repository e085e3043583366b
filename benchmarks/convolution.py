"""Forms of the weight gradient of a 3x3 convolution on a CPU, inside a loop.

    python benchmarks/convolution.py [--devices 2] [--rounds 9]

GFLOP/s of each device, the most (median), forms in turns: one convolution of transposed operands;
nine products, one for each weight's shift; three products, one for each row of the kernel, of all
examples at once and in blocks of 1, 2 and 4; and what `networks/convolution.py` takes. A case is
examples, side, channels in and out.
"""

import argparse
import functools
import os
import pathlib
import sys
import time

# A clone that is not installed works, too.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gmm_diffusion.networks import convolution

CASES = (
    (64, 4, 64, 64),
    (64, 8, 32, 32),
    (64, 8, 64, 64),
    (8, 8, 512, 256),
    (8, 16, 128, 128),
    (8, 16, 256, 128),
    (8, 32, 64, 64),
    (8, 32, 128, 64),
    (16, 32, 64, 64),
    (16, 32, 128, 64),
    (8, 64, 64, 64),
)


def transposed(x, gradient):
    operands = (x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3))
    dimensions = ("NHWC", "HWIO", "NHWC")
    found = lax.conv_general_dilated(
        *lax.optimization_barrier(operands), (1, 1), [(1, 1)] * 2, dimension_numbers=dimensions
    )
    return found.transpose(1, 2, 0, 3)


def nine(x, gradient):
    _, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    flat = gradient.reshape(-1, gradient.shape[-1])

    def one(i, j):
        return padded[:, i : i + height, j : j + width].reshape(-1, channels).T @ flat

    return jnp.stack([jnp.stack([one(i, j) for j in range(3)]) for i in range(3)])


def rows(x, gradient, block=None):
    if block is None:
        return convolution._weight_gradient_of_block(x, gradient, 3)
    total = jnp.zeros((3, 3, x.shape[-1], gradient.shape[-1]))
    parts = jax.tree.map(lambda a: a.reshape(-1, block, *a.shape[1:]), (x, gradient))
    return lax.scan(lambda total, part: (total + rows(*part), None), total, parts)[0]


FORMS = {
    "transposed": transposed,
    "nine": nine,
    "rows": rows,
    "blocks of 1": functools.partial(rows, block=1),
    "of 2": functools.partial(rows, block=2),
    "of 4": functools.partial(rows, block=4),
    "taken": functools.partial(convolution._weight_gradient, size=3),
}


def measure(case, num_devices, rounds):
    """GFLOP/s of each form: `{name: (most, median)}`."""
    batch, side, channels, features = case
    shapes = (num_devices, batch, side, side)
    x = jax.random.normal(jax.random.key(0), (*shapes, channels))
    gradient = jax.random.normal(jax.random.key(1), (*shapes, features))
    operations = 2 * 9 * batch * side**2 * channels * features
    repeats = max(1, int(2e9 / operations))

    def loop(form, x, gradient):
        def body(carry, _):
            found = form(x + carry, gradient)
            return found[0, 0, 0, 0] * 1e-9, found

        return lax.scan(body, 0.0, None, length=repeats)[1][-1]

    programs = {name: jax.pmap(functools.partial(loop, form)) for name, form in FORMS.items()}
    results = {name: np.asarray(program(x, gradient)) for name, program in programs.items()}
    taken = {name: [] for name in programs}
    for found in results.values():
        np.testing.assert_allclose(found, results["taken"], atol=1e-3 * np.abs(found).max())
    for _ in range(rounds):
        for name, program in programs.items():
            begin = time.perf_counter()
            jax.block_until_ready(program(x, gradient))
            taken[name].append(time.perf_counter() - begin)
    scale = operations * repeats / 1e9
    return {n: (scale / min(times), scale / np.median(times)) for n, times in taken.items()}


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", arguments.devices)
    print(f"| case | {' | '.join(FORMS)} |\n|---{'|---' * len(FORMS)}|")
    for case in CASES:
        found = measure(case, arguments.devices, arguments.rounds)
        cells = [f"{most:.0f} ({median:.0f})" for most, median in found.values()]
        print(f"| {', '.join(map(str, case))} | {' | '.join(cells)} |", flush=True)
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
