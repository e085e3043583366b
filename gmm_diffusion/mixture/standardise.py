"""The affine map to zero mean and unit variance in which EM runs, and the way back, in float64."""

from collections.abc import Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture.em_steps import Parameters
from gmm_diffusion.mixture.gaussian_mixture import GaussianMixture, working_precision

_ROWS = 65536


@dataclass(frozen=True)
class Standardiser:
    """`z = (x - center) / scale`.

    Attributes:
      center: `[D]` float64.
      scale: `[D]` float64, positive; one number repeated for spherical covariances, which a
        scale per dimension would not keep spherical.
    """

    center: np.ndarray
    scale: np.ndarray

    @property
    def log_density_offset(self) -> float:
        """`log p(x) - log p(z)`."""
        return -np.log(self.scale).sum()

    def forward(self, x: np.ndarray) -> np.ndarray:
        """`[N, D]` in the working precision of JAX; float64 only a slice at a time."""
        z = np.empty(x.shape, jax.dtypes.canonicalize_dtype(float))
        for i in range(0, len(x), _ROWS):
            z[i : i + _ROWS] = (x[i : i + _ROWS] - self.center) / self.scale
        return z

    def parameters(self, mix: GaussianMixture) -> Parameters:
        """`mix` in standardised coordinates."""
        variances = np.asarray(mix.variances, np.float64)
        if mix.basis is None:
            scale = self.scale[0] if mix.kind == "spherical" else self.scale
            root = np.sqrt(variances) / scale
        else:
            basis = np.asarray(mix.basis, np.float64)
            half = basis * np.sqrt(variances)[..., None, :] / self.scale[:, None]
            root = np.swapaxes(np.linalg.qr(np.swapaxes(half, -1, -2), mode="r"), -1, -2)
            root = root * np.sign(np.diagonal(root, axis1=-2, axis2=-1))[..., None, :]
        means = (np.asarray(mix.means, np.float64) - self.center) / self.scale
        return Parameters(
            mix.log_weights, working_precision(means), working_precision(root), mix.kind
        )

    def backward(self, params: Parameters) -> GaussianMixture:
        """The mixture of `x`."""
        root = np.asarray(params.root, np.float64)
        basis = None
        if params.kind in ("full", "tied"):
            basis, singular, _ = np.linalg.svd(root * self.scale[:, None])
            variances = singular**2
        else:
            scale = self.scale[0] if params.kind == "spherical" else self.scale
            variances = (root * scale) ** 2
        means = np.asarray(params.means, np.float64) * self.scale + self.center
        return GaussianMixture(
            jnp.asarray(params.log_weights),
            working_precision(means),
            working_precision(variances),
            None if basis is None else working_precision(basis),
            params.kind,
        )


def measure(batches: Iterable[tuple], kind: str, allow_degenerate: bool) -> Standardiser:
    """Mean and standard deviation of data in one pass over batches, in float64.

    Args:
      batches: pairs of points `[N, D]` and their weights `[N]` or None.
      kind: covariance kind of the mixture to be fitted.
      allow_degenerate: give a constant dimension the mean variance of all.

    Raises:
      InputError: a constant dimension, unless `allow_degenerate`.
    """
    shift, total = None, 0.0
    first, second = np.zeros((2, 1))
    for x, a in batches:
        # About the first point, so that the one pass does not cancel and a constant is exactly 0.
        shift = x[0].astype(np.float64) if shift is None else shift
        for i in range(0, len(x), _ROWS):
            offset = x[i : i + _ROWS] - shift
            part = np.ones(len(offset)) if a is None else a[i : i + _ROWS]
            total = total + part.sum()
            first = first + part @ offset
            second = second + part @ offset**2
    if shift is None or total == 0:
        raise InputError("x has no points of positive weight; valid is at least one.")
    mean = first / total
    variance = np.maximum(second / total - mean**2, 0.0)
    constant = variance == 0
    if constant.any() and not allow_degenerate:
        d = int(np.argmax(constant))
        raise InputError(
            f"x[:, {d}] has variance 0 (always {shift[d] + mean[d]:g}); valid is more than one "
            "value in each dimension, or allow_degenerate=True."
        )
    typical = variance.mean() if variance.any() else 1.0
    if kind == "spherical":
        variance = np.full_like(variance, typical)
    else:
        variance = np.where(constant, typical, variance)
    return Standardiser(center=shift + mean, scale=np.sqrt(variance))
