"""What a step's input costs beside the step.

    python benchmarks/input.py [--config configs/digits_gmm.py] [--batch 128]

CIFAR-10-like images (32x32, RGB, uint8, random) are gathered, mirrored and centred on the host and
put on the device, as in training; beside it the update of the U-Net of configs/cifar_gmm.py or of
another config, unconditional. Milliseconds a batch, the least and (median-most) over the calls,
since other work on the machine only adds; the share is that of the least. Each call is waited for:
training itself prepares a batch while the device works on the one before.
"""

import argparse
import os
import pathlib
import runpy
import sys
import time

# A clone that is not installed works, too.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import numpy as np

from gmm_diffusion import assembly
from gmm_diffusion.data import batches
from gmm_diffusion.data.dataset import Dataset, Split
from gmm_diffusion.training import state as state_lib
from gmm_diffusion.types import Batch

CIFAR_GMM = pathlib.Path(__file__).resolve().parents[1] / "configs" / "cifar_gmm.py"


def milliseconds(call, repeats):
    """`(least, "least (median-most)")` over calls after a first."""
    call(0)
    taken = []
    for i in range(1, repeats + 1):
        begin = time.perf_counter()
        call(i)
        taken.append(1000 * (time.perf_counter() - begin))
    return min(taken), f"{min(taken):.2f} ({np.median(taken):.2f}-{max(taken):.2f})"


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default=str(CIFAR_GMM), help="whose network is taken")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    config = runpy.run_path(arguments.config)["get_config"]()
    config.conditioning.kind = "none"
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (arguments.examples, 32, 32, 3), dtype=np.uint8)
    data = Dataset("random images", Split(x), Split(x[:100]))
    fitted = assembly.fit_statistics(config, data)
    host = jax.device_get(fitted.transform)

    def host_input(i):
        index, flipped = batches.indices(0, i, arguments.batch, len(x), flip=True)
        return batches.make_batch(x, index, flipped, host)

    def whole_input(i):
        return jax.block_until_ready(jax.device_put(host_input(i)))

    params = assembly.init_params(config, data.shape, fitted)
    state = state_lib.create(params, assembly.optimizer(config), len(config.training.ema_widths))
    step = jax.jit(assembly.train_step_fn(config, fitted), donate_argnums=0)
    batch = Batch(
        x=whole_input(0),
        index=np.arange(arguments.batch, dtype=np.int32),
        mask=np.ones(arguments.batch, np.float32),
        weights=None,
    )

    def update(i):
        nonlocal state
        state, metrics = jax.block_until_ready(step(state, batch, jax.random.key(0)))
        return metrics

    _, on_host = milliseconds(host_input, 50)
    put, with_put = milliseconds(whole_input, 50)
    took, own = milliseconds(update, arguments.steps)
    millions = sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6
    print("| device | batch | parameters | host ms | host and transfer ms | step ms | input/step |")
    print("|---|---|---|---|---|---|---|")
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    print(
        f"| {device} | {arguments.batch} | {millions:.1f} M | {on_host} | {with_put} | {own} | "
        f"{100 * put / took:.2f} % |"
    )
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
