"""Statistics that are fitted to the data once a run and never again, as flat arrays and back."""

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import struct, traverse_util

from gmm_diffusion.conditioning import AttributeTable, Conditioner, FeatureTransform
from gmm_diffusion.conditioning.embedding import EMBEDDINGS
from gmm_diffusion.data.batches import Transform
from gmm_diffusion.diffusion.noise_levels import NoiseLaw
from gmm_diffusion.mixture import GaussianMixture
from gmm_diffusion.model.embedder import Embedder
from gmm_diffusion.types import Array


@struct.dataclass
class FittedStatistics:
    """What stands in a checkpoint beside the state.

    Attributes:
      transform: centring of the data.
      sigma_data: `[]` RMS of the centred training data.
      conditioner: of the conditioning, or None.
      frozen_classifier: nested dict of parameters of a classifier that is not trained, or None.
      noise_law: of `diffusion.law` auto; None where the law is given.
      embedder: the classifier whose last hidden layer the conditioner's features are made of, or
        None.
      latent: whether the data are latents, float images that are no pictures.
    """

    transform: Transform
    sigma_data: Array
    conditioner: Conditioner | None = None
    frozen_classifier: dict | None = None
    noise_law: NoiseLaw | None = None
    embedder: Embedder | None = None
    latent: bool = struct.field(pytree_node=False, default=False)


def to_arrays(fitted: FittedStatistics) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """`(arrays, settings)`: every array by its dotted name, and every static field likewise."""
    arrays, settings = {}, {}

    def visit(node, prefix):
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            name = prefix + field.name
            if value is None:
                continue
            if isinstance(value, dict):
                flat = traverse_util.flatten_dict(value, sep="/")
                arrays.update({f"{name}/{k}": np.asarray(leaf) for k, leaf in flat.items()})
            elif dataclasses.is_dataclass(value):
                visit(value, name + ".")
            elif field.metadata.get("pytree_node", True):
                arrays[name] = np.asarray(value)
            else:
                settings[name] = value

    visit(fitted, "")
    return arrays, settings


def from_arrays(arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> FittedStatistics:
    """The inverse of `to_arrays`, bit for bit."""
    types = {
        "transform": Transform,
        "noise_law": NoiseLaw,
        "embedder": Embedder,
        "embedder.transform": Transform,
        "conditioner": Conditioner,
        "conditioner.attributes": AttributeTable,
        "conditioner.mixture": GaussianMixture,
        "conditioner.transform": FeatureTransform,
    }
    if "conditioner.embedding_name" in settings:
        embedding = EMBEDDINGS[settings["conditioner.embedding_name"]]
        types["conditioner.embedding"] = embedding.fitted_type
    names = [*arrays, *settings]

    def make(cls, prefix):
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            name = prefix + field.name
            if name in arrays:
                # `jnp.asarray` would compile a program for each shape.
                values[field.name] = jax.device_put(arrays[name])
            elif name in settings:
                values[field.name] = _hashable(settings[name])
            elif name in types and (
                any(other.startswith(name + ".") for other in names)
                or not dataclasses.fields(types[name])
            ):
                values[field.name] = make(types[name], name + ".")
            else:
                # A dict has its leaves under its name. Nothing under it is the default: of what is
                # absent, or of a field that the run was written before.
                inside = {
                    tuple(n.removeprefix(name + "/").split("/")): jax.device_put(arrays[n])
                    for n in arrays
                    if n.startswith(name + "/")
                }
                default = None if field.default is dataclasses.MISSING else field.default
                values[field.name] = traverse_util.unflatten_dict(inside) or default
        return cls(**values)

    return make(FittedStatistics, "")


def _hashable(value):
    """A static field as it was: JSON made lists of its tuples."""
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def other_data(ours: FittedStatistics, theirs: FittedStatistics) -> bool:
    """Whether two models were trained on other data, as far as their centring tells."""
    a, b = (np.asarray(fitted.transform.mean) for fitted in (ours, theirs))
    return a.shape != b.shape or not np.allclose(a, b, atol=1e-5)


def other_mixture(ours: Conditioner | None, theirs: Conditioner | None, reads: bool = True) -> str:
    """What two conditionings do not share, in words, or "" where a weight means the same in both.

    Args:
      ours: of the model whose weights are given.
      theirs: of the one that is to understand them; the embedding may be another.
      reads: whether theirs is asked for samples, so that the semantics must be the same, too. A
        classifier sees whose component an example is, which is no question of semantics.
    """
    if ours is None or theirs is None:
        if ours is theirs:
            return ""
        return "no mixture" if theirs is None else "a mixture where this run has none"
    if ours.num_components != theirs.num_components:
        return f"{theirs.num_components} components where this run has {ours.num_components}"
    how = theirs.responsibilities, ours.responsibilities
    if "random" in how and (how[0] != how[1] or ours.partition_seed != theirs.partition_seed):
        return "examples in other components, drawn at random"
    if reads and how[0] != how[1]:
        return f"{how[0]} responsibilities where this run has {how[1]}"
    if reads and ours.semantics != theirs.semantics:
        return f"semantics {theirs.semantics} where this run has {ours.semantics}"
    pairs = [
        (ours.mixture.means, theirs.mixture.means),
        (ours.mixture.variances, theirs.mixture.variances),
        (ours.mixture.weights, theirs.mixture.weights),
        (ours.base, theirs.base),
        (ours.component_class, theirs.component_class),
    ]
    same = ours.mixture.kind == theirs.mixture.kind and all(
        a.shape == b.shape and np.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs
    )
    return "" if same else "another mixture"
