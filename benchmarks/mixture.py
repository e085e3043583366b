"""Fitting a mixture and its responsibilities beside scikit-learn and gmmx, in one run.

    python benchmarks/mixture.py [--repeats 3] [--threads 1]

Every measurement is a process of its own, peers taking turns. All use float32, the same data and
the same start (equal weights, points of the data as means, the data's covariance). First their mean
log-likelihoods after 1, 5 and 20 iterations are compared; peers that differ by more than 1e-4 stop
the run. Then `iteration` is the marginal cost (fit(20) - fit(1)) / 19 after a first, compiling
call, and `responsibilities` that of all points. Cells are the median over processes, with
(min-max), and how many times longer than ours. Memory is the growth of a process's peak over its
imports and data; for JAX, whose compiler is part of that, also the temporaries of the compiled fit.

With `--threads 1` every process is pinned to one core and its processor time is taken, which other
programs on the machine disturb much less than they do the time on the wall.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings

import numpy as np

CASES = (
    {"num_points": 20_000, "dim": 32, "num_components": 32, "kind": "diag"},
    {"num_points": 20_000, "dim": 32, "num_components": 32, "kind": "full"},
    {"num_points": 100_000, "dim": 16, "num_components": 64, "kind": "diag"},
)
PEERS = ("gmm_diffusion", "sklearn", "gmmx")
CURVE = (1, 5, 20)


def data(num_points: int, dim: int, num_components: int, kind: str):
    """Points `[N, D]` from Gaussians with means N(0, 4^2) and standard deviations 0.5 to 1.5, and
    a start: weights `[K]`, means `[K, D]`, covariances; all float32."""
    rng = np.random.default_rng(0)
    centers = rng.normal(0, 4, (num_components, dim))
    std = rng.uniform(0.5, 1.5, (num_components, dim))
    label = rng.integers(num_components, size=num_points)
    x = (centers[label] + std[label] * rng.normal(size=(num_points, dim))).astype(np.float32)
    one = np.cov(x.T) if kind == "full" else x.var(axis=0)
    covariances = np.stack([one] * num_components).astype(np.float32)
    weights = np.full(num_components, 1 / num_components, np.float32)
    return x, (weights, x[:num_components].copy(), covariances)


def peer(name: str, x, start, kind: str):
    """`fit(iterations)` -> a model, `score(model)`, `responsibilities(model)`, `temporaries()`."""
    num_components = len(start[0])
    if name == "sklearn":
        from sklearn.mixture import GaussianMixture

        warnings.simplefilter("ignore")
        precisions = np.linalg.inv(start[2]) if kind == "full" else 1 / start[2]

        def fit(iterations):
            return GaussianMixture(
                num_components, covariance_type=kind, tol=0, max_iter=iterations,
                init_params="random_from_data", weights_init=start[0], means_init=start[1],
                precisions_init=precisions, random_state=0,
            ).fit(x)  # fmt: skip

        return fit, lambda m: m.score(x), lambda m: m.predict_proba(x), lambda: 0
    import jax

    device_x = jax.numpy.asarray(x)
    if name == "gmmx":
        from gmmx import EMFitter, GaussianMixtureModelJax

        mix = GaussianMixtureModelJax.from_squeezed(start[1], start[2], start[0], kind)

        def fit(iterations):
            result = EMFitter(max_iter=iterations, tol=0).fit(device_x, mix)
            return jax.block_until_ready(result.gmm)

        def temporaries():
            lowered = EMFitter.fit.lower(EMFitter(max_iter=20, tol=0), device_x, mix)
            return lowered.compile().memory_analysis().temp_size_in_bytes

        return (
            fit,
            lambda m: float(m.score(device_x)),
            lambda m: m.predict_proba(device_x).block_until_ready(),
            temporaries,
        )
    from gmm_diffusion import mixture
    from gmm_diffusion.mixture import blocks, em, standardise

    mix = mixture.GaussianMixture.create(*start, kind)
    key = jax.random.key(0)

    def fit(iterations):
        return mixture.fit_em(
            key, x, num_components, kind, start=mix, max_iterations=iterations, tolerance=0.0
        ).mixture

    def temporaries():
        transform = standardise.measure([(x, None)], kind, False)
        starts = jax.tree.map(lambda a: a[None], transform.parameters(mix))
        split = blocks.split(transform.forward(x), None, num_components)
        lowered = em._fit.lower(starts, *split, key, 1e-6, 0.0, 20, history_size=256)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    return (
        fit,
        lambda m: mixture.mean_log_likelihood(m, x),
        lambda m: mixture.responsibilities(m, device_x).block_until_ready(),
        temporaries,
    )


def worker(name: str, case: dict, curve: bool, threads: int) -> dict:
    """One peer on one case, in this process."""
    clock = time.process_time if threads == 1 else time.perf_counter
    x, start = data(**case)
    fit, score, responsibilities, temporaries = peer(name, x, start, case["kind"])
    if curve:
        return {"curve": [float(score(fit(n))) for n in CURVE]}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = {1: [], 20: [], "responsibilities": []}
    model = fit(1), fit(20)
    for _ in range(3):
        for iterations in (1, 20):
            begin = clock()
            model = fit(iterations)
            times[iterations].append(clock() - begin)
    responsibilities(model)
    for _ in range(9):
        begin = clock()
        responsibilities(model)
        times["responsibilities"].append(clock() - begin)
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    median = {k: statistics.median(v) for k, v in times.items()}
    return {
        "iteration": (median[20] - median[1]) / 19 * 1e3,
        "responsibilities": median["responsibilities"] * 1e3,
        "growth": growth / 1024,
        "temporaries": temporaries() / 2**20,
    }


def call(name: str, case: dict, threads: int, curve: bool = False) -> dict:
    """`worker` in a process of its own."""
    command = [sys.executable, __file__, "--worker", json.dumps([name, case, curve, threads])]
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
    environment = os.environ | {"PYTHONPATH": path}
    if threads:
        environment |= {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "OPENBLAS")}
        command = ["taskset", "--cpu-list", f"0-{threads - 1}", *command]
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="pin to so many cores (0: all)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(worker(*json.loads(arguments.worker))))
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start\n")
    print("| N, D, K, kind | peer | iteration ms | ratio | responsibilities ms | ratio "
          "| growth MiB | temporaries MiB |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    for case in CASES:
        curves = {name: call(name, case, arguments.threads, True)["curve"] for name in PEERS}
        for name, curve in curves.items():
            if not np.allclose(curve, curves["sklearn"], rtol=1e-4):
                sys.exit(f"{name} and sklearn differ on {case}: {curve}, {curves['sklearn']}")
        runs = {name: [] for name in PEERS}
        for _ in range(arguments.repeats):
            for name in PEERS:
                runs[name].append(call(name, case, arguments.threads))
        middle = {
            name: {k: statistics.median(r[k] for r in several) for k in several[0]}
            for name, several in runs.items()
        }
        for name, several in runs.items():
            cells = [", ".join(str(v) for v in case.values()), name]
            for quantity in ("iteration", "responsibilities"):
                values = [r[quantity] for r in several]
                cells.append(f"{middle[name][quantity]:.1f} ({min(values):.1f}-{max(values):.1f})")
                cells.append(f"{middle[name][quantity] / middle[PEERS[0]][quantity]:.1f}x")
            cells.append(f"{middle[name]['growth']:.0f}")
            cells.append(f"{middle[name]['temporaries']:.1f}" if name != "sklearn" else "-")
            print("| " + " | ".join(cells) + " |", flush=True)
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
