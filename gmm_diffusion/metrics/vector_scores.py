"""All scores of points in a space of few dimensions, by their true density where it is known."""

import jax
import jax.numpy as jnp
import numpy as np

from gmm_diffusion import mixture
from gmm_diffusion.data import Dataset
from gmm_diffusion.data.dataset import evenly_spaced
from gmm_diffusion.metrics import (
    consistency,
    features,
    frechet,
    manifold,
    mmd,
    sliced_wasserstein,
)

# The points that stand for each class are the same for every model.
_SEED = 0
# As many training points as give the 0.1 % quantile of their log-density to a tenth of itself.
_DENSITY_REFERENCE = 2**16
_CLASS_REFERENCE = 2**15
_MMD_POINTS = 2**13
# Log-densities count for no less than this below the mean of true points: so far below it are the
# -20 at which the published comparison on a tree cuts (see docs/results.md).
LOG_DENSITY_RANGE = 21.4


class VectorScores:
    """Scores of vectors `[N, D]`, by the true density where it is known.

    Where classes are known, too, `condition_` scores are by the density of the class asked for, and
    all but the smallest log-density are means over classes, as are the sliced distance and the MMD.

    Args:
      data: whose training split they are compared with.
      statistics: in place of that split in the Frechet distance, of `features.RAW`.
    """

    def __init__(self, data: Dataset, statistics: frechet.Statistics | None = None):
        self.data = data
        self.features = {"manifold": features.RAW.id, "frechet": features.RAW.id}
        self.statistics = statistics or features.statistics(features.RAW, data.train.x)
        train = data.train.read(evenly_spaced(len(data.train), _DENSITY_REFERENCE))
        self.train, self.labels = train.x, train.label
        true = data.mixture
        if true is None:
            return
        self.log_prob = jax.jit(lambda x, weights: mixture.log_prob(true, x, weights=weights))
        self.posterior = jax.jit(lambda x: mixture.responsibilities(true, x))
        self.own = np.eye(data.num_classes)[data.component_class]
        weights = np.asarray(true.weights)
        self.reference = np.asarray(self.log_prob(self.train, weights))
        self.class_weights = [column * weights / (column @ weights) for column in self.own.T]
        self.class_reference = []
        for label, own in enumerate(self.class_weights):
            # Points of one class in the training split may be too few for the quantile.
            key = jax.random.fold_in(jax.random.key(_SEED), label)
            with np.errstate(divide="ignore"):
                alone = true.replace(log_weights=jnp.asarray(np.log(own), jnp.float32))
            x = mixture.sample(alone, key, _CLASS_REFERENCE)
            self.class_reference.append(np.asarray(self.log_prob(x, own)))

    def __call__(
        self, x: np.ndarray, labels: np.ndarray | None, attributes: np.ndarray | None = None
    ) -> dict[str, float]:
        """Scores of `x [N, D]`, asked for classes `labels [N]` or for none, by name."""
        del attributes
        count = frechet.count_name(len(x))
        scores = {
            f"frechet_{count}": frechet.distance(
                features.statistics(features.RAW, x), self.statistics
            ),
            f"sliced_wasserstein_{count}": self._in_classes(sliced_wasserstein.distance, x, labels),
            f"mmd_{count}": self._in_classes(_mmd, x, labels, fewest=2),
        }
        if self.data.mixture is None:
            return scores
        values = np.asarray(self.log_prob(x, np.asarray(self.data.mixture.weights)))
        scores[f"density_defects_{count}"] = manifold.density_defects(values, self.reference)
        scores[f"log_density_{count}"] = _clipped_mean(values, self.reference)
        if labels is not None:
            scores |= self._class_scores(x, labels, count)
            owner = (np.asarray(self.posterior(x)) @ self.own).argmax(1)
            agreement = consistency.agreement(labels, owner, self.data.num_classes)
            scores[f"agreement_{count}"] = agreement["agreement"]
        return scores

    def _class_scores(self, x, labels, count):
        rows = []
        for label in np.unique(labels):
            reference = self.class_reference[label]
            values = np.asarray(self.log_prob(x[labels == label], self.class_weights[label]))
            defects = manifold.density_defects(values, reference)
            rows.append((defects, _clipped_mean(values, reference), values.min()))
        defects, means, least = np.array(rows, np.float64).T
        return {
            f"condition_defects_{count}": float(defects.mean()),
            f"condition_log_density_{count}": float(means.mean()),
            f"condition_log_density_min_{count}": float(least.min()),
        }

    def _in_classes(self, distance, x, labels, fewest=1):
        """The distance to as many training points, a mean over the classes with `fewest` points."""
        pairs = []
        if labels is not None and self.labels is not None:
            for label in np.unique(labels):
                ours, theirs = x[labels == label], self.train[self.labels == label]
                pairs.append((ours, _as_many(theirs, ours)))
        pairs = [pair for pair in pairs if min(map(len, pair)) >= fewest]
        pairs = pairs or [(x, _as_many(self.train, x))]
        return float(np.mean([distance(*pair) for pair in pairs]))


def _as_many(points, others):
    return points[evenly_spaced(len(points), len(others))]


def _mmd(samples, reference):
    """The squared MMD of at most so many points that it takes about a second."""
    samples, reference = (x[evenly_spaced(len(x), _MMD_POINTS)] for x in (samples, reference))
    return mmd.squared(samples, reference, mmd.bandwidths(reference))


def _clipped_mean(values, reference):
    """The mean log-density without its tail, which a few points far out would set."""
    return float(np.maximum(values, reference.mean() - LOG_DENSITY_RANGE).mean())
