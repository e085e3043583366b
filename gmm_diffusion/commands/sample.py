"""`--mode=sample`: samples of a trained run, in files."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion import assembly, devices, paths, pictures, processes, signals
from gmm_diffusion import config as config_lib
from gmm_diffusion.assembly import guides
from gmm_diffusion.commands import loading
from gmm_diffusion.conditioning import requests
from gmm_diffusion.errors import InputError
from gmm_diffusion.evaluation import report as evaluation_report
from gmm_diffusion.runs import workdir
from gmm_diffusion.tasks import TASKS


def sample(config: ConfigDict, run_dir: str) -> None:
    """Draws `sample.num` samples under `sample.condition` into `run_dir/samples`.

    Writes `samples.npz` with `x` (uint8 `[N, H, W, C]` or float32 `[N, D]`), and where the model
    is conditioned `weights [N, K]` as the network was told them (one-hot for drawn components),
    `label [N]` (-1 where no single class was asked for) and, of data with attributes,
    `attributes [N, A]`; and `samples.png`.

    Raises:
      InputError: a condition that the model does not know, or no good checkpoint.
      RunError: the files cannot be written, which is tried before sampling.
    """
    config, path = config_lib.with_paths(config), workdir.directory(run_dir)
    terms = requests.parse(config.sample.condition)
    task = config.training.task
    if not TASKS[task].samples:
        raise InputError(f"training.task is {task!r}; --mode=sample needs the run of a denoiser.")
    model = loading.load(config, path)
    # Refused before what is slow to load.
    if model.conditioner is None:
        requests.check(terms, 0, 0)
    guidance = guides.guidance(model, path)
    file, picture = path / workdir.SAMPLES / "samples.npz", path / workdir.SAMPLES / "samples.png"
    if processes.is_first():
        paths.check_writable(file)
        paths.check_writable(picture)
    with signals.graceful(devices.highest) as interrupt:
        samples = assembly.sample(
            model,
            config.sample.num,
            config.sample.condition,
            config.sample.seed,
            guidance,
            interrupt.check,
        )
    if not processes.is_first():
        return
    is_image = len(model.shape) == 3
    x = samples.images() if is_image else samples.x
    asked = {"weights": samples.weights, "label": samples.label, "attributes": samples.attributes}
    # What there is none of is left out.
    arrays: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    with paths.replacing(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, x=x, **arrays)
    with paths.replacing(picture) as temporary:
        if is_image:
            pictures.save_png(temporary, pictures.grid(x, scale=4))
        else:
            pictures.scatter(x, samples.label, temporary)
    print(f"{len(x)} samples in {file} and {picture}")
    if samples.info is not None:
        cost = assembly.parallel_cost(model, [samples.info], guidance)
        print(evaluation_report.rounds_line(config, cost))
