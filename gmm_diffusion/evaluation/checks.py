"""What only an evaluation, hours later, would stumble over is refused before training."""

import pathlib

from ml_collections import ConfigDict

from gmm_diffusion import paths
from gmm_diffusion.data import Dataset, latents
from gmm_diffusion.errors import InputError
from gmm_diffusion.metrics import frechet
from gmm_diffusion.metrics import judge as judges
from gmm_diffusion.metrics.features import RAW, Extractor, make_extractor
from gmm_diffusion.metrics.frechet import Statistics


def check(config: ConfigDict, data: Dataset, path: pathlib.Path | None = None) -> None:
    """Raises InputError for data, or settings of `evaluation`, that cannot be evaluated.

    Args:
      config: see the group `evaluation`.
      data: that samples are compared with.
      path: of the run, where it has one.
    """
    group = config.evaluation
    if path is not None and group.judge_dir:
        paths.folder(paths.within(path, group.judge_dir), "evaluation.judge_dir", bucket=True)
    real, train = len(getattr(data, group.split)), len(data.train)
    if min(real, train) < 2:
        raise InputError(
            f"{data.name} has {train} training and {real} {group.split} examples; an evaluation "
            "needs at least 2 of each."
        )
    _check_statistics(config, data)
    if len(data.shape) != 3:
        return
    if data.is_image and data.shape[-1] not in (1, 3):
        raise InputError(
            f"Images of {data.name} have {data.shape[-1]} channels; sheets need grey or RGB images."
        )
    fewest = min(real, group.max_samples, train, group.max_reference)
    if group.neighbours >= fewest:
        raise InputError(
            f"evaluation.neighbours is {group.neighbours}; it must be below the {fewest} images "
            "that are compared."
        )


def known_features(config: ConfigDict, data: Dataset) -> Extractor | None:
    """The features of a Frechet distance where neither a judge nor components are to be fitted.

    Raises:
      InputError: a file of features that does not fit the data.
    """
    spec = config.evaluation.features
    if len(data.shape) != 3:
        if spec.startswith("file:"):
            raise InputError(
                f"evaluation.features is {spec!r}, of images; the vectors of {data.name} are "
                "compared as they are, with judge."
            )
        return RAW
    return make_extractor(spec, _one_shown(data)) if spec.startswith("file:") else None


def stored_statistics(config: ConfigDict) -> Statistics | None:
    """The file `evaluation.statistics`, or None without one; raises as `frechet.load`."""
    file = config.evaluation.statistics
    return frechet.load(file) if file else None


def other_features(stored: Statistics) -> InputError:
    """For `evaluation.statistics` of features that an evaluation does not have."""
    return InputError(
        f"evaluation.statistics are of the features {stored.extractor}; they must be of "
        "evaluation.features, and of a judge of this run."
    )


def _one_shown(data):
    """The data, or one example of them as the pictures that are scored."""
    return data if data.decoder is None else latents.decoded(latents.one_example(data))


def _check_statistics(config, data):
    stored, known = stored_statistics(config), known_features(config, data)
    if stored is None:
        return
    shown = _one_shown(data)
    resolution = "x".join(map(str, shown.shape))
    if stored.resolution != resolution:
        raise InputError(
            f"evaluation.statistics are of examples of {stored.resolution or 'unknown shape'}; "
            f"those of {data.name} are {resolution}."
        )
    judged = config.evaluation.features == "judge" and shown.is_image and judges.can_judge(data)
    if known is None and not judged and data.decoder is None:
        known = make_extractor("pca", data)
    if known is not None:
        fits = known.id == stored.extractor
    else:  # The judges, or the pictures of all examples, would have to be made first.
        fits = stored.extractor.startswith("judge:") == judged
    if not fits:
        raise other_features(stored)
