"""`--mode=sample`: samples of a trained run, in files."""

import itertools
import re
import zlib
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion import assembly, devices, paths, pictures, processes, signals
from gmm_diffusion import config as config_lib
from gmm_diffusion.assembly import guides
from gmm_diffusion.commands import loading
from gmm_diffusion.conditioning import requests
from gmm_diffusion.data import latents
from gmm_diffusion.errors import InputError
from gmm_diffusion.runs import workdir
from gmm_diffusion.tasks import TASKS

# Of a name in bytes; what follows it in the names of files has room.
_LONGEST = 120


def sample(config: ConfigDict, run_dir: str) -> None:
    """Draws `sample.num` samples under `sample.condition` into `run_dir/samples`.

    NAME is `sample.name`, or made of the condition and the guidance; files that have it already are
    kept as `NAME-1.npz` and so on. Writes `NAME.npz` with `x` (uint8 `[N, H, W, C]`, float32
    `[N, D]`, or of latents float32 `[N, H, W, C]` and what `data.decoder` makes of them as
    `images`), and where the model is conditioned `weights [N, K]` as the network was told them
    (one-hot for drawn components), `label [N]` (-1 where no single class was asked for) and, of
    data with attributes, `attributes [N, A]`; and `NAME.png`, but for latents without a decoder.

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
    decoder = latents.load_decoder(config.data.decoder) if config.data.decoder else None
    if decoder is not None and model.fitted.latent:
        latents.decode(decoder, np.zeros((1, *model.shape), np.float32))
    name = config.sample.name or name_of(config)
    file, picture = (path / workdir.SAMPLES / f"{name}.{kind}" for kind in ("npz", "png"))
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
    latent, is_image = model.fitted.latent, len(model.shape) == 3
    drawn = is_image and (decoder is not None or not latent)
    shown = samples.images(decoder) if drawn else samples.x
    x = samples.x if latent else shown
    asked = {"weights": samples.weights, "label": samples.label, "attributes": samples.attributes}
    # What there is none of is left out.
    arrays: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if latent and drawn:
        arrays["images"] = shown
    aside = _free_names(file, picture)
    with paths.replacing(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, x=x, **arrays)
        stream.flush()
        _move(file, aside[0])
    if latent and not drawn:
        _move(picture, aside[1])
        print(f"{len(x)} latents in {file}; data.decoder makes pictures of them.")
    else:
        with paths.replacing(picture) as temporary:
            if drawn:
                pictures.save_png(temporary, pictures.grid(shown, scale=4))
            else:
                pictures.scatter(x, samples.label, temporary)
            _move(picture, aside[1])
        print(f"{len(x)} samples in {file} and {picture}")
    kept = [str(name) for name in aside if name.exists()]
    if kept:
        print(f"Those that were there are now {' and '.join(kept)}")
    if samples.info is not None:
        # Imported late: metrics take a second to import.
        from gmm_diffusion.evaluation.report import rounds_line

        print(rounds_line(config, assembly.parallel_cost(model, [samples.info], guidance)))


def name_of(config: ConfigDict) -> str:
    """A name for files of samples: what was asked for and the guidance, as no shell reads it."""
    condition = config.sample.condition.strip()
    parts = [f"class:{condition}" if condition.isdecimal() else condition]
    group = config.guidance
    if group.kind != "none":
        parts.append(f"{group.kind}-{_number(group.scale)}")
    if group.energy:
        parts.append(f"energy-{_number(group.energy)}")
    name = re.sub(r"[^\w.=-]+", "-", "_".join(parts)).strip("-.")
    if len(name.encode()) <= _LONGEST:
        return name
    return f"{name[: _LONGEST // 4]}-{zlib.crc32(name.encode()):08x}"


def _number(value):
    """Without the sign of an exponent, which no name may have: 1e+06 is no 1e-06."""
    return f"{value:g}".replace("e+", "e")


def _free_names(*files):
    """The same files with the lowest number that none of them has."""
    numbered = ([file.with_stem(f"{file.stem}-{i}") for file in files] for i in itertools.count(1))
    return next(names for names in numbered if not any(name.exists() for name in names))


def _move(file, name):
    if file.exists():
        file.rename(name)
