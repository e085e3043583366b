"""Which settings there are, by dotted name, and what each is to a run."""

import functools

from ml_collections import ConfigDict

from gmm_diffusion.config.defaults import default

# Groups that define the model: on resume and in --mode=sample they come from the workdir.
MODEL_GROUPS = (
    "data",
    "conditioning",
    "network",
    "diffusion",
    "optimizer",
    "classifier",
    "ngmg",
    "contrastive",
)
# Single fields of other groups that a resumed run must share.
MODEL_FIELDS = (
    "training.task",
    "training.target",
    "training.seed",
    "training.batch_size",
    "training.ema_widths",
    "training.init_from",
)
# Single fields of these groups that a resumed run may change: what bounds memory, where the data
# are and wait, and what makes pictures of them. Whether they are the same data is compared by
# `runs.data_fingerprint`.
FREE_FIELDS = (
    "contrastive.chunk",
    "data.data_dir",
    "data.heldout_dir",
    "data.in_memory",
    "data.cache",
    "data.decoder",
)
# Fields that hold a path from the current directory; it is stored as an absolute one.
PATH_FIELDS = (
    "data.data_dir",
    "data.heldout_dir",
    "conditioning.classifier",
    "ngmg.workdir",
    "training.init_from",
    "guidance.guide",
    "guidance.classifier",
    "evaluation.statistics",
)
# Groups that a trained model can be sampled and evaluated with again and again.
SAMPLING_GROUPS = ("sample", "guidance", "evaluation")


def fields(config: ConfigDict) -> dict[str, object]:
    """Every leaf by its dotted name."""
    return {
        f"{group}.{name}": value
        for group, members in config.items()
        for name, value in members.items()
    }


def sampling_fields(config: ConfigDict) -> dict[str, object]:
    """The leaves of the groups in SAMPLING_GROUPS by their dotted names, as JSON stores them."""
    return plain_fields(config, SAMPLING_GROUPS)


def plain_fields(config: ConfigDict, groups: tuple[str, ...]) -> dict[str, object]:
    """The leaves of some groups by their dotted names, as JSON stores them."""
    return {f: plain(v) for f, v in fields(config).items() if f.split(".")[0] in groups}


@functools.cache
def usual_values() -> dict[str, object]:
    """The default of every field; read it, and change nothing."""
    return fields(default())


def plain(value: object) -> object:
    """A value as JSON gives it back."""
    return list(value) if isinstance(value, tuple | list) else value
