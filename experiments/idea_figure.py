"""The idea at a glance: a density, and samples by classes and by features with their defects."""

import os

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gmm_diffusion import assembly, mixture
from gmm_diffusion.assembly import load as load_lib
from gmm_diffusion.data import Dataset
from gmm_diffusion.metrics import manifold

_PIXELS = 400
_DEFECT = "#d62728"


def model_samples(run_dir: str | os.PathLike, num: int) -> np.ndarray:
    """`[num, 2]` samples of the training marginal of a run."""
    return assembly.sample(load_lib.load_run(run_dir), num, "train", 0).x


def plot(data: Dataset, panels: list[tuple[str, np.ndarray]], path: str) -> dict[str, float]:
    """The true density, then a panel a model with its defects in red, to a PNG.

    A defect lies where the density is below the 0.1 % quantile of true samples.

    Args:
      data: points in the plane with their true mixture.
      panels: title and samples `[N, 2]` of each model.
      path: of the picture.

    Returns:
      Defect rate by title.
    """
    weights = np.asarray(data.mixture.weights)

    def log_prob(x):
        return np.asarray(mixture.log_prob(data.mixture, x.astype(np.float32), weights=weights))

    reference = log_prob(data.train.x)
    reach = 1.15 * np.abs(data.heldout.x).max()
    figure = Figure(figsize=(3.6 * (1 + len(panels)), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    first, *rest = figure.subplots(1, 1 + len(panels))
    line = np.linspace(-reach, reach, _PIXELS)
    points = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    values = np.maximum(log_prob(points), reference.mean() - 12).reshape(_PIXELS, _PIXELS)
    first.imshow(values, extent=[-reach, reach] * 2, origin="lower", cmap="Blues")
    first.set_title("true log-density")
    rates = {}
    for axes, (title, x) in zip(rest, panels, strict=True):
        own = log_prob(x)
        rates[title] = manifold.density_defects(own, reference)
        bad = own < np.quantile(reference, 0.001)
        axes.plot(*x[~bad].T, ".", markersize=1.5, color="C0", alpha=0.4, markeredgewidth=0)
        axes.plot(*x[bad].T, ".", markersize=4, color=_DEFECT, markeredgewidth=0)
        axes.set_title(f"{title}\n{100 * rates[title]:.1f} % defects")
    for axes in (first, *rest):
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[])
        axes.set_aspect("equal")
    figure.savefig(path, dpi=90)
    return rates
