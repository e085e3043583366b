"""How many components: information criteria, held-out likelihood, and the curve over K."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture.density import log_prob
from gmm_diffusion.mixture.em import FitResult, fit_em
from gmm_diffusion.mixture.gaussian_mixture import GaussianMixture
from gmm_diffusion.types import AnyArray, Array

CRITERIA = ("bic", "aic", "held_out")


def num_parameters(mix: GaussianMixture) -> int:
    """Free parameters: K - 1 weights, KD means, and those of the covariances."""
    k, d = mix.num_components, mix.dim
    covariance = {"full": k * d * (d + 1) // 2, "tied": d * (d + 1) // 2, "diag": k * d}
    return k - 1 + k * d + covariance.get(mix.kind, k)


def mean_log_likelihood(mix: GaussianMixture, x: AnyArray) -> float:
    """Mean of `log_prob` over points `[N, D]`, summed in float64; held-out if they are."""
    return np.asarray(log_prob(mix, x), np.float64).mean().item()


def bic(mix: GaussianMixture, x: AnyArray) -> float:
    """Bayesian information criterion on `x [N, D]`, lower is better (Schwarz 1978)."""
    return num_parameters(mix) * np.log(len(x)).item() - 2 * len(x) * mean_log_likelihood(mix, x)


def aic(mix: GaussianMixture, x: AnyArray) -> float:
    """Akaike information criterion on `x [N, D]`, lower is better (Akaike 1974)."""
    return 2 * num_parameters(mix) - 2 * len(x) * mean_log_likelihood(mix, x)


def smallest_std(mix: GaussianMixture, share: float = 0.0) -> float:
    """The standard deviation of the thinnest components, along their thinnest direction.

    Args:
      mix: the mixture.
      share: how much of the mixture, from 0 to 1, is as thin as that or thinner, so that a
        component of a few points does not count.
    """
    std = np.sqrt(np.asarray(mix.spectrum, np.float64).min(axis=1))
    order = np.argsort(std)
    below = np.cumsum(np.asarray(mix.weights, np.float64)[order])
    return std[order][min(np.searchsorted(below, share), len(std) - 1)].item()


@dataclass(frozen=True)
class SelectionCurve:
    """Fits of several K to the same points; all sequences in the order of `num_components`.

    Attributes:
      num_components: the K.
      fits: the `FitResult` of each.
      bic, aic: on the fitted points, lower is better.
      held_out: mean log-likelihood of the held-out points, higher is better; None without any.
    """

    num_components: tuple[int, ...]
    fits: tuple[FitResult, ...]
    bic: np.ndarray
    aic: np.ndarray
    held_out: np.ndarray | None

    def best(self, criterion: str = "bic") -> FitResult:
        """The fit that is best by "bic", "aic" or "held_out".

        Raises:
          InputError: an unknown criterion, or "held_out" without held-out points.
        """
        if criterion not in CRITERIA:
            raise InputError(f"criterion is {criterion!r}; valid are {CRITERIA}.")
        if criterion == "held_out":
            if self.held_out is None:
                raise InputError(
                    "criterion is 'held_out'; valid only after giving held_out points."
                )
            return self.fits[int(np.argmax(self.held_out))]
        return self.fits[int(np.argmin(getattr(self, criterion)))]


def fit_curve(
    key: Array,
    x: AnyArray,
    num_components: Sequence[int],
    kind: str = "diag",
    *,
    held_out: AnyArray | None = None,
    **options,
) -> SelectionCurve:
    """Fits every K and scores each.

    Args:
      key: a typed key; each K folds itself in, so that adding a K changes no other fit.
      x: `[N, D]`.
      num_components: the K to try, at least one.
      kind: covariance kind.
      held_out: `[M, D]` points for the held-out likelihood.
      **options: of `fit_em`, except `sample_weights`.

    Raises:
      InputError: as `fit_em`; no K; sample weights, with which the criteria have no meaning.
    """
    if not num_components:
        raise InputError("num_components is empty; valid is at least one whole number >= 1.")
    if "sample_weights" in options:
        raise InputError("sample_weights is given; valid here is unweighted data only.")
    fits = tuple(fit_em(jax.random.fold_in(key, k), x, k, kind, **options) for k in num_components)
    mixtures = [fit.mixture for fit in fits]
    return SelectionCurve(
        num_components=tuple(num_components),
        fits=fits,
        bic=np.array([bic(mix, x) for mix in mixtures]),
        aic=np.array([aic(mix, x) for mix in mixtures]),
        held_out=None
        if held_out is None
        else np.array([mean_log_likelihood(mix, held_out) for mix in mixtures]),
    )
