"""Trained models on disk: loading a run for sampling, evaluation, guides and notebooks.

`storage.py` is the storage underneath, which the training loop writes to.
"""

import dataclasses
import os
import pathlib
import zipfile
from collections.abc import Callable

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from gmm_diffusion import build
from gmm_diffusion.conditioning import Conditioner
from gmm_diffusion.data.batches import Transform
from gmm_diffusion.errors import InputError
from gmm_diffusion.training import storage
from gmm_diffusion.training.constants import Constants, from_arrays
from gmm_diffusion.training.workdir import read_config
from gmm_diffusion.types import DenoiseFn, PyTree


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model.

    Attributes:
      config: as stored, or as given to `load_run`.
      step: updates made.
      shape: of one example.
      constants: everything fitted to data before training.
      params: the chosen average, a dict of parts.
      denoise: `(params, x, sigma, cond=None) -> x0`; jit a function that takes `params`.
    """

    config: ConfigDict
    step: int
    shape: tuple[int, ...]
    constants: Constants
    params: PyTree
    denoise: Callable

    @property
    def denoise_fn(self) -> DenoiseFn:
        """`(x, sigma, cond=None) -> x0`, in centred units, with the parameters bound."""
        return lambda x, sigma, cond=None: self.denoise(self.params, x, sigma, cond)

    @property
    def conditioner(self) -> Conditioner | None:
        """The constants of the conditioning; see `conditioning.encode`."""
        return self.constants.conditioner

    @property
    def transform(self) -> Transform:
        """The centring of the data; `data.batches.invert` takes samples back."""
        return self.constants.transform


def load_run(
    workdir: str | os.PathLike,
    step: int | None = None,
    ema: float | None = None,
    config: ConfigDict | None = None,
) -> Run:
    """Loads a run without its data and without its optimiser.

    Args:
      workdir: directory of the run.
      step: which checkpoint; None takes the newest good one.
      ema: width of the average, one of `training.ema_widths`; 0 takes the raw parameters, None what
        `sample.ema` says.
      config: in place of the stored one, for example with other settings of `sample`.

    Raises:
      InputError: no run, no good checkpoint, no such step or average.
    """
    config = read_config(workdir) if config is None else config
    directory = pathlib.Path(workdir) / "checkpoints"
    stored = storage.restore_constants_and_meta(directory, step)
    if stored is None:
        raise InputError(f"{directory} holds no checkpoint yet; train the run first.")
    constants = from_arrays(stored.constants, stored.meta["settings"])
    shape = tuple(stored.meta["shape"])
    ema = config.sample.ema if ema is None else ema
    widths = tuple(config.training.ema_widths)
    if ema and ema not in widths:
        raise InputError(f"ema is {ema}; it must be 0 or one of {widths}.")
    params = jax.eval_shape(lambda: build.init_params(config, shape, constants))
    target = {"ema": {str(widths.index(ema)): params}} if ema else {"params": params}
    restored = storage.restore_step(directory, stored.step, target, partial=True).state
    chosen = restored["ema"][str(widths.index(ema))] if ema else restored["params"]
    return Run(config, stored.step, shape, constants, chosen, build.denoise(config, constants))


def export_params(params: PyTree, path: str | os.PathLike) -> None:
    """Writes a nested dict of parameters as a plain `.npz`, keys joined by "/".

    bfloat16, which numpy cannot store, becomes float32. The file appears complete or not at all.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for name, value in traverse_util.flatten_dict(jax.device_get(params), sep="/").items():
        value = np.asarray(value)
        arrays[name] = value.astype(np.float32) if value.dtype == jax.numpy.bfloat16 else value
    temporary = path.with_name(path.name + ".tmp")
    # A file object, because numpy would add a suffix to the name.
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
    os.replace(temporary, path)


def load_params(path: str | os.PathLike) -> PyTree:
    """The nested dict of numpy arrays that `export_params` wrote.

    Raises:
      InputError: there is no such file, or it is not an intact `.npz`.
    """
    try:
        with np.load(path) as file:
            return traverse_util.unflatten_dict({name: file[name] for name in file.files}, sep="/")
    except FileNotFoundError:
        raise InputError(f"The parameter file {path} does not exist.") from None
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"The parameter file {path} is not an intact .npz: {error}"
        ) from error
