"""What a fitted mixture looks like: nearest examples, how sure weights are, and which K to take.

For a person who wants to see what a network is to be conditioned on; no part of training.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gmm_diffusion.conditioning.conditioner import Conditioner
from gmm_diffusion.conditioning.features import block_rows, features, in_blocks
from gmm_diffusion.conditioning.kinds import Examples, Layout, feature_points, fit_points
from gmm_diffusion.conditioning.settings import Fitted
from gmm_diffusion.mixture import GaussianMixture, log_prob

# Of differences from means held at once.
_BLOCK_VALUES = 1 << 22
_HIGHEST = jax.lax.Precision.HIGHEST


def nearest(layout: Layout | Conditioner, examples: Examples, num: int, count: int) -> np.ndarray:
    """Rows of the examples nearest to each component, nearest first.

    By Mahalanobis distance, which is the order of the component's own density; of clusters by
    distance to the centre. A component of a class has examples of that class alone.

    Args:
      layout: a mixture in features, or clusters.
      examples: of which the first `num` count, not those that are mirrored.
      num: N.
      count: how many for each component.

    Returns:
      `[K, count]` int rows, -1 where a component has fewer.
    """
    assert layout.transform is not None, "a fitted mixture lies in features"
    transform, owner = layout.transform, np.asarray(layout.component_class)
    means, scale, basis = _axes(layout)

    @jax.jit
    def squares(x):
        offsets = features(transform, x)[:, None] - means[None]
        if basis is not None:
            offsets = jnp.einsum("nkd,kde->nke", offsets, basis, precision=_HIGHEST)
        return jnp.sum((offsets * scale[None]) ** 2, axis=2)

    best = np.full((count, len(means)), np.inf)
    rows = np.full((count, len(means)), -1)
    block = max(1, min(num, block_rows(examples.x), _BLOCK_VALUES // means.size))
    for start in range(0, num, block):
        # Always a full block, so that one compiled program serves all of them.
        taken = np.arange(start, start + block)
        found = np.asarray(squares(examples.x[taken % num]), np.float64)
        found[taken >= num] = np.inf
        if owner.min() >= 0:
            assert examples.label is not None
            found[examples.label[taken % num][:, None] != owner[None]] = np.inf
        best = np.concatenate([best, found])
        rows = np.concatenate([rows, np.broadcast_to(taken[:, None], found.shape)])
        order = np.argsort(best, axis=0, kind="stable")[:count]
        best, rows = (np.take_along_axis(a, order, axis=0) for a in (best, rows))
    return np.where(np.isfinite(best), rows, -1).T


def _axes(layout):
    """Means `[K, D]`, one over the deviations along the axes of each `[K, D]`, axes or None."""
    if layout.centers is not None:
        means = jnp.asarray(layout.centers)
        return means, jnp.ones_like(means), None
    mix = layout.mixture
    basis = mix.basis
    if mix.kind == "tied":
        basis = jnp.broadcast_to(basis, (mix.num_components, *basis.shape))
    return mix.means, 1 / jnp.sqrt(mix.spectrum), basis


def entropies(weights: np.ndarray) -> np.ndarray:
    """Entropy of each row of `[N, K]` weights, `[N]` in nats: from 0, one component, to ln K."""
    logs = np.log(weights, out=np.zeros_like(weights, np.float64), where=weights > 0)
    return -np.sum(weights * logs, axis=1)


@dataclasses.dataclass(frozen=True)
class LikelihoodCurve:
    """Mean log-likelihood of features, in nats an example, for several K, in increasing order.

    Of examples with a class in components that have one, given the class.

    Attributes:
      num_components: the K.
      fitted: `[J]`, of the points that the mixtures were fitted to.
      unseen: `[J]`, of others.
      behind: `[J]`, how much lower `unseen` is than the best of them, from 0.
      error: `[J]`, standard error of `behind`, from the differences point by point.
    """

    num_components: tuple[int, ...]
    fitted: np.ndarray
    unseen: np.ndarray
    behind: np.ndarray
    error: np.ndarray

    @property
    def best(self) -> int:
        """K of the highest likelihood of other points."""
        return self.num_components[int(np.argmax(self.unseen))]

    @property
    def smallest(self) -> int:
        """The smallest K within one standard error of the best (Breiman et al. 1984, 3.4.3)."""
        return self.num_components[int(np.argmax(self.behind <= self.error))]


def likelihood_curve(
    examples: Examples,
    unseen: Examples,
    settings: Fitted,
    seed: int,
    num_components: Sequence[int],
    tick: Callable[[], None],
) -> LikelihoodCurve:
    """Fits a mixture of each K as a run would, and scores examples that it has not seen.

    Args:
      examples: of the training split.
      unseen: others, of which all count, also those that are mirrored.
      settings: how mixtures are fitted, but for their K.
      seed: of the run.
      num_components: each K once, at least one; with `per_class` multiples of the classes.
      tick: called before each fit.

    Raises:
      InputError: as the fit.
    """
    transform, points, labels = feature_points(examples, settings, seed)
    embed = jax.jit(lambda x: features(transform, x))
    others = np.concatenate([np.asarray(embed(block)) for block in in_blocks(unseen.x)])
    nums, fitted, scores = tuple(sorted(num_components)), [], []
    for num in nums:
        tick()
        own = dataclasses.replace(settings, num_components=num)
        mix, owner = fit_points(points, labels, examples.num_classes, own, seed)
        fitted.append(_log_likelihood(mix, owner, points, labels).mean())
        scores.append(_log_likelihood(mix, owner, others, unseen.label))
    means = np.array([score.mean() for score in scores])
    lower = scores[int(np.argmax(means))] - np.stack(scores)
    error = lower.std(axis=1, ddof=1) / np.sqrt(len(others)) if len(others) > 1 else 0 * means
    return LikelihoodCurve(nums, np.array(fitted), means, lower.mean(axis=1), error)


def _log_likelihood(mix: GaussianMixture, owner, points, labels):
    """`[N]` float64, given the class where components have one."""
    prior, found = np.asarray(mix.weights, np.float64), []
    block = min(len(points), max(1, _BLOCK_VALUES // mix.num_components))
    for start in range(0, len(points), block):
        # Always a full block, so that one compiled program serves all of them.
        rows = np.arange(start, start + block) % len(points)
        given = None
        if owner.min() >= 0:
            given = np.where(owner[None] == labels[rows][:, None], prior[None], 0)
            given = (given / given.sum(axis=1, keepdims=True)).astype(np.float32)
        found.append(np.asarray(log_prob(mix, points[rows], weights=given), np.float64))
    return np.concatenate(found)[: len(points)]
