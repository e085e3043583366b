"""The table and the figure of the manifold experiment."""

import pathlib

import numpy as np

from experiments import markdown
from experiments.manifold import Problem

# A run has arrived at a tenth of the manifold's radius.
ARRIVED = 0.1


def final(learned: np.ndarray) -> np.ndarray:
    """Mean distance over the last tenth of each run, infinite for one that diverged.

    `[rates, seeds, T + 1] -> [rates, seeds]`.
    """
    tail = learned[..., -max(learned.shape[-1] // 10, 1) :].mean(axis=-1)
    return np.where(np.isfinite(tail), tail, np.inf)


def best(learned: np.ndarray) -> int:
    """The rate whose runs end nearest in the mean; of those that do, the one that arrives first."""
    ends = final(learned).mean(axis=1)
    near = np.flatnonzero(ends <= max(ARRIVED, ends.min()))
    return int(near[np.argmin([_steps(learned[r]).mean() for r in near])])


def table(learned: dict[str, np.ndarray], problem: Problem) -> str:
    """Markdown: how far each cost brings the position, at its own best rate.

    Means over seeds ± half of Student's 95 % interval.
    """
    head = ["cost", "final distance", f"updates to {ARRIVED:g}", "rates that arrive", "best rate"]
    rows = []
    for name, runs in learned.items():
        chosen = best(runs)
        ends, steps = final(runs)[chosen], _steps(runs[chosen])
        arrived = np.array(problem.rates)[(final(runs) <= ARRIVED).all(axis=1)]
        span = f"{arrived.min():.2g} to {arrived.max():.2g}" if arrived.size else "none"
        reached = np.isfinite(steps).all()
        rows.append(
            [
                name,
                markdown.mean(ends) if np.isfinite(ends).all() else "diverged",
                markdown.mean(steps, 0) if reached else "-",
                span,
                f"{problem.rates[chosen]:.2g}",
            ]
        )
    return markdown.table(head, rows)


def figure(
    curves: dict[str, tuple[np.ndarray, np.ndarray]],
    distances: np.ndarray,
    learned: dict[str, np.ndarray],
    file: pathlib.Path,
) -> None:
    """Cost and gradient over the distance, and the distance while learning at the best rates.

    The first of the distances is 0, where costs count from.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 3, figsize=(15, 4.5))
    for i, (name, (cost, slope)) in enumerate(curves.items()):
        style = {"color": f"C{i}", "label": name, "linestyle": "--" if i % 2 else "-"}
        axes[0].plot(distances[1:], np.maximum(cost[1:] - cost[0], 1e-9), **style)
        axes[1].plot(distances[1:], np.maximum(slope[1:], 1e-9), **style)
        runs = learned[name][best(learned[name])]
        axes[2].plot(np.where(np.isfinite(runs), runs, np.nan).mean(axis=0), **style)
    for axis in axes[:2]:
        axis.set(xscale="log", yscale="log", xlabel="distance", ylim=(1e-7, None))
    axes[0].set_title("cost above that at distance 0")
    axes[1].set_title("its derivative by the distance")
    axes[2].set(yscale="log", xlabel="update", title="distance while learning, best rates")
    axes[2].legend(fontsize=8)
    for axis in axes:
        axis.grid(alpha=0.3)
    fig.tight_layout()
    fig.savefig(file, dpi=90)
    plt.close(fig)


def _steps(runs: np.ndarray) -> np.ndarray:
    """First update at which each run has arrived, infinite if it never does: `[seeds, T + 1]`."""
    there = runs <= ARRIVED
    return np.where(there.any(axis=1), there.argmax(axis=1), np.inf)
