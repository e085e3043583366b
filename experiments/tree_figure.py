"""Samples of one class of the tree under each kind of guidance, beside the exact denoiser's."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.spatial import KDTree

from gmm_diffusion import assembly, mixture
from gmm_diffusion.assembly import guides
from gmm_diffusion.assembly import load as load_lib
from gmm_diffusion.data import Dataset
from gmm_diffusion.devices import example_keys
from gmm_diffusion.diffusion import noise_levels
from gmm_diffusion.metrics.vector_scores import LOG_DENSITY_RANGE, VectorScores
from gmm_diffusion.runs.workdir import read_config
from gmm_diffusion.sampling.samplers import SAMPLERS, initial_noise


def noise_range(run_dir: pathlib.Path) -> tuple[float, float, float]:
    """The last positive noise level of a run's sampler, the first, and the exponent between."""
    model = load_lib.load_run(run_dir)
    group = model.config.sample
    return group.sigma_min, group.sigma_max or model.sigma_max, group.rho


def exact_samples(
    data: Dataset, labels: np.ndarray, steps: int, sigmas: tuple, seed: int = 0
) -> np.ndarray:
    """`[N, 2]` samples by the exact denoiser of each label's class and the same sampler.

    Args:
      data: with its true mixture.
      labels: `[N]` classes.
      steps: of Heun's method.
      sigmas: the last positive noise level, the first, and the exponent of the grid.
      seed: of the noise.
    """
    own = np.eye(data.num_classes)[data.component_class] * np.asarray(data.mixture.weights)[:, None]
    levels = noise_levels.karras(steps, *sigmas)

    @jax.jit
    def sample(keys, weights):
        def denoise_fn(x, sigma, cond):
            return mixture.denoise(data.mixture, x, sigma, weights=weights)

        x = initial_noise(keys, (2,), levels[0])
        return SAMPLERS["heun"](denoise_fn, keys, x, levels)[0]

    x, keys = np.empty((len(labels), 2), np.float32), example_keys(seed, len(labels))
    for label in np.unique(labels):
        column = own[:, label] / own[:, label].sum()
        chosen = labels == label
        x[chosen] = sample(keys[chosen], jnp.asarray(column, jnp.float32))
    return x


def model_samples(run_dir: str | os.PathLike, guidance: dict, label: int, num: int) -> np.ndarray:
    """`[num, 2]` samples of one class of a run, guided as the settings `guidance` say."""
    config = read_config(run_dir)
    config["guidance"].update(guidance)
    model = load_lib.load_run(run_dir, config=config)
    guidance = guides.guidance(model, run_dir)
    return assembly.sample(model, num, f"class:{label}", 0, guidance).x


def tail(data: Dataset, label: int, x: np.ndarray, score: VectorScores) -> dict[str, float]:
    """Points that have left the tree.

    Args:
      data: with its true mixture.
      label: the class asked for.
      x: `[N, 2]` samples.
      score: of `data`.

    Returns:
      "far", the share whose log-density lies below the cut of `condition_log_density`; "distance",
      from the sample that is furthest away to the nearest training point of its class.
    """
    values = np.asarray(score.log_prob(x, score.class_weights[label]))
    cut = score.class_reference[label].mean() - LOG_DENSITY_RANGE
    nearest, _ = KDTree(data.train.x[data.train.label == label]).query(x)
    return {"far": float(np.mean(values < cut)), "distance": float(nearest.max())}


def plot(data: Dataset, label: int, panels: list[tuple[str, np.ndarray]], path: str) -> None:
    """Panels of points over the true points of one class, in a row or two, to a PNG."""
    true = data.heldout.x[data.heldout.label == label]
    low, high = true.min(axis=0) - 0.15, true.max(axis=0) + 0.15
    rows = 1 if len(panels) < 5 else 2
    columns = -(-len(panels) // rows)
    figure = Figure(figsize=(4.2 * columns, 3.7 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.remove()
    for axes, (title, x) in zip(grid, panels, strict=False):
        axes.plot(*true.T, ",", color="0.8")
        axes.plot(*x.T, ".", markersize=1.2, color="C0", alpha=0.5, markeredgewidth=0)
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[])
        axes.set_title(title, fontsize="medium")
        axes.set_aspect("equal")
    figure.savefig(path, dpi=80)
