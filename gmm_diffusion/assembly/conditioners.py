"""What is fitted on the training split once: centring, mixture and embedding."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion import conditioning
from gmm_diffusion.assembly import embedders, noise
from gmm_diffusion.assembly.classifiers import has_classifier, objective
from gmm_diffusion.assembly.kind import kind, settings
from gmm_diffusion.conditioning.kinds import Examples, Kind
from gmm_diffusion.data import Dataset, Split, batches
from gmm_diffusion.model.embedder import embed
from gmm_diffusion.model.fitted import FittedStatistics
from gmm_diffusion.types import Rows

log = logging.getLogger(__name__)


def fit_statistics(config: ConfigDict, data: Dataset) -> FittedStatistics:
    """Everything that is fitted on the training split before training."""
    return fit_with_weights(config, data)[0]


def fit_with_weights(
    config: ConfigDict, data: Dataset
) -> tuple[FittedStatistics, np.ndarray | None]:
    """`fit_statistics`, and the weights of the training split as `split_weights` has them."""
    sample = data.train.sample()
    transform, measured = batches.fit_transform_stats(sample.x)
    sigma_data = config.diffusion.sigma_data or measured
    noise_law = noise.fit(config, sample.x)
    conditioner = weights = None
    own, embedder = kind(config), None
    if own is not None:
        if own.fitted and config.conditioning.features == "classifier":
            embedder = embedders.load(config, data)
        examples = _examples(config, data.train, transform, embedder, data.num_classes)
        if data.train.streamed:
            views = _examples(config, sample, transform, embedder, data.num_classes).x
            examples = dataclasses.replace(examples, sample=views)
        conditioner, weights = _conditioner(config, own, data, examples)
        weights = _by_view(weights, data.train)
        _say_constant(config, conditioner)
    made = FittedStatistics(
        transform,
        jnp.asarray(np.float32(sigma_data)),
        conditioner,
        noise_law=noise_law,
        embedder=embedder,
        latent=data.is_latent,
    )
    if has_classifier(config):
        objective(config, made)
    return made, weights


def _conditioner(config: ConfigDict, own: Kind, data: Dataset, examples: Examples):
    """The conditioner, and the weights `[N or 2N, K]` that it was made of."""
    group = config.conditioning
    seed = config.training.seed
    layout = own.fit(examples, settings(config), seed)
    weights = own.weigh(layout, examples)
    semantics = group.semantics if own.spread else "example"
    conditioner = conditioning.create(
        layout.mixture,
        layout.transform,
        layout.component_class,
        weights,
        # A set of attributes is asked for by its attributes.
        None if own.of_attributes else examples.label,
        0 if own.of_attributes else data.num_classes,
        embedding_name=group.embedding,
        semantics=semantics,
        bank_size=group.bank_size,
        seed=seed,
        semantics_options=_mixture_options(config) if semantics == "mixture" else {},
        centers=layout.centers,
        attributes=_attribute_table(data, examples, own.of_attributes),
        responsibilities=layout.responsibilities,
        partition_seed=layout.partition_seed,
        num_features=group.embedding_features,
        num_draws=group.num_draws,
    )
    return conditioner, weights


def _attribute_table(data, examples, laid_out):
    if not data.attribute_names:
        return None
    return conditioning.AttributeTable(
        examples.attributes,
        jnp.asarray(examples.attributes.mean(axis=0).astype(np.float32)),
        names=tuple(data.attribute_names),
        exclusive=tuple(data.exclusive),
        laid_out=laid_out,
    )


def _say_constant(config, conditioner):
    """A column of one value in training says nothing, and is none of the features."""
    transform = conditioner.transform
    if transform is None:
        return
    columns, group = len(transform.mean), config.conditioning
    if group.features == "pca":
        columns = group.feature_dim
    if constant := columns - len(transform.scale):
        log.warning(
            "%d of the %d columns of conditioning.features %s have one value in the training "
            "split; they do not count.",
            constant,
            columns,
            group.features,
        )


def _examples(config, split, transform, embedder, num_classes):
    """The split's N examples, and where training mirrors them their N mirror images behind."""
    flip, own = config.data.flip, kind(config)
    views = 2 if flip else 1
    label, attributes = (
        None if known is None else np.concatenate([known] * views)
        for known in (split.label, split.attributes)
    )
    x: Rows = batches.Views(split.x, jax.device_get(transform), flip)
    if own is not None and own.fitted:
        if config.conditioning.features == "own":
            assert split.features is not None, "data without features are refused before"
            x = np.concatenate([split.features] * views)
        elif embedder is not None:
            x = embed(embedder, split.x, flip)
    return Examples(x, label, attributes, num_classes)


def _by_view(weights, split):
    return weights.reshape(-1, len(split), weights.shape[1])


def split_examples(config: ConfigDict, fitted: FittedStatistics, split: Split) -> Examples:
    """A split's N examples as its mixture sees them, mirrored ones behind where training mirrors.

    Of a model that is conditioned.
    """
    assert fitted.conditioner is not None
    classes = fitted.conditioner.num_classes
    return _examples(config, split, fitted.transform, fitted.embedder, classes)


def split_weights(config: ConfigDict, fitted: FittedStatistics, split: Split) -> np.ndarray | None:
    """Mixture weights of a split's examples, `[1 or 2 (mirrored), N, K]`, or None."""
    own, conditioner = kind(config), fitted.conditioner
    if own is None or conditioner is None:
        return None
    return _by_view(own.weigh(conditioner, split_examples(config, fitted, split)), split)


def semantics_options(config: ConfigDict, fitted: FittedStatistics) -> dict:
    """Options of `conditioning.training_weights` for this run."""
    conditioner = fitted.conditioner
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
