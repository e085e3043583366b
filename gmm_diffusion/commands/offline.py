"""What is done with a finished run: samples, another evaluation, an average of another width."""

import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion import assembly, paths, pictures, signals
from gmm_diffusion import config as config_lib
from gmm_diffusion.assembly import guides
from gmm_diffusion.assembly import load as load_lib
from gmm_diffusion.conditioning import requests
from gmm_diffusion.errors import InputError
from gmm_diffusion.evaluation import denoiser as denoiser_evaluation
from gmm_diffusion.evaluation import report as evaluation_report
from gmm_diffusion.runs import data_fingerprint, snapshots, workdir
from gmm_diffusion.tasks import TASKS


def sample(config: ConfigDict, run_dir: str) -> None:
    """Draws `sample.num` samples under `sample.condition` into `run_dir/samples`.

    Writes `samples.npz` with `x` (uint8 `[N, H, W, C]` or float32 `[N, D]`), and where the model
    is conditioned `weights [N, K]` as the network was told them (one-hot for drawn components),
    `label [N]` (-1 where no single class was asked for) and, of data with attributes,
    `attributes [N, A]`; and `samples.png`.

    Raises:
      InputError: a condition that the model does not know, or no good checkpoint.
      RunError: the files cannot be written, which is tried before drawing.
    """
    config, path = config_lib.with_paths(config), workdir.directory(run_dir)
    terms = requests.parse(config.sample.condition)
    task = config.training.task
    if not TASKS[task].samples:
        raise InputError(f"training.task is {task!r}; --mode=sample needs the run of a denoiser.")
    model = load_lib.load_run(path, config.sample.step or None, config=config)
    # Refused before what is slow to load.
    if model.conditioner is None:
        requests.check(terms, 0, 0)
    guidance = guides.guidance(model, path)
    file, picture = path / workdir.SAMPLES / "samples.npz", path / workdir.SAMPLES / "samples.png"
    paths.check_writable(file)
    paths.check_writable(picture)
    with signals.graceful() as interrupt:
        drawn = assembly.sample(
            model,
            config.sample.num,
            config.sample.condition,
            config.sample.seed,
            guidance,
            interrupt.check,
        )
    is_image = len(model.shape) == 3
    x = drawn.images() if is_image else drawn.x
    asked = {"weights": drawn.weights, "label": drawn.label, "attributes": drawn.attributes}
    # What there is none of is left out.
    asked = {name: value for name, value in asked.items() if value is not None}
    with paths.replacing(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, x=x, **asked)
    with paths.replacing(picture) as temporary:
        if is_image:
            pictures.save_png(temporary, pictures.grid(x, scale=4))
        else:
            pictures.scatter(x, drawn.label, temporary)
    print(f"{len(x)} samples in {file} and {picture}")
    if drawn.info is not None:
        cost = assembly.parallel_cost(model, [drawn.info], guidance)
        print(evaluation_report.rounds_line(config, cost))


def evaluate(config: ConfigDict, run_dir: str) -> dict:
    """Evaluates the run, writes the result (see `evaluate_and_report`) and returns it.

    Raises:
      InputError: other data than the run's, no good checkpoint, or settings that do not fit.
      RunError: the result cannot be written, which is tried before drawing.
    """
    config, path = config_lib.with_paths(config), workdir.directory(run_dir)
    data = assembly.dataset(config)
    denoiser_evaluation.check(config, data)
    data_fingerprint.check(config, data, path)
    model = load_lib.load_run(path, config.sample.step or None, config=config)
    guidance = guides.guidance(model, path)
    paths.check_writable(workdir.evaluation_path(path, config.evaluation.name))
    with signals.graceful() as interrupt:
        return evaluation_report.evaluate_and_report(
            model, data, path, guidance, interrupt.check
        )


def ema(config: ConfigDict, run_dir: str) -> None:
    """Writes the average of width `sample.ema` at `sample.step` to `run_dir/ema`.

    The file is plain, `width_0.15_step_1200.npz`; see `assembly.load.load_params`.

    Raises:
      InputError: `sample.ema` is 0, or there are no snapshots of that step.
      RunError: the file cannot be written.
    """
    if not config.sample.ema:
        raise InputError("sample.ema is 0.0; --mode=ema needs the width of an average.")
    path = workdir.directory(run_dir)
    kept, step = path / workdir.SNAPSHOTS, config.sample.step or None
    made = snapshots.reconstruct(kept, step, config.sample.ema)
    file = path / workdir.AVERAGES / snapshots.file_name(made.width, made.step)
    with paths.writing(file):
        load_lib.export_params(made.params, file)
    print(
        f"{file}\n{made.num_snapshots} snapshots, profile error {100 * made.profile_error:.2g} %."
    )
