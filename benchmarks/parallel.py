"""Parallel sampling beside the sequential sampler, with the exact denoiser of a mixture.

    python benchmarks/parallel.py [--steps 64] [--samples 256]

For each sampler, tolerance and way of carrying corrections: rounds and evaluations a sample
(means), the most rounds of any, the error against the sequential sampler (median over samples of
the root mean square) and the wall time of both, compiled, the better of two. On a CPU every row
costs time, so that only the rounds say what a parallel machine gains.
"""

import argparse
import pathlib
import sys
import time

# A clone that is not installed works, too.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from gmm_diffusion import mixture
from gmm_diffusion.diffusion.noise_levels import karras
from gmm_diffusion.sampling.parallel import STEPS, picard
from gmm_diffusion.sampling.samplers import SAMPLERS, initial_noise

RMS = 0.8


def denoise_fn(x, sigma, cond):
    """Of three Gaussians in the plane."""
    means = jnp.array([[1.0, 0.0], [-0.8, 0.9], [-0.6, -1.1]])
    variances = jnp.array([[0.1, 0.4], [0.3, 0.15], [0.2, 0.2]]) ** 2
    mix = mixture.GaussianMixture.create(jnp.array([0.5, 0.3, 0.2]), means, variances, "diag")
    return mixture.denoise(mix, x, sigma)


def timed(program, x):
    """The result, and seconds of the better of two calls after a first."""
    result, seconds = jax.block_until_ready(program(x)), []
    for _ in range(2):
        begin = time.perf_counter()
        jax.block_until_ready(program(x))
        seconds.append(time.perf_counter() - begin)
    return jax.device_get(result), min(seconds)


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--samples", type=int, default=256)
    arguments = parser.parse_args()
    keys = jax.random.split(jax.random.key(0), arguments.samples)
    sigmas = karras(arguments.steps, 0.01, 40.0)
    x = initial_noise(keys, (2,), sigmas[0])
    head = ("sampler", "tolerance", "corrections", "rounds (most)", "evaluations", "error", "s")
    print(f"| {' | '.join(head)} | s, one by one |")
    print("|" + "---|" * (len(head) + 1))
    for name in STEPS:
        (sequential, _), seconds = timed(
            jax.jit(lambda x, name=name: SAMPLERS[name](denoise_fn, keys, x, sigmas)), x
        )
        for tolerance in (0.0, 0.03, 0.1, 0.3):
            for carried, sigma_data in (("as white data", RMS), ("as published", None)):

                def program(x, name=name, tolerance=tolerance, sigma_data=sigma_data):
                    return picard(
                        denoise_fn,
                        keys,
                        x,
                        sigmas,
                        step=name,
                        window=arguments.steps,
                        tolerance=tolerance,
                        sigma_data=sigma_data,
                    )

                (drawn, info), own = timed(jax.jit(program), x)
                error = np.median(np.sqrt(np.mean((drawn - sequential) ** 2, axis=1)))
                print(
                    f"| {name} | {tolerance:g} | {carried} | {info.rounds.mean():.1f} "
                    f"({info.rounds.max()}) | {info.evaluations.mean():.0f} | {error:.1g} | "
                    f"{own:.3f} | {seconds:.3f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
