"""Training, sampling, guidance, EM and the loop on one accelerator, beside what the card can do.

    python benchmarks/gpu.py [--minutes 8]

One call, one device. It needs jax, flax, optax, orbax and this package, and neither TensorFlow, clu
nor ml_collections. Parts come in the order of what matters most, each prints its row at once, and
a part that would not end within `--minutes` by what those before it took is left out, which it
says. U-Nets of about 10, 50 and 150 M parameters compute in bfloat16.

card      TFLOP/s of a product of two large square matrices in bfloat16, and of float32 ones at full
          precision, as EM takes them; GB/s of reading and writing a large array
update    forwards, backwards, Adam and two averages. Beside it model FLOPs utilisation: three
          times the forward products (operations.py) by the images a second, of the card's bfloat16
          rate. Aim: 45 %
sampling  18 Heun steps, 35 evaluations; beside it the share of the bfloat16 rate
guidance  the same, guided by a second network at all noise levels; beside it how many times as
          long as without. Aim: 1.6
EM        an iteration on the cells of mixture.py; beside it how many times as long as the longer of
          its products at the card's float32 rate and their operands and results at its bandwidth
loop      an update within the loop: batches of 60,000 images of 32x32 made on the host and moved,
          metrics fetched, a look at the state every 50 updates, averages and a checkpoint written
          every 400. Beside it the share that is the bare update, whose batch stays on the card.
          Aim: 95 %

`--toy` takes sizes for a CPU, which tell nothing of speed.
"""

import argparse
import dataclasses
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

# A clone that is not installed works, too.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import em_iteration, mixture, operations
from benchmarks.timing import median_seconds
from benchmarks.unconditional import EMA_WIDTHS, Case, Training, batches_of, noise_batches, sampler
from gmm_diffusion import devices
from gmm_diffusion.data import batches
from gmm_diffusion.runs import snapshots, storage


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
      matrix: rows and columns of the products' matrices.
      copied: entries of the array that is read and written.
      networks: by their rough number of parameters: channels, multipliers, blocks, and by the side
        of the images how many are in a batch.
      first: name of the network that is sampled from.
      small: name of the network that guides it, and that the loop trains.
      attention: heights that attend.
      updates: in a call.
      heun_steps: of the sampler.
      em_cells: as of `mixture.data`.
      em_iterations: timed together.
      loop_images: in memory.
      loop_batches: sizes of batches.
      loop_updates: timed, a multiple of `updates`.
      look_every: updates between looks at the state.
      save_every: updates between checkpoints.
    """

    matrix: int
    copied: int
    networks: dict[str, tuple[int, tuple[int, ...], int, dict[int, int]]]
    first: str
    small: str
    attention: tuple[int, ...]
    updates: int
    heun_steps: int
    em_cells: tuple[dict, ...]
    em_iterations: int
    loop_images: int
    loop_batches: tuple[int, ...]
    loop_updates: int
    look_every: int
    save_every: int


FULL = Sizes(
    matrix=8192,
    copied=2**28,
    networks={
        "10 M": (64, (1, 2, 2), 3, {32: 512, 64: 128}),
        "50 M": (128, (1, 2, 3), 2, {32: 256, 64: 64}),
        "150 M": (256, (1, 2, 2), 3, {32: 128, 64: 32}),
    },
    first="50 M",
    small="10 M",
    attention=(16, 8),
    updates=10,
    heun_steps=18,
    em_cells=mixture.CASES,
    em_iterations=200,
    loop_images=60_000,
    loop_batches=(128, 512),
    loop_updates=400,
    look_every=50,
    save_every=400,
)
TOY = Sizes(
    matrix=128,
    copied=2**16,
    networks={"toy": (4, (1,), 1, {8: 4})},
    first="toy",
    small="toy",
    attention=(),
    updates=2,
    heun_steps=2,
    em_cells=(
        {"num_points": 500, "dim": 4, "num_components": 3, "kind": "diag"},
        {"num_points": 500, "dim": 4, "num_components": 3, "kind": "full"},
    ),
    em_iterations=4,
    loop_images=64,
    loop_batches=(4,),
    loop_updates=4,
    look_every=2,
    save_every=4,
)


class Card:
    """What the device was measured to do; None before that, or where it failed."""

    matrix_flops: float | None = None
    exact_flops: float | None = None
    bytes_per_second: float | None = None


class Pace:
    """Whether a part fits what is left, by what the parts before it took."""

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic):
        self._clock, self._begin, self._allowed = clock, clock(), 60 * minutes
        self._guessed = self._taken = 0.0

    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._begin

    def predicted(self, guess: float) -> float:
        """A guess in seconds, scaled as those before it turned out to be too short or too long."""
        return guess * (self._taken / self._guessed if self._guessed else 1.0)

    def fits(self, guess: float) -> bool:
        """Whether a part that was guessed to take so long would end in time."""
        return self.elapsed() + self.predicted(guess) <= self._allowed

    def note(self, guess: float, taken: float) -> None:
        """What a part was guessed to take, and took, in seconds."""
        self._guessed += guess
        self._taken += taken


def out_of_memory(error: Exception) -> bool:
    """Whether a device had too little memory."""
    return "RESOURCE_EXHAUSTED" in str(error)


def halving(batch: int, measure: Callable[[int], object]):
    """`(batch, measure(batch))` of the largest halving of `batch` that fits the memory."""
    while True:
        try:
            return batch, measure(batch)
        except jax.errors.JaxRuntimeError as error:
            if not out_of_memory(error) or batch == 1:
                raise
        # Outside of the handler, whose traceback holds the arrays.
        jax.clear_caches()
        batch //= 2


def several(call: Callable[[], jax.Array], count: int) -> float:
    """Seconds a call, of some that wait for the device only together; the median of five."""

    def calls():
        for _ in range(count):
            result = call()
        jax.block_until_ready(result)

    return median_seconds(calls, 5, 0.2) / count


class Measure:
    """The parts; each returns its cells: what was measured, and that beside the card."""

    def __init__(self, sizes: Sizes):
        self.sizes, self.card = sizes, Card()

    def case(self, name: str, side: int) -> tuple[Case, int]:
        """A network, and how many images a batch has."""
        channels, mult, num_blocks, sides = self.sizes.networks[name]
        attention = self.sizes.attention
        case = Case(side, channels, mult, num_blocks, attention, dtype="bfloat16")
        return case, sides[side]

    def share(self, flops: float) -> str:
        """FLOP/s as a share of the card's bfloat16 rate."""
        rate = self.card.matrix_flops
        return "-" if rate is None else f"{100 * flops / rate:.3g} % of bfloat16"

    def products(self) -> tuple[str, str]:
        """The card."""
        size, rates = self.sizes.matrix, []
        exact = jax.lax.Precision.HIGHEST
        for dtype, precision in ((jnp.bfloat16, None), (jnp.float32, exact)):
            a, b = (
                jax.random.normal(jax.random.key(i), (size, size), jnp.float32).astype(dtype)
                for i in range(2)
            )
            product = jax.jit(lambda a, b, p=precision: jnp.matmul(a, b, precision=p))
            rates.append(2 * size**3 / several(lambda a=a, b=b, f=product: f(a, b), 10))
        x, add = jnp.zeros(self.sizes.copied, jnp.float32), jax.jit(lambda x: x + 1)
        moved = 2 * x.nbytes / several(lambda: add(x), 10)
        self.card.matrix_flops, self.card.exact_flops = rates
        self.card.bytes_per_second = moved
        text = f"{rates[0] / 1e12:.3g} TFLOP/s in bfloat16, {rates[1] / 1e12:.3g} in float32"
        return f"{text}, {moved / 1e9:.3g} GB/s", "-"

    def update(self, name: str, side: int) -> tuple[str, str]:
        """One network on one size of images."""
        case, most = self.case(name, side)

        def measure(batch):
            training = Training(case)
            given = training.place(noise_batches(case, self.sizes.updates, batch))
            return median_seconds(lambda: training.call(given), 5, 1.0) / self.sizes.updates

        batch, seconds = halving(most, measure)
        count = case.count()
        measured = (
            f"{count.parameters / 1e6:.3g} M, batch {batch}: {1e3 * seconds:.4g} ms, "
            f"{batch / seconds:.4g} images/s"
        )
        return measured, self.share(count.update_flops * batch / seconds)

    def draw(self, case, batch, guide=None):
        """Seconds of a batch of samples."""
        params = case.parameters()
        guide_params = None if guide is None else guide.parameters(1)
        keys = devices.example_keys(0, batch)
        sample = sampler(case, self.sizes.heun_steps, guide)
        return median_seconds(
            lambda: jax.block_until_ready(sample(params, guide_params, keys)), 5, 1.0
        )

    def sampling(self, name: str, side: int) -> tuple[str, str]:
        """Samples of one network."""
        case, most = self.case(name, side)
        batch, seconds = halving(most, lambda batch: self.draw(case, batch))
        evaluations = 2 * self.sizes.heun_steps - 1
        flops = evaluations * case.count().forward_flops * batch / seconds
        return f"batch {batch}: {batch / seconds:.4g} images/s", self.share(flops)

    def guidance(self, name: str, guide_name: str, side: int) -> tuple[str, str]:
        """Samples of one network guided by another, beside those of it alone."""
        (case, most), (guide, _) = self.case(name, side), self.case(guide_name, side)

        def measure(batch):
            return self.draw(case, batch, guide), self.draw(case, batch)

        batch, (both, alone) = halving(most, measure)
        ratio = 1 + guide.count().products / case.count().products
        return (
            f"batch {batch}: {batch / both:.4g} images/s",
            f"{both / alone:.2f} times as long as without; {ratio:.2f} times the operations",
        )

    def em(self, cell: dict) -> tuple[str, str]:
        """An iteration of EM on one cell."""
        x, start = mixture.data(**cell)
        seconds = em_iteration.seconds(x, start, cell["kind"], self.sizes.em_iterations)
        count = operations.em(**cell)
        rates = self.card.exact_flops, self.card.bytes_per_second
        beside = "-"
        if None not in rates:
            needed = {
                "products": 2 * count.products / rates[0],
                "bytes": count.num_bytes / rates[1],
            }
            most = max(needed, key=needed.get)
            beside = f"{seconds / needed[most]:.1f} times its {most}, {1e3 * needed[most]:.3g} ms"
        return f"{1e3 * seconds:.3g} ms an iteration", beside

    def loop(self, batch: int) -> tuple[str, str]:
        """Updates within the loop and bare ones, in turn, three times."""
        sizes = self.sizes
        case, _ = self.case(sizes.small, min(sizes.networks[sizes.small][3]))
        x = np.random.default_rng(0).integers(
            0, 256, (sizes.loop_images, *case.shape), dtype=np.uint8
        )
        transform, _ = batches.fit_transform_stats(x)
        training = Training(case)

        def source(step):
            made = []
            for one in range(step, step + sizes.updates):
                index, flipped = batches.indices(0, one, batch, len(x), True)
                made.append(batches.make_batch(x, index, flipped, transform))
            return training.spread(batches_of(np.stack(made)))

        fixed = training.place(noise_batches(case, sizes.updates, batch))
        training.call(fixed)  # Compiles.
        times: dict[str, list[float]] = {"bare": [], "loop": []}
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder)
            with storage.open(place / "checkpoints") as store:
                for turn in range(3):
                    begin = time.perf_counter()
                    for _ in range(0, sizes.loop_updates, sizes.updates):
                        training.call(fixed)
                    times["bare"].append(time.perf_counter() - begin)
                    begin = time.perf_counter()
                    first = turn * sizes.loop_updates
                    self._loop(training, source, first, store, place)
                    times["loop"].append(time.perf_counter() - begin)
        bare, loop = (statistics.median(times[k]) / sizes.loop_updates for k in ("bare", "loop"))
        measured = f"batch {batch}: {1e3 * loop:.2f} ms an update, {1e3 * bare:.2f} bare"
        return measured, f"bare is {100 * bare / loop:.1f} % of the loop"

    def _loop(self, training, source, step, store, place):
        """As in `commands.train`, which needs more than a borrowed machine may have."""
        sizes, end = self.sizes, step + self.sizes.loop_updates
        upcoming = source(step)
        while step < end:
            metrics = training.begin(upcoming)
            step += sizes.updates
            # The host prepares the next call while the device works on this one.
            upcoming = source(step)
            jax.device_get(metrics)
            if step % sizes.look_every == 0 and not devices.is_finite(training.state):
                raise RuntimeError(f"The state is not finite at step {step}.")
            if step % sizes.save_every == 0:
                averages = devices.unreplicate(training.state.ema)
                snapshots.write(place / "snapshots", step, EMA_WIDTHS, averages)
                store.save(step, devices.unreplicate(training.state), {}, {})


def parts(measure: Measure):
    """`(name, case, guess in seconds on a GPU, call)`, what matters most first.

    The guesses are mostly of compilation and were never measured; `Pace` corrects them.
    """
    sizes = measure.sizes
    first, small = sizes.first, sizes.small
    sides = sorted({side for one in sizes.networks.values() for side in one[3]})
    low = sides[0]
    listed = [
        ("card", "", 15, measure.products),
        ("update", f"{first}, {low}x{low}", 60, lambda: measure.update(first, low)),
        ("sampling", f"{first}, {low}x{low}", 30, lambda: measure.sampling(first, low)),
        (
            "guidance",
            f"{first} by {small}, {low}x{low}",
            60,
            lambda: measure.guidance(first, small, low),
        ),
    ]
    for cell in sizes.em_cells:
        text = ", ".join(map(str, cell.values()))
        listed.append(("EM", text, 10, lambda cell=cell: measure.em(cell)))
    for batch in sizes.loop_batches[:1]:
        listed.append(("loop", f"{small}, {low}x{low}", 60, lambda b=batch: measure.loop(b)))
    for side in sides:
        for name in sizes.networks:
            if (name, side) == (first, low):
                continue
            call = lambda name=name, side=side: measure.update(name, side)  # noqa: E731
            listed.append(("update", f"{name}, {side}x{side}", 60, call))
    for side in sides:
        for name in sizes.networks:
            if (name, side) == (first, low):
                continue
            call = lambda name=name, side=side: measure.sampling(name, side)  # noqa: E731
            listed.append(("sampling", f"{name}, {side}x{side}", 30, call))
    if first != small:
        call = lambda: measure.guidance(first, first, low)  # noqa: E731
        listed.append(("guidance", f"{first} by {first}, {low}x{low}", 60, call))
    for batch in sizes.loop_batches[1:]:
        listed.append(("loop", f"{small}, {low}x{low}", 60, lambda b=batch: measure.loop(b)))
    return listed


def main(argv: list[str] | None = None) -> int:
    """Prints a Markdown table; exit status 1 if a part failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=8, help="after which nothing is begun")
    parser.add_argument("--toy", action="store_true", help="sizes for a CPU")
    arguments = parser.parse_args(argv)
    pace = Pace(arguments.minutes)
    device = jax.local_devices()[0]
    if device.platform == "cpu" and not arguments.toy:
        parser.error("JAX finds no accelerator; --toy runs on a CPU")
    print(f"{device.device_kind}, jax {jax.__version__}, {arguments.minutes:g} minutes\n")
    print("| part | case | measured | beside the card | s |\n|---|---|---|---|---|", flush=True)
    status = 0
    for name, case, guess, call in parts(Measure(TOY if arguments.toy else FULL)):
        if not pace.fits(guess):
            left = f"left out: about {pace.predicted(guess):.0f} s after {pace.elapsed():.0f}"
            print(f"| {name} | {case} | {left} | - | - |", flush=True)
            continue
        begin = time.monotonic()
        try:
            cells = call()
        except Exception as error:  # The rows after it are worth having.
            cells = f"failed: {type(error).__name__}: {str(error).splitlines()[0][:200]}", "-"
            status = 1
        taken = time.monotonic() - begin
        pace.note(guess, taken)
        print(f"| {name} | {case} | {cells[0]} | {cells[1]} | {taken:.0f} |", flush=True)
        # Programs of one part are not those of another.
        jax.clear_caches()
    print(f"\n{pace.elapsed():.0f} s in all")
    return status


if __name__ == "__main__":
    sys.exit(main())
