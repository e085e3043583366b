"""What a model is conditioned on, as values; fields and defaults of the group `conditioning`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Unconditional:
    """Nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Embedded:
    embedding: str = "mean_embedding"
    embedding_features: int = 256
    num_draws: int = 64
    dropout: float = 0.0
    bank_size: int = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class _OfFeatures(_Embedded):
    num_components: int = dataclasses.field(default=40, kw_only=False)
    features: str = "pca"
    classifier: str = ""
    feature_dim: int = 16
    per_class: bool = True
    em_starts: int = 4
    em_max_points: int = 200_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classes(_Embedded):
    """Labels: a mixture that is laid out, a component a class.

    Attributes:
      embedding: key of `embedding.EMBEDDINGS`.
      embedding_features: F of mean_embedding.
      num_draws: L of draws.
      dropout: probability of the null embedding in training, for `ClassifierFree`.
      bank_size: training weights kept for sampling.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attributes(_Embedded):
    """Attributes: a mixture that is laid out, two components an attribute; fields of `Classes`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clusters(_OfFeatures):
    """Clusters of features by k-means, as labels; beside the fields of `Classes` it has its own.

    Attributes:
      num_components: K; with `per_class` they are shared out over the classes.
      features: key of `features.FEATURES`: pca, raw, own (those of the data) or classifier.
      classifier: workdir of a run, whose last hidden layer the features `classifier` are.
      feature_dim: D, principal components.
      per_class: clusters, or a mixture, of each class; needs labels.
      em_starts: k-means, or EM, keeps the best of so many starts.
      em_max_points: most training examples that the fit sees.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitted(_OfFeatures):
    """A mixture fitted to features; beside the fields of `Clusters` it has its own.

    Attributes:
      fit: em or k_means (`fitting.fit_spheres`).
      responsibilities: of an example: soft, hard or random (`kinds.weigh_by_responsibility`).
      semantics: example or mixture (docs/method.md).
      covariance: of EM: full, tied, diag or spherical.
      covariance_floor: smallest variance, as a fraction of the features'.
      em_iterations: most iterations.
      em_tolerance: EM stops when the mean log-likelihood rises by less.
      concentration: mixture semantics: range of the Dirichlet's total mass in training.
      one_hot_share: mixture semantics: share of training weights on one component.
      shares: mixture semantics: of the other weights, over all components and within one class.
    """

    fit: str = "em"
    responsibilities: str = "soft"
    semantics: str = "example"
    covariance: str = "diag"
    covariance_floor: float = 1e-3
    em_iterations: int = 200
    em_tolerance: float = 1e-5
    concentration: tuple[float, float] = (0.1, 30.0)
    one_hot_share: float = 0.9
    shares: tuple[float, float] = (0.2, 0.6)


ConditioningSettings = Unconditional | Classes | Attributes | Clusters | Fitted

# As `conditioning.kind` calls them.
KINDS = {
    Unconditional: "none",
    Classes: "class",
    Attributes: "attributes",
    Clusters: "clusters",
    Fitted: "gmm",
}
