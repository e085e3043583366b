"""The largest U-Net whose training fits an accelerator's memory.

    JAX_PLATFORMS=cpu python benchmarks/memory.py [--gib 16] [--batch 32] [--microbatch 8]
    JAX_PLATFORMS=cpu python benchmarks/memory.py --kept 96

The network of configs/cifar_gmm.py at 32x32x3 and that of configs/celeba_gmm.py at 64x64x3 with
other channels, in heads of 32, unconditional, in float32 and bfloat16. The update of one device is
compiled ahead of time and never run; no parameter is made. What it needs is arguments + temporaries
+ outputs - aliased of the compiler's own `memory_analysis()`: parameters, Adam's moments, two
averages, gradients, activations and a batch. Channels are multiples of 32, found by bisection.

The figures are of the compiler of the device that JAX finds. That of a CPU fuses less than that of
an accelerator, pads nothing, computes bfloat16 in float32, and takes away the barrier that keeps
rematerialised activations until they are needed: its figures are a proxy, and show nothing of
either. So `--kept` counts, for one number of channels and whatever the compiler, the activations
that JAX keeps between the network's output and its gradient.
"""

import argparse
import math
import pathlib
import runpy
import sys
import time

# A clone that is not installed works, too.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from gmm_diffusion import assembly
from gmm_diffusion.assembly.networks import log_variance
from gmm_diffusion.data.dataset import Dataset, Split
from gmm_diffusion.training import state as state_lib
from gmm_diffusion.types import Batch

CONFIGS = {32: "cifar_gmm", 64: "celeba_gmm"}
STEP = 32
# Channels near which each search ends with 16 GiB, so that few programs are compiled: plain,
# rematerialised, in microbatches.
STARTS = {32: (224, 352, 320), 64: (64, 192, 160)}
# How long the compiler works on the machine's instructions does not change what it allocates.
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def load(size, dtype):
    """The config of images of one size, unconditional."""
    path = pathlib.Path(__file__).resolve().parents[1] / "configs" / f"{CONFIGS[size]}.py"
    config = runpy.run_path(str(path))["get_config"]()
    config.conditioning.kind = "none"
    config.network.dtype = dtype
    # Heads that every multiple of STEP can be divided into.
    config.network.head_channels = STEP
    return config


def compiled_step(config, size, batch):
    """The compiled update of one device, and the number of the network's parameters."""
    images = np.random.default_rng(0).integers(0, 256, (20, size, size, 3), np.uint8)
    fitted = assembly.fit_statistics(config, Dataset("noise", Split(images), Split(images)))
    networks = {"network": assembly.network(config), "log_variance": log_variance(config)}
    image, level = jnp.zeros((1, size, size, 3)), jnp.zeros(1)
    inputs = {"network": (image, level), "log_variance": (level,)}

    def start():
        params = {
            part: module.init(jax.random.key(0), *inputs[part])["params"]
            for part, module in networks.items()
        }
        return state_lib.create(params, assembly.optimizer(config), len(config.training.ema_widths))

    state = jax.eval_shape(start)
    shapes = Batch(
        x=jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32),
        index=jax.ShapeDtypeStruct((batch,), jnp.int32),
        mask=jax.ShapeDtypeStruct((batch,), jnp.float32),
    )
    step = jax.jit(assembly.train_step_fn(config, fitted), donate_argnums=0)
    key = jax.eval_shape(lambda: jax.random.key(0))
    options = FAST if jax.default_backend() == "cpu" else None
    compiled = step.lower(state, shapes, key).compile(compiler_options=options)
    return compiled, sum(leaf.size for leaf in jax.tree.leaves(state.params["network"]))


def needed(config, size, batch):
    """`(bytes, parameters)` of an update."""
    compiled, num_params = compiled_step(config, size, batch)
    found = compiled.memory_analysis()
    held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return held + found.temp_size_in_bytes, num_params


def kept(config, size, batch):
    """`(bytes, parameters)`: activations that wait for the gradient, without the parameters."""
    network = assembly.network(config)
    image, level = jnp.zeros((1, size, size, 3)), jnp.zeros(1)
    params = jax.eval_shape(network.init, jax.random.key(0), image, level)["params"]

    def pullback(params, x, c_noise):
        return jax.vjp(lambda params: network.apply({"params": params}, x, c_noise), params)[1]

    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    levels = jax.ShapeDtypeStruct((batch,), jnp.float32)
    traced = jax.make_jaxpr(pullback)(params, images, levels).jaxpr
    given = {id(variable) for variable in traced.invars}
    # What several operations read waits once.
    waiting = {id(variable): variable.aval for variable in traced.outvars}
    num_bytes = sum(
        aval.size * aval.dtype.itemsize for key, aval in waiting.items() if key not in given
    )
    return num_bytes, sum(leaf.size for leaf in jax.tree.leaves(params))


def print_kept(sizes, dtypes, batch, channels):
    """The table of `--kept`."""
    print("| images | dtype | channels | parameters | kept GiB | rematerialised GiB |")
    print("|---|---|---|---|---|---|", flush=True)
    for size in sizes:
        for dtype in dtypes:
            config = load(size, dtype)
            config.network.channels = channels
            plain, num_params = kept(config, size, batch)
            config.training.rematerialize = True
            sparing, _ = kept(config, size, batch)
            print(
                f"| {size}x{size}x3 | {dtype} | {channels} | {num_params / 1e6:.0f} M | "
                f"{plain / 2**30:.2f} | {sparing / 2**30:.2f} |",
                flush=True,
            )


def largest(measure, limit, start):
    """The most channels whose `measure(channels)[0]` stays within `limit`; 0 if none does.

    Memory grows as a power of the channels between 1 (activations) and 2 (parameters). So what is
    too large by the first of them is not compiled, and a power law says what to try next.

    Args:
      measure: `(channels) -> (bytes, what else is wanted)`.
      limit: in bytes.
      start: the channels to try first.

    Returns:
      `(channels, what was measured of them)`.
    """
    tried = {}
    low, high, guess = 0, math.inf, start
    while high - low > STEP:
        tried[guess] = measure(guess)
        if tried[guess][0] <= limit:
            low = guess
            too_large = math.floor(low * limit / tried[low][0] / STEP + 1) * STEP
            high = min(high, too_large)
        else:
            high = guess
        near = sorted(tried, key=lambda c: abs(math.log(tried[c][0] / limit)))[:2]
        power = 1.5
        if len(near) == 2:
            power = math.log(tried[near[0]][0] / tried[near[1]][0]) / math.log(near[0] / near[1])
        wanted = near[0] * (limit / tried[near[0]][0]) ** (1 / min(max(power, 1), 2))
        guess = min(max(int(wanted) // STEP * STEP, low + STEP), high - STEP)
    return low, tried.get(low)


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gib", type=float, default=16.0, help="memory of a device")
    parser.add_argument("--batch", type=int, default=32, help="examples a device")
    parser.add_argument("--microbatch", type=int, default=8)
    parser.add_argument("--sizes", default="32,64", help="heights, of 32 and 64")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--kept", type=int, help="channels; counts activations, compiles nothing")
    arguments = parser.parse_args()
    sizes, dtypes = [int(s) for s in arguments.sizes.split(",")], arguments.dtypes.split(",")
    if arguments.kept:
        print_kept(sizes, dtypes, arguments.batch, arguments.kept)
        return
    ways = {
        "plain": (0, False),
        "rematerialize": (0, True),
        f"microbatch {arguments.microbatch}": (arguments.microbatch, False),
    }
    print("| images | dtype | training | channels | parameters | GiB | compiled | s |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for size in sizes:
        for dtype in dtypes:
            for start, (name, settings) in zip(STARTS[size], ways.items(), strict=True):
                config = load(size, dtype)
                config.training.microbatch, config.training.rematerialize = settings
                begin, compiles = time.perf_counter(), []

                def measure(channels, config=config, size=size, compiles=compiles):
                    config.network.channels = channels
                    compiles.append(channels)
                    return needed(config, size, arguments.batch)

                channels, found = largest(measure, arguments.gib * 2**30, start)
                taken, millions = (found[0] / 2**30, found[1] / 1e6) if found else (0, 0)
                print(
                    f"| {size}x{size}x3 | {dtype} | {name} | {channels} | {millions:.0f} M | "
                    f"{taken:.1f} | {' '.join(map(str, compiles))} | "
                    f"{time.perf_counter() - begin:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
