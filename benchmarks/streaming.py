"""What streamed input costs, and that a data set larger than the memory trains.

    python benchmarks/streaming.py [--parts input,loop,memory] [--config configs/digits_gmm.py]

input   images a second that are read, decoded and put into batches, nothing else running: a folder
        of PNG and of JPEG, and records of array_record, by one thread, by one a core, and by one
        process a core, which training does not use
loop    training's own loop over the folder of PNG, beside the same updates on one batch that is
        there already; milliseconds an update, in turns, the least and (median-most)
memory  a process that may take --allowed MiB more than Python and its libraries (a limit of
        addresses, as `ulimit -v` sets) trains on a folder that takes --times as much decoded;
        data.in_memory is auto, the mixture fitted and mirror images included
"""

import argparse
import contextlib
import functools
import io
import os
import pathlib
import resource
import runpy
import subprocess
import sys
import tempfile
import time

# A clone that is not installed works, too.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import grain
import jax
import numpy as np
from absl import flags
from PIL import Image

from gmm_diffusion import assembly, devices
from gmm_diffusion import config as config_lib
from gmm_diffusion.assembly import initialisation
from gmm_diffusion.commands import step_batches, train
from gmm_diffusion.commands.parts import Parts
from gmm_diffusion.data import Dataset, Split, batches, image_folder, streaming, tfds_images
from gmm_diffusion.training import state as state_lib

CIFAR_GMM = pathlib.Path(__file__).resolve().parents[1] / "configs" / "cifar_gmm.py"
MIB = 1 << 20
_PICTURES = 512


@functools.cache
def encoded(i, size, suffix):
    """A picture of smooth colours and a little noise, which no encoder finds hard or empty."""
    rng = np.random.default_rng(i)
    corners = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    smooth = np.asarray(corners.resize((size, size), Image.Resampling.BICUBIC)).astype(int)
    pixels = np.clip(smooth + rng.integers(-8, 9, smooth.shape), 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, {"png": "PNG", "jpg": "JPEG"}[suffix], quality=90)
    return stream.getvalue()


def write_folder(place, num, size, suffix):
    for i in range(num):
        file = place / f"{i // 1000:03}" / f"{i:06}.{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(i % _PICTURES, size, suffix))
    return place


def write_records(place, num, size):
    """The same pictures as TFDS keeps them."""
    import tensorflow_datasets as tfds

    class Pictures(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"image": tfds.features.Image(shape=(size, size, 3))}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(num):
                yield i, {"image": io.BytesIO(encoded(i % _PICTURES, size, "png"))}

    Pictures(data_dir=place, file_format="array_record").download_and_prepare()
    return place


def rows_of(num, batch, step):
    return batches.indices(0, step, batch, num)[0]


def rate(read, batch, seconds):
    """Images a second of an iterator after its first batches."""
    for _ in range(4):
        next(read)
    begin = time.perf_counter()
    count = 0
    while time.perf_counter() - begin < seconds:
        next(read)
        count += batch
    return count / (time.perf_counter() - begin)


def in_processes(x, rows, steps, num):
    """As `streaming.read_ahead`, by processes."""
    flags.FLAGS.mark_as_parsed()  # grain asks for flags of its own.
    source = grain.MapDataset.source(streaming._Batches(x, rows, steps))
    read = source.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
    return iter(read.mp_prefetch(grain.MultiprocessingOptions(num_workers=num)))


def measure_input(folder, arguments):
    num, size, batch = arguments.images, arguments.size, arguments.batch
    cores = os.cpu_count()
    png, jpg = (write_folder(folder / suffix, num, size, suffix) for suffix in ("png", "jpg"))
    write_records(folder / "records", num, size)
    sources = {
        f"folder, {suffix}": image_folder.load(str(place), in_memory="never").train.x
        for suffix, place in (("PNG", png), ("JPEG", jpg))
    }
    records = tfds_images.load(
        "pictures", str(folder / "records"), heldout_split=None, in_memory="never"
    )
    sources["array_record, PNG"] = records.train.x
    print(f"| source, {size}x{size} | 1 thread | {cores} threads | {cores} processes |")
    print("|---|---|---|---|")
    for name, x in sources.items():
        rows, steps = functools.partial(rows_of, len(x), batch), range(1 << 20)
        cells = []
        for read in (
            streaming.read_ahead(x, rows, steps, 1),
            streaming.read_ahead(x, rows, steps),
            in_processes(x, rows, steps, cores),
        ):
            with contextlib.closing(read):
                cells.append(f"{rate(read, batch, arguments.seconds):.0f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def text(values):
    values = 1000 * np.array(values)
    return f"{values.min():.1f} ({np.median(values):.1f}-{values.max():.1f})"


def measure_loop(folder, arguments):
    png = folder / "png"
    if not png.exists():
        write_folder(png, arguments.images, arguments.size, "png")
    config = runpy.run_path(arguments.config)["get_config"]()
    config.conditioning.kind = "none"
    config.data.name, config.data.data_dir = "image_folder", str(png)
    config.data.validation_fraction, config.data.resolution = 0.0, 0
    config.training.batch_size, config.training.steps_per_call = arguments.batch, 1
    taken = {}
    for choice in ("always", "never"):
        config.data.in_memory = choice
        data = assembly.dataset(config)
        fitted, weights = initialisation.fit_with_weights(config, data)
        params = assembly.init_params(config, data.shape, fitted)
        optimizer = assembly.optimizer(config)
        widths = len(config.training.ema_widths)
        state = devices.replicate(state_lib.create(params, optimizer, widths))
        step = devices.make_train_steps(assembly.train_step_fn(config, fitted))
        source = step_batches.source(Parts(config, folder, data, fitted, weights))
        key, calls = jax.random.key(0), arguments.steps
        fixed = source(0, 1)
        state, _ = jax.block_until_ready(step(state, fixed, key))
        source = step_batches.source(Parts(config, folder, data, fitted, weights))
        bare, loop = [], []
        upcoming = source(0, calls)
        for i in range(calls):
            begin = time.perf_counter()
            state, metrics = step(state, fixed, key)
            jax.device_get(metrics)
            bare.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            state, metrics = step(state, upcoming, key)
            # As in training: the host prepares the next call while the devices work.
            upcoming = source(i + 1, calls)
            jax.device_get(metrics)
            loop.append(time.perf_counter() - begin)
        taken[choice] = bare, loop
    print("| input | bare step ms | loop ms | loop/bare, of the medians |")
    print("|---|---|---|---|")
    for choice, (bare, loop) in taken.items():
        name = {"always": "in memory", "never": "streamed"}[choice]
        ratio = np.median(bare) / np.median(loop)
        print(f"| {name} | {text(bare)} | {text(loop)} | {100 * ratio:.1f} % |")


def measure_memory(folder, arguments):
    size, allowed = 256, arguments.allowed * MIB
    num = int(arguments.times * allowed / (3 * size**2))
    place = write_folder(folder / "large", num, size, "png")
    on_disk = sum(file.stat().st_size for file in place.rglob("*.png")) / MIB
    line = [sys.executable, __file__, f"--allowed={arguments.allowed}", f"--one={place}"]
    begin = time.perf_counter()
    subprocess.run(line, check=True)
    print(
        f"{num} images of {size}x{size}, {on_disk:.0f} MiB on disk; "
        f"{time.perf_counter() - begin:.0f} s with the fit"
    )


def train_within(place, allowed):
    """One line of the memory taken."""
    config = config_lib.default()
    config.data.name, config.data.data_dir, config.data.flip = "image_folder", place, True
    config.conditioning.per_class = False
    config.conditioning.num_components = config.conditioning.feature_dim = 8
    config.network.channels, config.network.channel_mult = 8, (1,)
    config.network.attention_resolutions, config.network.attention_middle = (), False
    # An update of more of them would itself take the memory that is for the data.
    config.training.batch_size, config.training.num_steps = 2 * jax.device_count(), 6
    config.training.steps_per_call, config.training.heldout_every = 2, 0
    config.training.tensorboard = config.evaluation.at_end = False
    # Imports, and the threads of the compiler.
    tiny = Dataset("black", *2 * [Split(np.zeros((4, 8, 8, 3), np.uint8))])
    jax.jit(lambda x: x + 1)(tiny.train.x)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + allowed * MIB,) * 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    data = assembly.dataset(config)
    size = (data.train.x.nbytes + data.heldout.x.nbytes + data.validation.x.nbytes) / MIB
    print(f"streamed: {data.train.streamed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        train.train(config, os.path.join(folder, "run"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("| decoded MiB | allowed MiB | growth of resident memory MiB | peak MiB |")
    print("|---|---|---|---|")
    print(f"| {size:.0f} | {allowed} | {peak - before:.0f} | {peak:.0f} |", flush=True)


def main() -> None:
    """Prints Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="input,loop,memory")
    parser.add_argument("--config", default=str(CIFAR_GMM), help="whose network is taken")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=32, help="height and width")
    parser.add_argument("--seconds", type=float, default=10, help="of each cell of input")
    parser.add_argument("--steps", type=int, default=20, help="updates of loop")
    parser.add_argument("--allowed", type=int, default=1024, help="MiB, of memory")
    parser.add_argument("--times", type=float, default=4, help="of that, decoded")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        train_within(arguments.one, arguments.allowed)
        return
    measures = {"input": measure_input, "loop": measure_loop, "memory": measure_memory}
    with tempfile.TemporaryDirectory() as folder:
        for part in arguments.parts.split(","):
            measures[part](pathlib.Path(folder), arguments)
            print()
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
