"""Configs and a run's `config.json`: paths made absolute, what is read back, what differs."""

from ml_collections import ConfigDict

from gmm_diffusion import paths
from gmm_diffusion.config.defaults import default
from gmm_diffusion.config.settings import (
    FREE_FIELDS,
    MODEL_FIELDS,
    MODEL_GROUPS,
    PATH_FIELDS,
    fields,
    plain,
    usual_values,
)
from gmm_diffusion.errors import InputError

# What a run did that was written before a field existed, where that is not the field's default:
# dotted name -> value. `config.json` of such a run lacks the field.
EARLIER: dict[str, object] = {
    "conditioning.one_hot_share": 0.0,
    "contrastive.importance": 0.0,
    "data.validation_fraction": 0.0,
    "network.attention_middle": False,
    "sample.component": "literal",
}


def with_paths(config: ConfigDict) -> ConfigDict:
    """A copy in which every path means the same from any directory.

    `~` is expanded everywhere, and relative paths become absolute; only `evaluation.judge_dir`
    stays relative, to the workdir.

    Raises:
      InputError: a path that cannot be one, as `paths.expand`.
    """
    config = config.copy_and_resolve_references()
    for field in PATH_FIELDS:
        group, name = field.split(".")
        if config[group][name]:
            config[group][name] = paths.absolute(config[group][name], field)
    evaluation = config.evaluation
    kind, _, path = evaluation.features.partition(":")
    if kind == "file" and path:
        evaluation.features = f"file:{paths.absolute(path, 'evaluation.features')}"
    if evaluation.judge_dir:
        evaluation.judge_dir = str(
            paths.expand(evaluation.judge_dir, "evaluation.judge_dir", bucket=True)
        )
    return config


def from_dict(values: dict) -> ConfigDict:
    """A config from nested plain values, such as `config.json`.

    Absent fields keep their default, or what runs did before they existed (`EARLIER`).

    Raises:
      InputError: for a field that does not exist, or a value of another type.
    """
    config = default()
    _set_earlier(config, values)
    for group, members in values.items():
        if group not in config or not isinstance(members, dict):
            raise InputError(f"{group} is not a group of settings; valid are {', '.join(config)}.")
        for name, value in members.items():
            if name not in config[group]:
                raise InputError(f"{group}.{name} is not a setting of this version.")
            try:
                config[group][name] = tuple(value) if isinstance(value, list) else value
            except TypeError:
                kind = type(config[group][name]).__name__
                raise InputError(f"{group}.{name} is {value!r}; it must be a {kind}.") from None
    return config


def as_written(config: ConfigDict, stored: dict) -> ConfigDict:
    """`config` for going on with a run whose `config.json`, `stored`, may be of an earlier version.

    Fields that the run does not know, and that `config` leaves at their default, keep doing what
    they did when the run was written. Returns a copy.
    """
    config = config.copy_and_resolve_references()
    usual = usual_values()
    unchanged = {f for f, value in fields(config).items() if plain(value) == plain(usual[f])}
    _set_earlier(config, stored, unchanged)
    return config


def _set_earlier(config, stored, only=None):
    """Sets the fields in EARLIER that `stored` lacks; with `only`, those among them."""
    for field, value in EARLIER.items():
        group, name = field.split(".")
        members = stored.get(group)
        known = isinstance(members, dict) and name in members
        if not known and (only is None or field in only):
            config[group][name] = value


def differences(ours: ConfigDict, theirs: ConfigDict) -> list[str]:
    """Fields that a resumed run must share and does not, as `field: theirs -> ours`."""
    # Runs of earlier versions stored paths as they were typed.
    old, new = fields(with_paths(theirs)), fields(with_paths(ours))
    names = [
        name
        for name in sorted(old.keys() | new.keys())
        if (name.split(".")[0] in MODEL_GROUPS or name in MODEL_FIELDS) and name not in FREE_FIELDS
    ]
    return [
        f"{name}: {old.get(name, 'absent')!r} -> {new.get(name, 'absent')!r}"
        for name in names
        if plain(old.get(name)) != plain(new.get(name))
    ]
