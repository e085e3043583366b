"""The marginal time of an iteration of EM, points and parameters already on the device."""

import jax
import numpy as np

from benchmarks.timing import median_seconds
from gmm_diffusion.mixture import GaussianMixture, blocks, standardise
from gmm_diffusion.mixture.em_loop import iterate

_FIT = jax.jit(iterate, static_argnames="history_size")


def seconds(x: np.ndarray, start: tuple, kind: str, iterations: int, least: int = 5) -> float:
    """`(time of 1 + iterations - time of 1) / iterations`, of medians.

    Args:
      x: `[N, D]` float32.
      start: weights `[K]`, means `[K, D]` and covariances.
      kind: "diag" or "full".
      iterations: so many that they take much longer than a call.
      least: of calls that a median is taken of.
    """
    mixture = GaussianMixture.create(*start, kind)
    transform = standardise.measure([(x, None)], kind, False)
    points = blocks.split(transform.forward(x), None, mixture.num_components)
    arguments = jax.device_put((transform.parameters(mixture), *points, jax.random.key(0)))
    history_size = 256 * (2 + iterations // 256)

    def fit(count):
        found = _FIT(*arguments, 1e-6, 0.0, count, history_size=history_size)
        if int(found.num_iterations) != count:
            raise RuntimeError(f"EM ended after {int(found.num_iterations)} of {count} iterations.")

    short = median_seconds(lambda: fit(1), least, 0.2)
    return (median_seconds(lambda: fit(1 + iterations), least, 0.2) - short) / iterations
