"""A mixture of many components, fitted to more points than one would hold, beside a peer's sample.

    python benchmarks/mixture_stream.py [--points 1000000] [--dim 64] [--components 1024]

gmm_diffusion  `fit_em_stream` over all points in a file, read a batch at a time; diagonal
sklearn        `GaussianMixture`, diagonal, on a sample of --sample points, as many iterations
faiss          `Kmeans` on a sample of its own usual size, 256 points a component; no mixture

Every peer is a process of its own, one after another. `fit` is what a user waits for, with the
start and the compiler. Growth is that of a process's peak memory over Python, its libraries and,
of the two peers, their sample. All are scored on the same held-out points: the mean log-likelihood,
and the mean squared distance to the nearest mean, which is what k-means minimises.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
import warnings

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
PEERS = ("gmm_diffusion", "sklearn", "faiss")
BATCH = 1 << 16
HELDOUT = 20_000


def write_points(path, num_points: int, dim: int, num_clusters: int) -> None:
    """`[N, D]` float32 around so many centres from N(0, 2^2), standard deviations 0.5 to 1.5."""
    rng = np.random.default_rng(0)
    centers = rng.normal(0, 2, (num_clusters, dim)).astype(np.float32)
    std = rng.uniform(0.5, 1.5, (num_clusters, dim)).astype(np.float32)
    out = np.lib.format.open_memmap(path, "w+", np.float32, (num_points, dim))
    for begin in range(0, num_points, BATCH):
        label = rng.integers(num_clusters, size=min(BATCH, num_points - begin))
        noise = rng.standard_normal((len(label), dim), np.float32)
        out[begin : begin + len(label)] = centers[label] + std[label] * noise


def fit_gmm_diffusion(path, num_components, iterations, sample):
    """`(fit, N)`: `fit()` returns the means `[K, D]` and what scores points, or None."""
    import jax

    from gmm_diffusion import mixture

    def batches():
        # Opened in every pass: what has been read does not stay.
        points = np.load(path, mmap_mode="r")[HELDOUT:]
        for begin in range(0, len(points), BATCH):
            yield np.asarray(points[begin : begin + BATCH])

    def fit():
        mix = mixture.fit_em_stream(
            jax.random.key(0), batches, num_components, max_iterations=iterations, tolerance=0.0
        ).mixture
        return np.asarray(mix.means), lambda x: float(mixture.mean_log_likelihood(mix, x))

    return fit, len(np.load(path, mmap_mode="r")) - HELDOUT


def fit_sklearn(path, num_components, iterations, sample):
    """As `fit_gmm_diffusion`."""
    from sklearn.mixture import GaussianMixture

    warnings.simplefilter("ignore")
    x = np.array(np.load(path, mmap_mode="r")[HELDOUT : HELDOUT + sample])

    def fit():
        model = GaussianMixture(
            num_components, covariance_type="diag", tol=0, max_iter=iterations,
            init_params="k-means++", random_state=0,
        ).fit(x)  # fmt: skip
        return model.means_, lambda points: float(model.score(points))

    return fit, len(x)


def fit_faiss(path, num_components, iterations, sample):
    """As `fit_gmm_diffusion`."""
    import faiss

    x = np.array(np.load(path, mmap_mode="r")[HELDOUT : HELDOUT + 256 * num_components])

    def fit():
        kmeans = faiss.Kmeans(x.shape[1], num_components, niter=iterations, seed=0)
        kmeans.train(x)
        return kmeans.centroids, None

    return fit, len(x)


def distance(means, x) -> float:
    """Mean squared distance `[N, D]` to the nearest of `[K, D]`, in float64."""
    means, least = means.astype(np.float64), []
    for block in np.array_split(x.astype(np.float64), max(len(x) // 1000, 1)):
        square = (block**2).sum(1)[:, None] + (means**2).sum(1) - 2 * block @ means.T
        least.append(square.min(1))
    return float(np.concatenate(least).mean())


def worker(name, path, num_components, iterations, sample) -> dict:
    """One peer, in this process."""
    maker = {"gmm_diffusion": fit_gmm_diffusion, "sklearn": fit_sklearn, "faiss": fit_faiss}[name]
    fit, num_points = maker(path, num_components, iterations, sample)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    means, score = fit()
    seconds = time.perf_counter() - begin
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    heldout = np.array(np.load(path, mmap_mode="r")[:HELDOUT])
    return {
        "points": num_points,
        "seconds": seconds,
        "growth": growth,
        "log_likelihood": None if score is None else score(heldout),
        "distance": distance(means, heldout),
    }


def call(*arguments) -> dict:
    """`worker` in a process of its own."""
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
    result = subprocess.run(
        [sys.executable, __file__, "--worker", json.dumps(arguments)],
        check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--components", type=int, default=1024)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--sample", type=int, default=100_000, help="points that sklearn gets")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(worker(*json.loads(arguments.worker))))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "points.npy")
        write_points(path, arguments.points + HELDOUT, arguments.dim, arguments.components)
        print("| peer | points | fit s | us an iteration and point | growth MiB | log-likelihood "
              "| squared distance |\n|---|---|---|---|---|---|---|")  # fmt: skip
        for name in arguments.peers.split(","):
            found = call(name, path, arguments.components, arguments.iterations, arguments.sample)
            likelihood = found["log_likelihood"]
            each = found["seconds"] / arguments.iterations / found["points"] * 1e6
            print(
                f"| {name} | {found['points']} | {found['seconds']:.1f} | {each:.2f} "
                f"| {found['growth']:.0f} | {'-' if likelihood is None else f'{likelihood:.2f}'} "
                f"| {found['distance']:.2f} |",
                flush=True,
            )
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
