"""Conditioning on a Gaussian mixture: features -> weights -> embedding."""

from gmm_diffusion.conditioning.attributes import AttributeTable, attribute_weights
from gmm_diffusion.conditioning.conditioner import (
    Conditioner,
    blur_covariances,
    blur_weights,
    check_weights,
    create,
    encode,
    example_weights,
    lay_out,
    training_condition,
    training_weights,
)
from gmm_diffusion.conditioning.embedding import EMBEDDINGS
from gmm_diffusion.conditioning.features import FEATURES, FeatureTransform, features
from gmm_diffusion.conditioning.kinds import KINDS, Kind, weigh_unlabelled
from gmm_diffusion.conditioning.settings import (
    Attributes,
    Classes,
    Clusters,
    Fitted,
    Unconditional,
)
from gmm_diffusion.conditioning.weights import SEMANTICS

__all__ = [
    "EMBEDDINGS",
    "FEATURES",
    "KINDS",
    "SEMANTICS",
    "AttributeTable",
    "Attributes",
    "Classes",
    "Clusters",
    "Conditioner",
    "FeatureTransform",
    "Fitted",
    "Kind",
    "Unconditional",
    "attribute_weights",
    "blur_covariances",
    "blur_weights",
    "check_weights",
    "create",
    "encode",
    "example_weights",
    "features",
    "lay_out",
    "training_condition",
    "training_weights",
    "weigh_unlabelled",
]
