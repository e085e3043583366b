"""The kind of conditioning that a config names."""

from ml_collections import ConfigDict

from gmm_diffusion.assembly.settings import of_group
from gmm_diffusion.conditioning import KINDS, Fitted, Kind


def kind(config: ConfigDict) -> Kind | None:
    """The kind; None where nothing is conditioned on."""
    return KINDS.get(config.conditioning.kind)


def settings(config: ConfigDict) -> Fitted:
    """How its mixture is fitted; each kind reads the fields that it needs."""
    return of_group(Fitted, config.conditioning)
