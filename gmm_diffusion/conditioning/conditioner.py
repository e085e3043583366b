"""The conditioner: every fitted statistic between an example and its `Condition`, in one pytree.

Made once from the training split, stored in the checkpoint, never refitted on resume.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from gmm_diffusion.conditioning.attributes import AttributeTable
from gmm_diffusion.conditioning.embedding import EMBEDDINGS
from gmm_diffusion.conditioning.features import FeatureTransform, block_rows, features
from gmm_diffusion.conditioning.weights import SEMANTICS, label_restricted, mean_by_class, one_hot
from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture import GaussianMixture, responsibilities
from gmm_diffusion.random_keys import Host
from gmm_diffusion.types import Array, Condition, PyTree, Rows


@struct.dataclass
class Conditioner:
    """Fitted statistics of the conditioning.

    Attributes:
      mixture: in feature space; laid out (one component a class) or fitted.
      embedding: fitted statistics of the embedding, one of `embedding.EMBEDDINGS`.
      base: `[K]` mean responsibilities over the training distribution.
      component_class: `[K]` int32, the class of each component, or -1.
      class_weights: `[classes, K]`, `p(k | class)`; `[0, K]` without labels.
      bank_weights: `[M, K]` training weights kept for sampling.
      bank_labels: `[M]` int32 their classes, or -1.
      transform: from data to features; None for a mixture that is laid out over labels or
        attributes.
      centers: `[K, D]` centres of clusters in feature space, whose number is an example's label;
        None but for clusters.
      attributes: of the training examples in the bank, or None without any.
      embedding_name: key of `embedding.EMBEDDINGS`.
      semantics: key of `weights.SEMANTICS`.
      responsibilities: what weights of examples are: soft, hard or random (`kinds`).
      partition_seed: of the draw of random ones; else 0.
    """

    mixture: GaussianMixture
    embedding: PyTree
    base: Array
    component_class: Array
    class_weights: Array
    bank_weights: Array
    bank_labels: Array
    transform: FeatureTransform | None = None
    centers: Array | None = None
    attributes: AttributeTable | None = None
    embedding_name: str = struct.field(pytree_node=False, default="table")
    semantics: str = struct.field(pytree_node=False, default="example")
    responsibilities: str = struct.field(pytree_node=False, default="soft")
    partition_seed: int = struct.field(pytree_node=False, default=0)

    @property
    def num_components(self) -> int:
        """K."""
        return self.base.shape[0]

    @property
    def num_classes(self) -> int:
        """Classes that the conditioner can name."""
        return self.class_weights.shape[0]


def encode(
    conditioner: Conditioner, weights: Array, keys: Array | None = None, keep: Array | None = None
) -> Condition:
    """Mixture weights -> what the network reads, made outside the network.

    Args:
      conditioner: the fitted statistics.
      weights: `[B, K]`, each row on the simplex.
      keys: `[B]` typed keys, needed by the embedding `draws` only.
      keep: `[B]`, 0 selects the learned null embedding; None keeps all.

    Raises:
      InputError: weights of another shape, or, outside of a transformation, not on the simplex.
    """
    check_weights(conditioner, weights)
    apply = EMBEDDINGS[conditioner.embedding_name].apply
    if keep is None:
        keep = jnp.ones(weights.shape[0])
    return Condition(apply(conditioner.embedding, weights, keys), keep)


def check_weights(conditioner: Conditioner, weights: Array | np.ndarray) -> None:
    """Raises InputError unless `weights` is `[B, K]` and its rows are on the simplex.

    Within a transformation of JAX, where values are not known, it looks at the shape alone.
    """
    count = conditioner.num_components
    if jnp.ndim(weights) != 2 or weights.shape[1] != count:
        raise InputError(
            f"weights have shape {jnp.shape(weights)}; they must be [B, {count}], one weight for "
            "each component."
        )
    if isinstance(weights, jax.core.Tracer):
        return
    host = np.asarray(weights)
    if not (host.min(initial=0) >= 0 and np.abs(host.sum(axis=1) - 1).max(initial=0) < 1e-3):
        raise InputError("weights must not be negative, and each row must add to 1.")


def blur_weights(conditioner: Conditioner, weights: Array, amount: Array | float) -> Array:
    """Weights tempered towards the average: `(1 - amount) w + amount base`, for mixture guidance.

    Args:
      conditioner: the fitted statistics.
      weights: `[B, K]`.
      amount: from 0, which changes nothing, to 1, which forgets the request.
    """
    base = conditioner.base / jnp.sum(conditioner.base)
    return (1.0 - amount) * weights + amount * base[None]


def blur_covariances(conditioner: Conditioner, amount: Array | float) -> Conditioner:
    """Covariances `Sigma_k + amount W`, W the mean covariance within a component.

    What the network reads of a weight vector becomes what it would read of a wider mixture.

    Args:
      conditioner: the fitted statistics.
      amount: 0 changes nothing.

    Raises:
      ValueError: the embedding `table` has no covariances.
    """
    blur = EMBEDDINGS[conditioner.embedding_name].blur
    return dataclasses.replace(conditioner, embedding=blur(conditioner.embedding, amount))


def training_weights(conditioner: Conditioner, keys: Array, weights: Array, **options) -> Array:
    """The weights that the network is trained on: `[B, K]` example weights -> `[B, K]`.

    `options` go to the semantics (see `weights.mixture_semantics`).
    """
    # Without classes each component is a group of its own.
    index = jnp.arange(conditioner.num_components)
    group = jnp.where(conditioner.component_class >= 0, conditioner.component_class, -1 - index)
    semantics = SEMANTICS[conditioner.semantics]
    return semantics(keys, weights, conditioner.base, group, **options)


def training_condition(
    conditioner: Conditioner,
    weights: Array,
    semantics_keys: Array,
    draw_keys: Array,
    keep: Array | None = None,
    **options,
) -> tuple[Array, Condition]:
    """What the network is told of examples in a loss, and what it reads of that.

    Args:
      conditioner: the fitted statistics.
      weights: `[B, K]` of the examples.
      semantics_keys: `[B]`, of `training_weights`.
      draw_keys: `[B]`, of `encode`.
      keep: as of `encode`.
      **options: of the semantics.

    Returns:
      `[B, K]` weights, and the condition that they make.
    """
    told = training_weights(conditioner, semantics_keys, weights, **options)
    return told, encode(conditioner, told, draw_keys, keep)


def example_weights(
    mix: GaussianMixture,
    transform: FeatureTransform,
    component_class: np.ndarray,
    x: Rows,
    labels: np.ndarray | None,
    block: int = 4096,
    hard: bool = False,
) -> np.ndarray:
    """Weights `w(x)` of examples `x [N, ...]` in a fitted mixture, `[N, K]` on the host.

    Responsibilities, restricted to the example's own class where components belong to classes;
    `hard` makes them one-hot in the largest. Of `x` at most `block` examples are read at once.

    Raises:
      InputError: an example so far away that responsibilities are not finite.
    """
    num_components = mix.means.shape[0]
    owned = component_class.min() >= 0

    @jax.jit
    def weigh(x, labels):
        feature = features(transform, x)
        if owned:
            soft = label_restricted(mix, feature, jnp.asarray(component_class), labels)
        else:
            soft = responsibilities(mix, feature)
        known = jnp.isfinite(soft).all(axis=1)
        return (one_hot(soft.argmax(axis=1), num_components) if hard else soft), known

    if labels is None:
        labels = np.zeros(len(x), np.int32)
    rows, block = [], min(block, block_rows(x))
    for start in range(0, len(x), block):
        stop = min(start + block, len(x))
        # Always a full block, so that one compiled program serves all of them.
        take = np.arange(start, start + block) % len(x)
        found, known = (np.asarray(a)[: stop - start] for a in weigh(x[take], labels[take]))
        if not known.all():
            # Distances are squared in float32; the largest of not-a-numbers is the first component.
            raise InputError(
                f"example {start + int(known.argmin())} lies too far from the mixture for weights "
                "in float32; valid are values like those that the mixture was fitted to."
            )
        rows.append(found)
    return np.concatenate(rows)


def create(
    mix: GaussianMixture,
    transform: FeatureTransform | None,
    component_class: np.ndarray,
    weights: np.ndarray,
    labels: np.ndarray | None,
    num_classes: int,
    *,
    embedding_name: str,
    semantics: str,
    bank_size: int = 10_000,
    seed: int = 0,
    semantics_options: dict | None = None,
    centers: np.ndarray | None = None,
    attributes: AttributeTable | None = None,
    responsibilities: str = "soft",
    partition_seed: int = 0,
    **embedding_options,
) -> Conditioner:
    """Everything beside the mixture, from the training examples' weights.

    Args:
      mix: the mixture in feature space.
      transform: from data to features, or None.
      component_class: `[K]` class of each component, or -1.
      weights: `[N, K]` weights of all training examples, every augmentation of each included.
      labels: `[N]` their classes, or None.
      num_classes: classes; 0 without labels.
      embedding_name: key of `embedding.EMBEDDINGS`.
      semantics: key of `weights.SEMANTICS`.
      bank_size: how many training weights to keep for sampling; one a class at least.
      seed: of the bank's choice, the embedding's frequencies and its normalisation.
      semantics_options: options of the semantics while training.
      centers: `[K, D]` centres of clusters, or None.
      attributes: with all N training examples' in place of the bank's, or None.
      responsibilities: as of `Conditioner`, and so the next.
      partition_seed: likewise.
      **embedding_options: options of the embedding's fit.
    """
    rng = np.random.default_rng([seed, Host.BANK])
    order, needed = rng.permutation(len(weights)), 0
    if labels is not None:
        # One example of every class at least, or a class could not be asked for.
        first = np.unique(labels[order], return_index=True)[1]
        order, needed = np.concatenate([order[first], np.delete(order, first)]), len(first)
    chosen = np.sort(order[: max(bank_size, needed)])
    base = weights.mean(axis=0, dtype=np.float64).astype(np.float32)
    # A component that no example uses may still be asked for; it must not be a division by zero.
    base = np.maximum(base, 1e-8)
    bank_labels = np.full(len(chosen), -1) if labels is None else labels[chosen]
    class_weights = (
        np.zeros((0, len(base)), np.float32)
        if labels is None
        else mean_by_class(weights, labels, num_classes)
    )
    if attributes is not None:
        bank = jnp.asarray(np.asarray(attributes.bank)[chosen])
        attributes = dataclasses.replace(attributes, bank=bank)
    conditioner = Conditioner(
        mixture=mix,
        embedding=None,
        base=jnp.asarray(base),
        component_class=jnp.asarray(np.asarray(component_class, np.int32)),
        class_weights=jnp.asarray(class_weights),
        bank_weights=jnp.asarray(weights[chosen]),
        bank_labels=jnp.asarray(np.asarray(bank_labels, np.int32)),
        transform=transform,
        centers=None if centers is None else jnp.asarray(centers),
        attributes=attributes,
        embedding_name=embedding_name,
        semantics=semantics,
        responsibilities=responsibilities,
        partition_seed=partition_seed,
    )

    @jax.jit
    def draw(key, bank):
        keys = jax.random.split(key, len(chosen))
        return training_weights(conditioner, keys, bank, **(semantics_options or {}))

    seen = draw(jax.random.key(seed), conditioner.bank_weights)
    fit = EMBEDDINGS[embedding_name].fit
    embedding = fit(mix, np.asarray(seen), seed=seed, **embedding_options)
    return dataclasses.replace(conditioner, embedding=embedding)


def lay_out(num_components: int) -> GaussianMixture:
    """Equal spherical components at the corners of a simplex, `D = K = num_components`."""
    corners = np.sqrt(num_components) * np.eye(num_components)
    return GaussianMixture.create(
        np.full(num_components, 1.0 / num_components),
        corners - corners.mean(axis=0),
        np.full(num_components, 0.05),
        "spherical",
    )
