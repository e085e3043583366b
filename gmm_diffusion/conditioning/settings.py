"""What a model is conditioned on, as values; the fields and defaults of the group `conditioning`.

Fields that all but `Unconditional` share:

  embedding           key of `embedding.EMBEDDINGS`
  embedding_features  F of mean_embedding
  num_draws           L of draws
  dropout             probability of the null embedding in training, for `ClassifierFree`
  bank_size           training weights kept for sampling
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Unconditional:
    """Nothing."""


@dataclasses.dataclass(frozen=True)
class Classes:
    """Labels: a mixture that is laid out, a component a class."""

    embedding: str = "mean_embedding"
    embedding_features: int = 256
    num_draws: int = 64
    dropout: float = 0.0
    bank_size: int = 10_000


@dataclasses.dataclass(frozen=True)
class Attributes:
    """Attributes: a mixture that is laid out, two components an attribute."""

    embedding: str = "mean_embedding"
    embedding_features: int = 256
    num_draws: int = 64
    dropout: float = 0.0
    bank_size: int = 10_000


@dataclasses.dataclass(frozen=True)
class Clusters:
    """Clusters of features by k-means, as labels.

    Attributes:
      num_components: K; with `per_class` they are shared out over the classes.
      features: pca or raw.
      feature_dim: D, principal components.
      per_class: clusters of each class; needs labels.
      em_starts: k-means keeps the best of so many starts.
      em_max_points: most training examples that it sees.
    """

    num_components: int = 40
    features: str = "pca"
    feature_dim: int = 16
    per_class: bool = True
    em_starts: int = 4
    em_max_points: int = 200_000
    embedding: str = "mean_embedding"
    embedding_features: int = 256
    num_draws: int = 64
    dropout: float = 0.0
    bank_size: int = 10_000


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A mixture fitted to features by EM.

    Attributes:
      num_components: K; with `per_class` they are shared out over the classes.
      semantics: example or mixture (docs/method.md).
      features: pca or raw.
      feature_dim: D, principal components.
      per_class: a mixture of each class; needs labels.
      covariance: full, tied, diag or spherical.
      covariance_floor: smallest variance, as a fraction of the features'.
      em_starts: EM keeps the best of so many starts.
      em_iterations: most iterations.
      em_tolerance: EM stops when the mean log-likelihood rises by less.
      em_max_points: most training examples that it sees.
      concentration: mixture semantics: range of the Dirichlet's total mass in training.
      one_hot_share: mixture semantics: share of training weights on one component.
      shares: mixture semantics: of the other weights, over all components and within one class.
    """

    num_components: int = 40
    semantics: str = "example"
    features: str = "pca"
    feature_dim: int = 16
    per_class: bool = True
    covariance: str = "diag"
    covariance_floor: float = 1e-3
    em_starts: int = 4
    em_iterations: int = 200
    em_tolerance: float = 1e-5
    em_max_points: int = 200_000
    concentration: tuple[float, float] = (0.1, 30.0)
    one_hot_share: float = 0.9
    shares: tuple[float, float] = (0.2, 0.6)
    embedding: str = "mean_embedding"
    embedding_features: int = 256
    num_draws: int = 64
    dropout: float = 0.0
    bank_size: int = 10_000


ConditioningSettings = Unconditional | Classes | Attributes | Clusters | Fitted

# As `conditioning.kind` calls them.
KINDS = {
    Unconditional: "none",
    Classes: "class",
    Attributes: "attributes",
    Clusters: "clusters",
    Fitted: "gmm",
}
