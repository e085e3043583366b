"""From a config to the parts of a run; the only reader of the groups that define a model."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from gmm_diffusion import conditioning
from gmm_diffusion.conditioning.fitting import fit_clusters, fit_mixture
from gmm_diffusion.data import DATASETS, Dataset, batches
from gmm_diffusion.data.dataset import combination_classes
from gmm_diffusion.diffusion import noise_levels
from gmm_diffusion.errors import InputError
from gmm_diffusion.generation import Guidance, Guide, Pull, make_generator
from gmm_diffusion.mixture import GaussianMixture, ngmg
from gmm_diffusion.networks import NETWORKS, LogVariance
from gmm_diffusion.networks.encoder import ENCODERS
from gmm_diffusion.networks.initialisation import initialise
from gmm_diffusion.sampling.parallel import PicardInfo, picard
from gmm_diffusion.sampling.samplers import SAMPLERS
from gmm_diffusion.training import classifier_loss, contrastive_term
from gmm_diffusion.training import loss as loss_lib
from gmm_diffusion.training.constants import Constants
from gmm_diffusion.training.optimizer import learning_rate, make_optimizer, make_sgd
from gmm_diffusion.training.step import train_step
from gmm_diffusion.types import LossFn, PyTree, Sampler


def dataset(config: ConfigDict) -> Dataset:
    """The data, in memory; InputError if they cannot be had or do not fit the conditioning."""
    data = config.data
    options = {
        "digits": lambda: {
            "heldout_fraction": data.heldout_fraction,
            "split_seed": data.split_seed,
        },
        "toy": lambda: {
            "name": data.toy_name,
            "num_train": data.num_train,
            "num_heldout": data.num_heldout,
            "seed": data.split_seed,
        },
        "faces": lambda: {
            "resolution": data.resolution or 32,
            "num_train": data.num_train,
            "num_heldout": data.num_heldout,
            "seed": data.split_seed,
            "attributes": tuple(data.attributes),
            "correlation": float(data.correlation),
            "held_out": tuple(data.held_out),
        },
        "tfds_images": lambda: {
            "tfds_name": data.tfds_name,
            "data_dir": data.data_dir or None,
            "train_split": data.train_split,
            "heldout_split": data.heldout_split or None,
            "heldout_fraction": data.heldout_fraction,
            "resolution": data.resolution or None,
            "crop": data.crop,
            "max_examples": data.max_examples or None,
            "attributes": tuple(data.attributes),
        },
        "image_folder": lambda: {
            "data_dir": data.data_dir,
            "attributes": tuple(data.attributes),
            "heldout_fraction": data.heldout_fraction,
            "split_seed": data.split_seed,
            "resolution": data.resolution or None,
            "crop": data.crop,
            "max_examples": data.max_examples or None,
        },
        "cifar_archive": lambda: {
            "data_dir": data.data_dir,
            "resolution": data.resolution or None,
            "crop": data.crop,
            "max_examples": data.max_examples or None,
        },
    }
    loaded = DATASETS[data.name](**options[data.name]())
    if loaded.attribute_names and not loaded.num_classes:
        loaded = combination_classes(loaded)
    _check_fit(config, loaded)
    return loaded


def _check_fit(config: ConfigDict, data: Dataset) -> None:
    conditioning = config.conditioning
    if conditioning.kind == "attributes" and not data.attribute_names:
        raise InputError(
            f"conditioning.kind 'attributes' needs attributes, and {data.name} has none; use gmm, "
            "class or none."
        )
    fits_each_class = conditioning.kind in ("gmm", "clusters") and conditioning.per_class
    needs_labels = conditioning.kind == "class" or fits_each_class
    if needs_labels and not data.num_classes:
        raise InputError(
            f"conditioning.kind {conditioning.kind!r} with per_class {conditioning.per_class} "
            f"needs labels, and {data.name} has none; use kind gmm with per_class False, or none."
        )
    if needs_labels:
        missing = set(range(data.num_classes)) - set(np.unique(data.train.label).tolist())
        if missing:
            raise InputError(
                f"Class {min(missing)} of {data.name} has no training example; "
                "every class needs at least one."
            )
    if fits_each_class and conditioning.num_components % data.num_classes:
        raise InputError(
            f"conditioning.num_components is {conditioning.num_components}; with per_class it "
            f"must be a multiple of the {data.num_classes} classes."
        )
    if data.is_image:
        factor = 2 ** (len(config.network.channel_mult) - 1)
        height, width, _ = data.shape
        if height % factor or width % factor:
            raise InputError(
                f"network.channel_mult has {len(config.network.channel_mult)} entries; images of "
                f"{height}x{width} can be halved that often only if divisible by {factor}."
            )


def constants(config: ConfigDict, data: Dataset) -> Constants:
    """Everything that is fitted on the training split before training."""
    transform, measured = batches.fit_transform_stats(data.train.x)
    sigma_data = config.diffusion.sigma_data or measured
    conditioner = _conditioner(config, data, transform)
    made = Constants(transform, jnp.float32(sigma_data), conditioner)
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
    num = config.conditioning.num_components
    try:
        centers, owner = fit_clusters(points, labels, num_classes, num, config.training.seed)
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
    return {"concentration": tuple(group.concentration), "shares": tuple(group.shares)}


def network(config: ConfigDict):
    """The linen network."""
    group = config.network
    dtype = jnp.dtype(group.dtype)
    if group.name == "mlp":
        return NETWORKS["mlp"](group.width, group.num_blocks, group.dropout, dtype)
    return NETWORKS["unet"](
        group.channels,
        tuple(group.channel_mult),
        group.num_blocks,
        tuple(group.attention_resolutions),
        group.head_channels,
        group.dropout,
        dtype,
    )


def _log_variance(config):
    return LogVariance(config.network.log_variance_features)


def init_params(config: ConfigDict, shape: tuple[int, ...], constants: Constants) -> PyTree:
    """Parameters at step 0, a dict of parts; a pure function of `training.seed`."""
    x, c_noise, cond = jnp.zeros((1, *shape)), jnp.zeros(1), None
    conditioner = constants.conditioner
    if conditioner is not None:
        keys = jax.random.split(jax.random.key(0), 1)
        cond = jax.eval_shape(conditioning.encode, conditioner, conditioner.base[None], keys)
        cond = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), cond)
    inits = {}
    if config.training.task == "denoiser":
        inits = {
            "network": lambda key: network(config).init(key, x, c_noise, cond),
            "log_variance": lambda key: _log_variance(config).init(key, c_noise),
        }
    if trains_classifier(config):
        level = c_noise if config.classifier.noisy else None
        inits["classifier"] = lambda key: encoder(config, constants).init(key, x, level)
    return {part: initialise(init, config.training.seed) for part, init in inits.items()}


def denoise(config: ConfigDict, constants: Constants) -> Callable:
    """`(params, x, sigma, cond=None, keys=None) -> x0` in centred units."""
    return loss_lib.make_denoise(network(config), float(constants.sigma_data))


def has_classifier(config: ConfigDict) -> bool:
    """Whether a classifier has a part in training, trained or frozen."""
    return config.training.task == "classifier" or config.ngmg.weight > 0


def trains_classifier(config: ConfigDict) -> bool:
    """Whether the parameters have a part "classifier"."""
    return has_classifier(config) and not config.ngmg.workdir


def objective(
    config: ConfigDict, constants: Constants
) -> classifier_loss.Objective | classifier_loss.AttributeObjective:
    """What the classifier's output costs; InputError for centres that allow no scale."""
    group = config.classifier
    mix = constants.conditioner.mixture
    if config.conditioning.kind == "attributes":
        num = mix.num_components // 2
        # The centres of an attribute are 1 apart.
        return classifier_loss.AttributeObjective(
            group.loss, num, tuple(group.scales), group.form
        )
    scale = mix
    if group.scales:
        scale = ngmg.scales(mix.means, tuple(group.scales))
    return classifier_loss.Objective(group.loss, mix, scale, group.form)


def encoder(config: ConfigDict, constants: Constants):
    """The linen network of the classifier."""
    group = config.classifier
    return ENCODERS[group.name](
        objective(config, constants).out_dim, group.width, group.embedding_dim, group.normalize
    )


def classify(config: ConfigDict, constants: Constants) -> Callable:
    """`(params of the part, x, sigma=None) -> (out, embedding)`, of centred data."""
    return classifier_loss.make_classify(
        encoder(config, constants), float(constants.sigma_data), config.classifier.noisy
    )


def _term(config, constants):
    """The classifier's term of a denoiser's loss, or None."""
    group = config.ngmg
    if not group.weight:
        return None
    return classifier_loss.make_term(
        classify(config, constants),
        objective(config, constants),
        weight=float(group.weight),
        sigma_data=float(constants.sigma_data),
        frozen=constants.frozen_classifier,
        on_denoised=group.on_denoised,
        teach_denoiser=group.teach_denoiser,
        teach_classifier=group.teach_classifier,
    )


def _contrast(config, constants):
    """The contrastive term of a denoiser's loss, or None."""
    group = config.contrastive
    if not group.weight:
        return None
    return contrastive_term.make_contrast(
        denoise(config, constants),
        loss_lib.make_log_variance(_log_variance(config)),
        weight=float(group.weight),
        zeta=tuple(group.zeta),
        num_points=group.num_points,
        stride=config.training.batch_size // group.points,
        chunk=group.chunk,
        sigma_data=float(constants.sigma_data),
        sigma_log_mean=config.diffusion.sigma_log_mean,
        sigma_log_std=config.diffusion.sigma_log_std,
    )


def loss_fn(config: ConfigDict, constants: Constants) -> LossFn:
    """The training loss."""
    if config.training.task == "classifier":
        return classifier_loss.make_classifier_loss_fn(
            classify(config, constants),
            objective(config, constants),
            noisy=config.classifier.noisy,
            sigma_log_mean=config.diffusion.sigma_log_mean,
            sigma_log_std=config.diffusion.sigma_log_std,
        )
    return loss_lib.make_loss_fn(
        denoise(config, constants),
        loss_lib.make_log_variance(_log_variance(config)),
        constants.conditioner,
        sigma_data=float(constants.sigma_data),
        sigma_log_mean=config.diffusion.sigma_log_mean,
        sigma_log_std=config.diffusion.sigma_log_std,
        null_probability=config.conditioning.dropout,
        semantics_options=semantics_options(config, constants),
        term=_term(config, constants),
        contrast=_contrast(config, constants),
    )


def optimizer(config: ConfigDict) -> dict[str, optax.GradientTransformation]:
    """One optimiser for each part of the parameters."""
    made = _optimizer(config, "adam", config.optimizer.learning_rate)
    parts = {"network": made, "log_variance": made} if config.training.task == "denoiser" else {}
    if trains_classifier(config):
        group = config.classifier
        parts["classifier"] = _optimizer(config, group.optimizer, group.learning_rate)
    return parts


def _optimizer(config, name, peak):
    group = config.optimizer
    schedule = learning_rate(
        group.schedule,
        peak,
        group.warmup_steps,
        group.decay_steps,
        config.training.num_steps,
    )
    if name == "sgd":
        return make_sgd(schedule, config.classifier.momentum, group.clip_norm)
    return make_optimizer(schedule, group.beta1, group.beta2, group.epsilon, group.clip_norm)


def train_step_fn(config: ConfigDict, constants: Constants) -> Callable:
    """`(state, batch, key, axis_name=None) -> (state, metrics)`."""
    return functools.partial(
        train_step,
        loss_fn=loss_fn(config, constants),
        optimizer=optimizer(config),
        ema_widths=tuple(config.training.ema_widths),
    )


def sampler(config: ConfigDict, sigma_data: float = 1.0) -> Sampler:
    """The sampler with its options bound; with a window, `picard` of its step."""
    group = config.sample
    options = {}
    if group.sampler == "heun":
        options = {
            "churn": group.churn,
            "churn_min": group.churn_min,
            "churn_max": group.churn_max,
            "churn_noise": group.churn_noise,
        }
    elif group.sampler == "ancestral":
        options = {"eta": group.eta}
    if group.parallel_window:
        return functools.partial(
            picard,
            step=group.sampler,
            window=group.parallel_window,
            tolerance=float(group.parallel_tolerance),
            sigma_data=sigma_data,
            **options,
        )
    return functools.partial(SAMPLERS[group.sampler], **options)


def _sigmas(config):
    group = config.sample
    return noise_levels.karras(group.steps, group.sigma_min, group.sigma_max, group.rho)


def evaluations(config: ConfigDict) -> dict[str, int]:
    """Calls for one sample of the main model, and of what guides it, which may be the same network.

    Both calls of a doubled batch count. Parallel sampling takes more: see `parallel_cost`.
    """
    levels = SAMPLERS[config.sample.sampler].levels(np.asarray(_sigmas(config)))
    low, high = config.guidance.interval
    guided = config.guidance.kind != "none" and config.guidance.scale != 1
    inside = (levels >= low) & (levels <= high)
    return {"evaluations": len(levels), "guide_evaluations": int(inside.sum()) if guided else 0}


def parallel_cost(config: ConfigDict, took: list[PicardInfo]) -> dict[str, float]:
    """What parallel sampling took, a mean over samples; it has no fixed number of evaluations."""
    rounds, calls = (
        np.concatenate([np.asarray(getattr(info, name)) for info in took])
        for name in ("rounds", "evaluations")
    )
    # A round asks at many noise levels at once, and so the guide too.
    guided = config.guidance.kind != "none" and config.guidance.scale != 1
    return {
        "evaluations": float(calls.mean()),
        "sequential_evaluations": evaluations(config)["evaluations"],
        "guide_evaluations": float(calls.mean()) if guided else 0,
        "rounds": float(rounds.mean()),
        "most_rounds": int(rounds.max()),
    }


def guidance(config: ConfigDict, guide: Guide | None = None) -> Guidance | None:
    """How samples are guided, or None where they are not.

    Args:
      config: its group `guidance`.
      guide: for the kind auto and for `guidance.energy`; see `training.guide.load`.
    """
    group = config.guidance
    kind = "none" if group.scale == 1 else group.kind
    if kind == "none" and not group.energy:
        return None
    return Guidance(
        kind,
        float(group.scale),
        tuple(group.interval),
        group.limit or None,
        group.blur,
        float(group.blur_amount),
        float(group.energy),
        guide,
    )


def pull(config: ConfigDict, constants: Constants, params: PyTree | None = None) -> Pull:
    """The classifier that `config` and `constants` describe, as a guide."""
    read, cost = classify(config, constants), objective(config, constants)
    return Pull(params, lambda params, x, weights: cost(read(params, x)[0], weights))


def generator(
    config: ConfigDict,
    constants: Constants,
    shape: tuple[int, ...],
    guidance: Guidance | None = None,
) -> Callable:
    """Draws samples; see `generation.make_generator`."""
    return make_generator(
        denoise(config, constants),
        constants,
        sampler(config, float(constants.sigma_data)),
        _sigmas(config),
        shape,
        config.sample.batch_size,
        guidance,
        parallel=config.sample.parallel_window > 0,
    )
