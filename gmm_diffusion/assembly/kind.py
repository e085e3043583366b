"""The kind of conditioning that a config names."""

from ml_collections import ConfigDict

from gmm_diffusion.conditioning import KINDS, Kind
from gmm_diffusion.conditioning.kinds import Settings


def kind(config: ConfigDict) -> Kind | None:
    """The kind; None where nothing is conditioned on."""
    return KINDS.get(config.conditioning.kind)


def settings(config: ConfigDict) -> Settings:
    """How its mixture is fitted."""
    group = config.conditioning
    return Settings(
        features=group.features,
        feature_dim=group.feature_dim,
        num_components=group.num_components,
        per_class=group.per_class,
        covariance=group.covariance,
        covariance_floor=group.covariance_floor,
        em_starts=group.em_starts,
        em_iterations=group.em_iterations,
        em_tolerance=group.em_tolerance,
        em_max_points=group.em_max_points,
        seed=config.training.seed,
    )
