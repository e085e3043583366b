"""What is refused before any work: names, types, each field by its rule, and what clashes."""

import difflib
import math
import re
from collections.abc import Callable

from ml_collections import ConfigDict

from gmm_diffusion.config.defaults import SIGMA_MAX
from gmm_diffusion.config.rules import KINDS_OF_ATTRIBUTES, RULES
from gmm_diffusion.config.settings import fields, usual_values
from gmm_diffusion.errors import InputError
from gmm_diffusion.tasks import TASKS

# Twice the distance of neighbours in float32.
_APART = 2.0**-22


def check_name(field: str) -> None:
    """Raises InputError, with a suggestion, if `field` is not the dotted name of a setting."""
    known = usual_values()
    if field not in known:
        # Others' words.
        ours = re.sub(r"^data\.(test|val|valid|validation|eval)_", "data.heldout_", field)
        ours = re.sub(r"^data\.train(ing)?_dir$", "data.data_dir", ours)
        near = difflib.get_close_matches(ours, known, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else "config/defaults.py lists all fields."
        raise InputError(f"{field or repr(field)} is not a setting; {hint}")


def check_fields(config: ConfigDict) -> None:
    """Raises InputError unless `config` has the fields of `default`, each with a value of its type.

    A locked config guarantees most of this, but a config file may return anything.
    """
    if not isinstance(config, ConfigDict) or not all(
        isinstance(members, ConfigDict) for members in config.values()
    ):
        raise InputError("a config must be a ConfigDict made by config.default().")
    values = fields(config)
    for field in values:
        check_name(field)
    for field, usual in usual_values().items():
        if field not in values:
            raise InputError(f"{field} is missing; a config must start from config.default().")
        value, kind = values[field], type(usual)
        if type(value) is not kind and (kind, type(value)) not in ((float, int), (tuple, list)):
            raise InputError(f"{field} is {value!r}; it must be of type {kind.__name__}.")


def validate(config: ConfigDict) -> None:
    """Checks every field and the fields that depend on each other, before any work.

    Raises:
      InputError: names the field, its value and what is valid.
    """
    check_fields(config)
    values = fields(config)
    for field, (check, valid) in RULES.items():
        value = values[field]
        try:
            good = check(value)
        except (TypeError, ValueError, OverflowError):
            good = False
        if not good:
            raise InputError(f"{field} is {value!r}; it must be {valid}.")

    def refuse(field: str, valid: str):
        raise InputError(f"{field} is {values[field]!r}; {valid}.")

    if config.data.in_memory == "never" and config.data.name not in ("image_folder", "tfds_images"):
        refuse("data.in_memory", f"data.name {config.data.name} is held in memory, auto or always")
    if config.data.name == "tfds_images" and not config.data.tfds_name:
        refuse("data.tfds_name", "data.name tfds_images needs the name of a TFDS dataset")
    if config.data.heldout_dir and config.data.name != "image_folder":
        refuse("data.heldout_dir", f"data.name {config.data.name} has no folder of that kind")
    if config.data.name in ("image_folder", "cifar_archive") and not config.data.data_dir:
        refuse("data.data_dir", f"data.name {config.data.name} needs its path")
    _check_arrays(config, refuse)
    if config.conditioning.features == "classifier" and not config.conditioning.classifier:
        refuse("conditioning.features", "it needs conditioning.classifier, the workdir of a run")
    _check_fit(config, refuse)
    if _holds_vectors(config):
        if config.network.name != "mlp":
            refuse("network.name", "the vectors of data.name toy need mlp")
        if config.data.flip:
            refuse("data.flip", "only images can be mirrored")
    elif config.network.name != "unet":
        refuse("network.name", f"the images of data.name {config.data.name} need unet")
    if config.evaluation.split == "validation" and not config.data.validation_fraction:
        refuse("evaluation.split", "data.validation_fraction 0 leaves no such split")
    _check_noise(config, refuse)
    if config.sample.parallel_window and config.sample.sampler == "dpmpp_2m":
        refuse("sample.parallel_window", "sample.sampler dpmpp_2m remembers steps, and needs 0")
    tracked = (0, *config.training.ema_widths)
    if config.sample.ema not in tracked and not config.checkpoint.snapshot_every:
        refuse(
            "sample.ema",
            f"with checkpoint.snapshot_every 0 it must be one of {', '.join(map(str, tracked))}",
        )
    _check_guidance(config, refuse)
    _check_task(config, refuse)
    _check_classifier(config, refuse)
    _check_contrastive(config, refuse)
    _check_microbatch(config, refuse)
    _check_target(config, refuse)
    for i, mult in enumerate(config.network.channel_mult):
        channels = config.network.channels * mult
        heads = max(channels // config.network.head_channels, 1)
        if config.network.name == "unet" and channels % heads:
            refuse(
                "network.head_channels",
                f"it must divide the {channels} channels of resolution {i}",
            )


def check_splits(config: ConfigDict) -> None:
    """For a new run, raises InputError for splits of TFDS that were chosen for other data.

    Earlier versions took such a run, and passed over the choice; it goes on as it was.
    """
    name, usual = config.data.name, usual_values()
    for field in ("train_split", "heldout_split"):
        value = config.data[field]
        if name != "tfds_images" and value != usual[f"data.{field}"]:
            hint = "; data.heldout_dir names a folder" if name == "image_folder" else ""
            raise InputError(
                f"data.{field} is {value!r}; data.name {name} has no splits of that kind, and "
                f"needs {usual[f'data.{field}']!r}{hint}."
            )


def _check_arrays(config: ConfigDict, refuse: Callable) -> None:
    name, usual = config.data.name, usual_values()
    if name != "arrays":
        if config.data.decoder:
            refuse("data.decoder", f"the data of data.name {name} are no latents")
        if config.conditioning.features == "own":
            refuse("conditioning.features", f"data.name {name} has none; arrays may have some")
        return
    for field in ("resolution", "crop"):
        if config.data[field] != usual[f"data.{field}"]:
            refuse(f"data.{field}", "arrays are taken as they are")


def _check_fit(config: ConfigDict, refuse: Callable) -> None:
    group, usual = config.conditioning, usual_values()
    for field in ("fit", "responsibilities"):
        if group.kind != "gmm" and group[field] != usual[f"conditioning.{field}"]:
            refuse(f"conditioning.{field}", f"it is of conditioning.kind gmm, and not {group.kind}")
    one = (usual["conditioning.covariance"], "spherical")
    if group.fit == "k_means" and group.covariance not in one:
        refuse("conditioning.covariance", "conditioning.fit k_means has one variance; use em")
    if group.responsibilities == "random" and group.features == "classifier":
        # Its features are rounded as the machine likes, and the draw is by their bits.
        refuse("conditioning.responsibilities", "the features classifier need soft or hard")


def _holds_vectors(config: ConfigDict) -> bool:
    given = config.data.name == "arrays" and config.network.name == "mlp"
    return given or config.data.name == "toy"


def _conditioned(config: ConfigDict) -> bool:
    return config.conditioning.kind != "none"


def _check_task(config: ConfigDict, refuse: Callable) -> None:
    values, task = fields(config), config.training.task
    for field, needed in TASKS[task].refuses.items():
        if values[field] != needed:
            refuse(field, f"it is of a denoiser's loss; training.task {task} needs {needed}")


def _check_classifier(config: ConfigDict, refuse: Callable) -> None:
    alone = TASKS[config.training.task].classifies
    if not alone and not config.ngmg.weight:
        return
    if not _conditioned(config):
        field = "training.task" if alone else "ngmg.weight"
        refuse(field, "a classifier needs a mixture, and conditioning.kind none has none")
    if config.conditioning.kind in KINDS_OF_ATTRIBUTES and not config.classifier.scales:
        refuse("classifier.scales", "the centres of attributes have no covariances; give scales")
    if config.classifier.name == "conv" and _holds_vectors(config):
        refuse("classifier.name", f"the vectors of data.name {config.data.name} need mlp")


def _check_contrastive(config: ConfigDict, refuse: Callable) -> None:
    group = config.contrastive
    if not group.weight:
        return
    if config.training.batch_size % group.points:
        refuse(
            "contrastive.points",
            f"it must divide training.batch_size {config.training.batch_size}",
        )
    if config.diffusion.law == "given":
        check_zeta(config, config.diffusion.sigma_log_mean, config.diffusion.sigma_log_std)


def _check_microbatch(config: ConfigDict, refuse: Callable) -> None:
    group = config.training
    if not group.microbatch:
        return
    if group.batch_size % group.microbatch:
        refuse("training.microbatch", f"it must divide training.batch_size {group.batch_size}")
    every = group.batch_size // config.contrastive.points
    if config.contrastive.weight and group.microbatch % every:
        refuse(
            "training.microbatch",
            f"contrastive.points {config.contrastive.points} of training.batch_size "
            f"{group.batch_size} examples need a multiple of {every}",
        )


def check_zeta(config: ConfigDict, log_mean: float, log_std: float) -> None:
    """Raises InputError for `contrastive.zeta` beyond where this law of ln sigma trains."""
    if not config.contrastive.weight:
        return
    # The denoiser of smoothed data is asked at sqrt(sigma^2 + zeta^2).
    highest = math.exp(log_mean + 3 * log_std)
    if config.contrastive.zeta[1] > highest / 2:
        raise InputError(
            f"contrastive.zeta is {config.contrastive.zeta!r}; it must stay below half of "
            f"{highest:.3g}, where training ends."
        )


def _check_noise(config: ConfigDict, refuse: Callable) -> None:
    group, usual = config.diffusion, usual_values()
    if group.law == "auto":
        if not _holds_vectors(config):
            refuse("diffusion.law", f"the images of data.name {config.data.name} need given")
        for name in ("sigma_log_mean", "sigma_log_std"):
            if group[name] != usual[f"diffusion.{name}"]:
                refuse(f"diffusion.{name}", "diffusion.law auto fits it; use diffusion.law given")
    highest = config.sample.sigma_max or SIGMA_MAX
    if config.sample.sigma_min >= highest:
        refuse("sample.sigma_min", f"it must be below sample.sigma_max {highest}")
    if _closest(config.sample, highest) < _APART:
        refuse(
            "sample.steps",
            f"between sample.sigma_min {config.sample.sigma_min:g} and sample.sigma_max "
            f"{highest:g} float32 cannot tell so many noise levels apart",
        )


def _closest(group, highest):
    """The smallest step of `noise_levels.karras`, at one of its ends, relative to the level."""
    if group.steps < 3:
        return highest / group.sigma_min - 1
    share, ratio = 1 / (group.steps - 1), (highest / group.sigma_min) ** (1 / group.rho)
    first = 1 - (1 - share + share / ratio) ** group.rho
    return min(first, (1 - share + share * ratio) ** group.rho - 1)


def _check_target(config: ConfigDict, refuse: Callable) -> None:
    if config.training.target == "data":
        return
    if config.data.name != "toy":
        refuse("training.target", f"the density of data.name {config.data.name} is not known")
    if config.contrastive.weight:
        # Its control variate reads the spread of the data off the loss's learned uncertainty.
        refuse("training.target", "contrastive.weight above 0 needs data")


def _check_guidance(config: ConfigDict, refuse: Callable) -> None:
    kind, conditioning = config.guidance.kind, config.conditioning
    if config.guidance.energy and not _conditioned(config):
        refuse("guidance.energy", "conditioning.kind none leaves no condition to pull to")
    if config.guidance.energy and not (config.guidance.classifier or config.ngmg.weight):
        refuse("guidance.energy", "a run without ngmg.weight needs guidance.classifier, a workdir")
    if kind == "auto" and not config.guidance.guide and not config.guidance.guide_step:
        refuse("guidance.guide", "kind auto needs the workdir of a guide, or guidance.guide_step")
    if kind in ("classifier_free", "mixture") and not _conditioned(config):
        refuse("guidance.kind", "conditioning.kind none leaves no condition to worsen")
    if kind == "classifier_free" and not conditioning.dropout:
        refuse("guidance.kind", "it needs a run with conditioning.dropout above 0")
    if kind == "mixture" and config.guidance.blur == "weights":
        if config.guidance.blur_amount > 1:
            refuse("guidance.blur_amount", "weights are blurred by a share from 0 to 1")
    elif kind == "mixture" and conditioning.embedding == "table":
        refuse("guidance.blur", "the embedding table has no covariances; blur weights")
