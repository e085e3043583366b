"""The contrastive loss beside a bare forward and backward pass over as many rows, in one run.

    python benchmarks/contrastive.py [--repeats 9] [--points 128] [--num_points 128] [--processor]

The loss of all points of a batch, with its gradient, beside the gradient of a mean square of the
same network over `2 x points x num_points` rows, and beside a denoising step's loss over `points`
rows. They take turns; cells are medians with (min-max). `chunk` is the most rows in one call: what
does not fit in it is recomputed for the gradient. `--processor` counts processor time in place of
wall time, which other jobs disturb less. Memory is that of the compiled program's temporaries. Then
how the spread of a ratio falls with the number of evaluations, with and without the control
variate.
"""

import argparse
import pathlib
import statistics
import sys
import time

# A clone that is not installed works, too.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from gmm_diffusion import mixture
from gmm_diffusion.diffusion import density_ratio
from gmm_diffusion.diffusion.contrastive_loss import contrastive_loss
from gmm_diffusion.diffusion.denoising_loss import denoising_loss
from gmm_diffusion.model.denoiser import Denoiser
from gmm_diffusion.networks import MLP
from gmm_diffusion.networks.initialisation import initialise

DIM, WIDTH, BLOCKS = 2, 96, 2


def programs(points: int, num_points: int, chunks: list[int]) -> tuple[dict, int]:
    """`{name: compiled gradient of no arguments but the parameters}`, and their number."""
    network = MLP(WIDTH, BLOCKS)
    params = initialise(lambda key: network.init(key, jnp.zeros((1, DIM)), jnp.zeros(1)), 0)
    params = {"network": params}
    denoise = Denoiser(network, 1.0)
    keys = jax.random.split(jax.random.key(0), points)
    rows = 2 * points * num_points
    x = jax.random.normal(jax.random.key(1), (rows, DIM))
    sigma = jnp.exp(jax.random.normal(jax.random.key(2), (rows,)) - 1.2)
    label = jnp.where(jnp.arange(points) % 2 == 0, 1.0, -1.0)

    def bare(params):
        return jnp.mean(jnp.square(denoise(params, x, sigma)))

    def plain(params):
        def denoise_fn(x, sigma, cond):
            return denoise(params, x, sigma, cond)

        return denoising_loss(denoise_fn, keys, x[:points], sigma[:points], sigma_data=1.0).mean()

    def contrast(chunk):
        def loss(params):
            return contrastive_loss(
                lambda x, sigma, cond: denoise(params, x, sigma, cond),
                keys,
                x[:points],
                label,
                zeta=(0.1, 1.0),
                num_points=num_points,
                sigma_min=0.01,
                sigma_max=10.0,
                variance=0.1,
                chunk=chunk,
            )[0].mean()

        return loss

    losses = {"bare network": bare, "denoising step": plain}
    losses |= {f"contrastive, chunk {chunk}": contrast(chunk) for chunk in chunks}
    made = {name: jax.jit(jax.grad(loss)).lower(params).compile() for name, loss in losses.items()}
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return {name: (program, params) for name, program in made.items()}, count


def spread(dim: int = 64, std: float = 0.3, zeta: float = 0.2) -> None:
    """Prints the standard deviation of ratios by their number of evaluations, exact denoiser."""
    centers = np.random.default_rng(0).normal(size=(4, dim))
    mix = mixture.GaussianMixture.create(np.full(4, 0.25), centers, np.full(4, std**2), "spherical")
    clean = mixture.sample(mix, jax.random.key(1), 32)
    x = jnp.concatenate([clean, clean + zeta * jax.random.normal(jax.random.key(2), clean.shape)])
    low, high = density_ratio.sigma_bounds(std, 1.04, zeta)
    print(f"\nStandard deviation of a ratio in {dim} dimensions, in and near the data\n")
    print("| evaluations | without a control variate | with it |")
    print("|---|---|---|")
    for num_points in (4, 8, 16, 32, 64):
        cells = []
        for variance in (None, std**2):

            @jax.jit
            def ratio(key, num_points=num_points, variance=variance):
                return density_ratio.log_density_ratio(
                    lambda x, sigma, cond: mixture.denoise(mix, x, sigma),
                    key, x, zeta, None, num_points,
                    sigma_min=low, sigma_max=high, variance=variance,
                )  # fmt: skip

            values = np.stack([ratio(jax.random.key(i)) for i in range(20)])
            cells.append(f"{values.std(axis=0).mean():.2g}")
        print(f"| {num_points} | {' | '.join(cells)} |")


def main() -> None:
    """Prints two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--points", type=int, default=128)
    parser.add_argument("--num_points", type=int, default=128)
    parser.add_argument("--processor", action="store_true")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.processor else time.perf_counter
    rows = 2 * arguments.points * arguments.num_points
    made, count = programs(arguments.points, arguments.num_points, [rows, rows // 4, 2048])
    times = {name: [] for name in made}
    for _ in range(arguments.repeats + 1):
        for name, (program, params) in made.items():
            begin = clock()
            jax.block_until_ready(program(params))
            times[name].append(1e3 * (clock() - begin))
    print(f"{count} parameters, {rows} rows\n")
    print("| gradient of | ms (min-max) | times the bare network | temporaries MiB |")
    print("|---|---|---|---|")
    bare = statistics.median(times["bare network"][1:])
    for name, values in times.items():
        # The first call is not counted.
        values = values[1:]
        median = statistics.median(values)
        memory = made[name][0].memory_analysis().temp_size_in_bytes / 2**20
        span = f"{min(values):.1f}-{max(values):.1f}"
        print(f"| {name} | {median:.1f} ({span}) | {median / bare:.2f} | {memory:.0f} |")
    spread()


if __name__ == "__main__":
    main()
