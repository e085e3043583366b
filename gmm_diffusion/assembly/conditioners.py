"""What is fitted on the training split once: centring, mixture and embedding."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion import conditioning
from gmm_diffusion.assembly import noise
from gmm_diffusion.assembly.classifiers import has_classifier, objective
from gmm_diffusion.conditioning.fitting import fit_clusters, fit_mixture
from gmm_diffusion.data import Dataset, batches
from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture import GaussianMixture
from gmm_diffusion.model.fitted import Constants


def constants(config: ConfigDict, data: Dataset) -> Constants:
    """Everything that is fitted on the training split before training."""
    transform, measured = batches.fit_transform_stats(data.train.x)
    sigma_data = config.diffusion.sigma_data or measured
    noise_law = noise.fit(config, data.train.x)
    conditioner = _conditioner(config, data, transform)
    made = Constants(transform, jnp.float32(sigma_data), conditioner, noise_law=noise_law)
    if has_classifier(config):
        objective(config, made)
    return made


def _conditioner(config, data, transform):
    group = config.conditioning
    if group.kind == "none":
        return None
    # Weights that are one-hot, or sets that hold together, leave nothing to draw.
    semantics = group.semantics if group.kind == "gmm" else "example"
    seed = config.training.seed
    views = _all_views(config, data.train, transform)
    feature_transform = centers = None
    if group.kind == "class":
        mix, component_class = conditioning.lay_out(data.num_classes), np.arange(data.num_classes)
    elif group.kind == "attributes":
        mix = conditioning.lay_out(2 * len(data.attribute_names))
        component_class = np.full(2 * len(data.attribute_names), -1)
    else:
        feature_transform, points, labels = _features(config, views)
        fit = _fit_clusters if group.kind == "clusters" else _fit_mixture
        mix, component_class, centers = fit(config, points, labels, data.num_classes)
    weights = _weights(config, mix, feature_transform, component_class, centers, views)
    return conditioning.create(
        mix,
        feature_transform,
        component_class,
        weights,
        # A set of attributes is asked for by its attributes.
        None if group.kind == "attributes" else views.label,
        0 if group.kind == "attributes" else data.num_classes,
        embedding_name=group.embedding,
        semantics=semantics,
        bank_size=group.bank_size,
        seed=seed,
        semantics_options=_mixture_options(config) if semantics == "mixture" else {},
        centers=centers,
        attributes=_attribute_table(config, data, views),
        num_features=group.embedding_features,
        num_draws=group.num_draws,
    )


def _attribute_table(config, data, views):
    if not data.attribute_names:
        return None
    return conditioning.AttributeTable(
        views.attributes,
        jnp.asarray(views.attributes.mean(axis=0), jnp.float32),
        names=tuple(data.attribute_names),
        exclusive=tuple(data.exclusive),
        laid_out=config.conditioning.kind == "attributes",
    )


def _features(config, views):
    """The feature transform, and features and classes of the examples that the fit sees."""
    group = config.conditioning
    try:
        transform = conditioning.FEATURES[group.features](views.x, group.feature_dim)
    except ValueError as error:
        raise InputError(f"conditioning.feature_dim: {error}") from error
    rng = np.random.default_rng([config.training.seed, 3])
    rows = np.sort(rng.permutation(len(views.x))[: group.em_max_points])
    embed = jax.jit(functools.partial(conditioning.features, transform))
    points = np.concatenate(
        [np.asarray(embed(views.x[r])) for r in np.array_split(rows, -(-len(rows) // 8192))]
    )
    return transform, points, views.label[rows] if group.per_class else None


def _fit_mixture(config, points, labels, num_classes):
    group = config.conditioning
    try:
        mix, component_class = fit_mixture(
            jax.random.fold_in(jax.random.key(config.training.seed), 4),
            points,
            labels,
            num_classes,
            group.num_components,
            group.covariance,
            num_restarts=group.em_starts,
            max_iterations=group.em_iterations,
            tolerance=group.em_tolerance,
            covariance_floor=group.covariance_floor,
        )
    except ValueError as error:
        raise InputError(
            f"conditioning.num_components is {group.num_components}, and the mixture could not be "
            f"fitted: {error}"
        ) from error
    return mix, component_class, None


def _fit_clusters(config, points, labels, num_classes):
    """Clusters are labels: the network is told their number and nothing of where they lie."""
    num, starts = config.conditioning.num_components, config.conditioning.em_starts
    seed = config.training.seed
    try:
        centers, owner = fit_clusters(points, labels, num_classes, num, starts, seed)
    except ValueError as error:
        raise InputError(f"conditioning.num_components is {num}: {error}") from error
    return conditioning.lay_out(num), owner, centers


def _weights(config, mix, feature_transform, component_class, centers, views):
    """Weights `[N, K]` of examples."""
    if config.conditioning.kind == "attributes":
        return np.asarray(conditioning.attribute_weights(views.attributes))
    if centers is not None:
        # Equal spheres: the largest responsibility is that of the nearest centre.
        ones = np.ones(len(centers))
        mix = GaussianMixture.create(ones / len(ones), np.asarray(centers), ones, "spherical")
    return conditioning.example_weights(
        mix, feature_transform, component_class, views.x, views.label, hard=centers is not None
    )


class _Views(NamedTuple):
    """Centred examples `[N, ...]` with classes `[N]` and attributes `[N, A]`, or None."""

    x: np.ndarray
    label: np.ndarray | None
    attributes: np.ndarray | None


def _all_views(config, split, transform) -> "_Views":
    """Centred examples `[N or 2N, ...]` with every augmentation of each, and what is known."""
    index = np.arange(len(split))
    views = [np.zeros(len(split), bool)]
    if config.data.flip:
        views.append(np.ones(len(split), bool))
    x = np.concatenate([batches.make_batch(split.x, index, view, transform) for view in views])
    label, attributes = (
        None if known is None else np.concatenate([known] * len(views))
        for known in (split.label, split.attributes)
    )
    return _Views(x, label, attributes)


def split_weights(config: ConfigDict, constants: Constants, split) -> np.ndarray | None:
    """Mixture weights of a split's examples, `[1 or 2 (mirrored), N, K]`, or None."""
    conditioner = constants.conditioner
    if conditioner is None:
        return None
    weights = _weights(
        config,
        conditioner.mixture,
        conditioner.transform,
        np.asarray(conditioner.component_class),
        conditioner.centers,
        _all_views(config, split, constants.transform),
    )
    return weights.reshape(-1, len(split), weights.shape[1])


def semantics_options(config: ConfigDict, constants: Constants) -> dict:
    """Options of `conditioning.training_weights` for this run."""
    conditioner = constants.conditioner
    if conditioner is None or conditioner.semantics != "mixture":
        return {}
    return _mixture_options(config)


def _mixture_options(config):
    group = config.conditioning
    return {
        "concentration": tuple(group.concentration),
        "shares": tuple(group.shares),
        "one_hot_share": group.one_hot_share,
    }
