"""The kind of conditioning that a config names."""

import dataclasses

from ml_collections import ConfigDict

from gmm_diffusion.conditioning import KINDS, Kind
from gmm_diffusion.conditioning.kinds import Settings


def kind(config: ConfigDict) -> Kind | None:
    """The kind; None where nothing is conditioned on."""
    return KINDS.get(config.conditioning.kind)


def settings(config: ConfigDict) -> Settings:
    """How its mixture is fitted."""
    group = config.conditioning
    names = {field.name for field in dataclasses.fields(Settings)} - {"seed"}
    return Settings(**{name: group[name] for name in names}, seed=config.training.seed)
