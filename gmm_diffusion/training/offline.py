"""What is done with a finished run: samples, another evaluation, an average of another width."""

import pathlib

import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion import build, evaluation
from gmm_diffusion.conditioning import requests
from gmm_diffusion.data import to_uint8
from gmm_diffusion.errors import InputError
from gmm_diffusion.training import checkpoint, guide, image_grid, signals, snapshots


def sample(config: ConfigDict, run_dir: str) -> None:
    """Draws `sample.num` samples under `sample.condition` into `run_dir/samples`.

    Writes `samples.npz` with `x` (uint8 `[N, H, W, C]` or float32 `[N, D]`), and where the model
    is conditioned `weights [N, K]` as the network was told them (one-hot for drawn components),
    `label [N]` (-1 where no single class was asked for) and, of data with attributes,
    `attributes [N, A]`; and `samples.png`.

    Raises:
      InputError: a condition that the model does not know, or no good checkpoint.
    """
    terms = requests.parse(config.sample.condition)
    if config.training.task == "classifier":
        raise InputError(
            "training.task is 'classifier'; --mode=sample needs the run of a denoiser."
        )
    run = checkpoint.load_run(run_dir, config.sample.step or None, config=config)
    arrays = {}
    weights = None
    if run.conditioner is not None:
        group = config.sample
        asked = requests.weights(
            run.conditioner, group.condition, group.num, group.seed, group.component
        )
        weights = asked.weights
        # What there is none of is left out.
        arrays = {name: value for name, value in asked._asdict().items() if value is not None}
    else:
        requests.check(terms, 0, 0)
    worse = guide.load(config, run_dir, run.constants, run.shape)
    guidance = build.guidance(config, worse)
    generate = build.generator(config, run.constants, run.shape, guidance)
    took = []
    with signals.graceful() as interrupt:
        x = generate(
            run.params,
            weights,
            config.sample.seed,
            config.sample.num,
            poll=interrupt.check,
            took=took,
        )
    folder = pathlib.Path(run_dir) / "samples"
    folder.mkdir(exist_ok=True)
    is_image = len(run.shape) == 3
    x = to_uint8(x) if is_image else x
    np.savez(folder / "samples.npz", x=x, **arrays)
    if is_image:
        image_grid.save_png(folder / "samples.png", image_grid.grid(x, scale=4))
    else:
        image_grid.scatter(x, arrays.get("label"), folder / "samples.png")
    print(f"{len(x)} samples in {folder / 'samples.npz'} and {folder / 'samples.png'}")
    if took:
        print(evaluation.rounds_line(config, build.parallel_cost(config, run.constants, took)))


def evaluate(config: ConfigDict, run_dir: str) -> dict:
    """Evaluates the run, writes the result (see `evaluate_and_report`) and returns it."""
    data = build.dataset(config)
    evaluation.check(config, data)
    run = checkpoint.load_run(run_dir, config.sample.step or None, config=config)
    worse = guide.load(config, run_dir, run.constants, run.shape)
    with signals.graceful() as interrupt:
        return evaluation.evaluate_and_report(
            config,
            pathlib.Path(run_dir),
            data,
            run.constants,
            run.params,
            run.step,
            interrupt.check,
            worse,
        )


def ema(config: ConfigDict, run_dir: str) -> None:
    """Writes the average of width `sample.ema` at `sample.step` to `run_dir/ema`.

    The file is plain, `width_0.15_step_1200.npz`; see `checkpoint.load_params`.

    Raises:
      InputError: `sample.ema` is 0, or there are no snapshots of that step.
    """
    if not config.sample.ema:
        raise InputError("sample.ema is 0.0; --mode=ema needs the width of an average.")
    path = pathlib.Path(run_dir)
    made = snapshots.reconstruct(path / "snapshots", config.sample.step or None, config.sample.ema)
    file = path / "ema" / snapshots.file_name(made.width, made.step)
    checkpoint.export_params(made.params, file)
    print(
        f"{file}\n{made.num_snapshots} snapshots, profile error {100 * made.profile_error:.2g} %."
    )
