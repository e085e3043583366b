"""The scores of a model in memory."""

import os
import pathlib
import tempfile
from collections.abc import Iterable

from gmm_diffusion import paths, processes
from gmm_diffusion.data import Dataset
from gmm_diffusion.errors import InputError
from gmm_diffusion.evaluation import checks, classifier, denoiser
from gmm_diffusion.model.guidance import Guidance
from gmm_diffusion.model.model import Model


def evaluate(
    model: Model,
    data: Dataset,
    *,
    guidance: Guidance | Iterable[Guidance] = (),
    workdir: str | os.PathLike | None = None,
) -> dict:
    """All metrics that the data allow, as `model.config` says (groups `sample` and `evaluation`).

    Args:
      model: a denoiser, or a classifier alone.
      data: shaped as what the model was trained on.
      guidance: of the samples.
      workdir: a directory in which the judges of these data are kept, and taken from; None trains
        them anew. It need not be a run's.

    Returns:
      {"metrics": {name: {"value", "blocks", "floor"}}, ...}, as `evaluation.json` has it.

    Raises:
      InputError: other data, or settings that do not fit them.
      RunError: samples that are not finite.
    """
    if tuple(data.shape) != model.shape:
        raise InputError(f"data have shape {data.shape}; the model's is {model.shape}.")
    if model.config is None:
        raise InputError("The model has no config, whose group evaluation says how to score it.")
    checks.check(model.config, data)
    if workdir is None:
        with tempfile.TemporaryDirectory() as folder:
            return _scores(model, data, pathlib.Path(folder), guidance)
    path = paths.folder(workdir, "workdir", bucket=True)
    path.mkdir(parents=True, exist_ok=True)
    return _scores(model, data, path, guidance)


def _scores(model, data, path, guidance):
    if "network" not in model.params:
        scores = classifier.evaluate(model.config, data, model.fitted, model.params, path)
    else:
        scores = denoiser.evaluate(model, data, path, guidance)
    return processes.of_first(lambda: scores)
