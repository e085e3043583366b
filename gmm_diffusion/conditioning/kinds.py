"""The kinds of conditioning: where a mixture comes from, and what weights an example has in it.

  gmm         fitted to features of the data, by EM or k-means; responsibilities, soft or hard
  clusters    centres of k-means in features of the data; labels made of them
  class       one component a class; one-hot
  attributes  two components an attribute, absent and present; equal weight on those that hold

Without a kind there is no mixture, and nothing to condition on.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gmm_diffusion.conditioning.attributes import attribute_weights
from gmm_diffusion.conditioning.conditioner import Conditioner, example_weights, lay_out
from gmm_diffusion.conditioning.features import FEATURES, FeatureTransform, block_rows, features
from gmm_diffusion.conditioning.fitting import fit_clusters, fit_mixture, fit_spheres
from gmm_diffusion.conditioning.settings import Fitted
from gmm_diffusion.conditioning.weights import one_hot
from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture import GaussianMixture
from gmm_diffusion.random_keys import Host, Run
from gmm_diffusion.types import Rows

# Features are made of at most so many examples at once.
_FEATURE_ROWS = 8192
# Values of the features that a mixture is fitted to, where not all examples fit into memory.
_POINT_VALUES = 1 << 26


@dataclasses.dataclass(frozen=True)
class Examples:
    """A split, with every augmentation of each example.

    Attributes:
      x: `[N, ...]` float32 that features are made of (`FeatureTransform.source`), such as centred
        data; nothing reads more than a block at once.
      label: `[N]` int32 classes from 0, or None.
      attributes: `[N, A]` uint8 of 0 and 1, or None.
      num_classes: classes; 0 without labels.
      sample: of `x`, what stands for all of it in the fit of features, since `x` does not fit into
        memory; or None.
    """

    x: Rows
    label: np.ndarray | None = None
    attributes: np.ndarray | None = None
    num_classes: int = 0
    sample: Rows | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mixture and whose its components are; fields as those of `Conditioner`."""

    mixture: GaussianMixture
    component_class: np.ndarray
    transform: FeatureTransform | None = None
    centers: np.ndarray | None = None
    responsibilities: str = "soft"
    partition_seed: int = 0


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of conditioning.

    Attributes:
      fit: `(examples of the training split, settings, seed) -> Layout`, of settings what it needs;
        InputError for examples that cannot be fitted.
      weigh: `(layout, examples) -> [N, K]` float32 weights on the host, each row of sum 1; a
        `Conditioner` is a layout, too.
      needs: the fields of `Examples` that must be there. What is fitted to `x` has
        `num_components` components, and with `per_class` needs `label`, too.
      objective: what a classifier learns of the weights: `components`, or of each pair of
        components an attribute (`attributes`).
      spread: whether weights say how much of each component an example has, so that training may
        draw its own (`weights.SEMANTICS`); one-hot ones, and sets that hold together, are taken.
    """

    fit: Callable[[Examples, Fitted, int], Layout]
    weigh: Callable[[Layout | Conditioner, Examples], np.ndarray]
    needs: tuple[str, ...] = ("x",)
    objective: str = "components"
    spread: bool = False

    @property
    def fitted(self) -> bool:
        """Whether the mixture is fitted to the data, and not laid out over labels or attributes."""
        return "x" in self.needs

    @property
    def of_attributes(self) -> bool:
        """Whether each attribute has two components; requests then name attributes, not classes."""
        return self.objective == "attributes"

    def needs_labels(self, per_class: bool) -> bool:
        """Whether every example must have a class."""
        return "label" in self.needs or (self.fitted and per_class)

    def num_components(self, num_classes: int, num_attributes: int, fitted: int) -> int:
        """K for data of so many classes and attributes; `fitted` where it is a setting."""
        if self.fitted:
            return fitted
        return 2 * num_attributes if self.of_attributes else num_classes


def fit_gmm(examples: Examples, settings: Fitted, seed: int) -> Layout:
    """A Gaussian mixture by EM, or that of k-means."""
    transform, points, labels = feature_points(examples, settings, seed)
    mix, owner = fit_points(points, labels, examples.num_classes, settings, seed)
    how = settings.responsibilities
    return Layout(
        mix,
        owner,
        transform,
        responsibilities=how,
        partition_seed=seed if how == "random" else 0,
    )


def fit_points(
    points: np.ndarray, labels: np.ndarray | None, num_classes: int, settings: Fitted, seed: int
) -> tuple[GaussianMixture, np.ndarray]:
    """The mixture of `fit_gmm` from what `feature_points` returns, and `[K]` classes or -1.

    Raises:
      InputError: points that cannot be fitted.
    """
    try:
        if settings.fit == "k_means":
            return fit_spheres(
                points,
                labels,
                num_classes,
                settings.num_components,
                settings.em_starts,
                seed,
                settings.covariance_floor,
            )
        return fit_mixture(
            jax.random.fold_in(jax.random.key(seed), Run.MIXTURE),
            points,
            labels,
            num_classes,
            settings.num_components,
            settings.covariance,
            num_restarts=settings.em_starts,
            max_iterations=settings.em_iterations,
            tolerance=settings.em_tolerance,
            covariance_floor=settings.covariance_floor,
        )
    except ValueError as error:
        raise InputError(
            f"conditioning.num_components is {settings.num_components}, and the mixture could not "
            f"be fitted: {error}"
        ) from error


def weigh_by_responsibility(layout: Layout | Conditioner, examples: Examples) -> np.ndarray:
    """Responsibilities, among the components of an example's own class where there are such.

    As the layout says they are `soft`; `hard`, one-hot in the largest; or `random`, one-hot in a
    component that was drawn without a look at the features.
    """
    if layout.responsibilities == "random":
        return _weigh_at_random(layout, examples)
    assert layout.transform is not None, "a fitted mixture lies in features"
    component_class = np.asarray(layout.component_class)
    hard = layout.responsibilities == "hard"
    return example_weights(
        layout.mixture, layout.transform, component_class, examples.x, examples.label, hard=hard
    )


def _weigh_at_random(layout, examples):
    """By a digest of the example: the same wherever it stands, and again after a resume."""
    component_class, x = np.asarray(layout.component_class), examples.x
    owned = component_class.min() >= 0
    salt = int(layout.partition_seed).to_bytes(8, "little")
    weights = np.zeros((len(x), len(component_class)), np.float32)
    members = {c: np.flatnonzero(component_class == c) for c in np.unique(component_class)}
    block = block_rows(x)
    for start in range(0, len(x), block):
        rows = np.arange(start, min(start + block, len(x)))
        for i, example in zip(rows, np.ascontiguousarray(x[rows]), strict=True):
            digest = hashlib.blake2b(example.tobytes(), digest_size=8, salt=salt).digest()
            own = members[int(examples.label[i]) if owned else -1]
            weights[i, own[int.from_bytes(digest, "little") % len(own)]] = 1
    return weights


def fit_k_means(examples: Examples, settings: Fitted, seed: int) -> Layout:
    """Clusters are labels: the network is told their number and nothing of where they lie."""
    num = settings.num_components
    transform, points, labels = feature_points(examples, settings, seed)
    try:
        centers, owner = fit_clusters(
            points, labels, examples.num_classes, num, settings.em_starts, seed
        )
    except ValueError as error:
        raise InputError(f"conditioning.num_components is {num}: {error}") from error
    return Layout(lay_out(num), owner, transform, centers)


def weigh_by_nearest_center(layout: Layout | Conditioner, examples: Examples) -> np.ndarray:
    """One-hot in the nearest centre, of the example's own class where centres have one."""
    assert layout.transform is not None, "clusters lie in features"
    # Equal spheres: the largest responsibility is that of the nearest centre.
    centers = np.asarray(layout.centers)
    ones = np.ones(len(centers))
    mix = GaussianMixture.create(ones / len(ones), centers, ones, "spherical")
    component_class = np.asarray(layout.component_class)
    return example_weights(
        mix, layout.transform, component_class, examples.x, examples.label, hard=True
    )


def fit_classes(examples: Examples, settings: Fitted, seed: int) -> Layout:
    """One component a class."""
    del settings, seed
    return Layout(lay_out(examples.num_classes), np.arange(examples.num_classes))


def weigh_unlabelled(layout: Layout | Conditioner, x: Rows) -> np.ndarray:
    """Weights `[N, K]` of `x [N, ...]` whose class nobody knows, in a mixture that was fitted.

    Responsibilities among all components, or one-hot in the nearest of all centres.

    Raises:
      InputError: components that were drawn at random say nothing of an example, or `x` is too
        far from the mixture.
    """
    if layout.responsibilities == "random":
        raise InputError(
            "conditioning.responsibilities is 'random', so that weights say nothing of an example; "
            "asking for those of one needs soft or hard."
        )
    centers = None if layout.centers is None else np.asarray(layout.centers)
    nobody = np.full(len(layout.component_class), -1)
    free = Layout(layout.mixture, nobody, layout.transform, centers, layout.responsibilities)
    weigh = weigh_by_responsibility if layout.centers is None else weigh_by_nearest_center
    return weigh(free, Examples(x))


def weigh_by_class(layout: Layout | Conditioner, examples: Examples) -> np.ndarray:
    """One-hot in the class."""
    return np.asarray(one_hot(jnp.asarray(examples.label), layout.mixture.num_components))


def fit_attributes(examples: Examples, settings: Fitted, seed: int) -> Layout:
    """Two components an attribute."""
    del settings, seed
    num = 2 * np.asarray(examples.attributes).shape[1]
    return Layout(lay_out(num), np.full(num, -1))


def weigh_by_attributes(layout: Layout | Conditioner, examples: Examples) -> np.ndarray:
    """`1 / A` on each component that holds."""
    del layout
    return np.asarray(attribute_weights(np.asarray(examples.attributes)))


def feature_points(
    examples: Examples, settings: Fitted, seed: int
) -> tuple[FeatureTransform, np.ndarray, np.ndarray | None]:
    """What a fit sees of the data.

    Returns:
      The feature transform, `[M, D]` features of at most `em_max_points` examples, and with
      `per_class` their classes `[M]`, else None.

    Raises:
      InputError: more principal components than examples or coordinates, or features that are
        the same for every example.
    """
    x, most = examples.x, settings.em_max_points
    sample = x if examples.sample is None else examples.sample
    try:
        transform = FEATURES[settings.features](sample, settings.feature_dim)
    except ValueError as error:
        raise InputError(f"conditioning.feature_dim: {error}") from error
    if not np.asarray(transform.scale).any():
        raise InputError(
            f"conditioning.features is {settings.features!r}, and all {len(transform.scale)} are "
            "the same for every training example; some must differ."
        )
    if examples.sample is not None:
        most = min(most, max(1, _POINT_VALUES // len(transform.scale)))
    rng = np.random.default_rng([seed, Host.FIT])
    rows = np.sort(rng.permutation(len(x))[:most])
    embed = jax.jit(functools.partial(features, transform))
    blocks = np.array_split(rows, -(-len(rows) // min(_FEATURE_ROWS, block_rows(x))))
    points = np.concatenate([np.asarray(embed(x[block])) for block in blocks])
    return transform, points, np.asarray(examples.label)[rows] if settings.per_class else None


KINDS = {
    "gmm": Kind(fit_gmm, weigh_by_responsibility, spread=True),
    "attributes": Kind(
        fit_attributes, weigh_by_attributes, needs=("attributes",), objective="attributes"
    ),
    "class": Kind(fit_classes, weigh_by_class, needs=("label",)),
    "clusters": Kind(fit_k_means, weigh_by_nearest_center),
}
