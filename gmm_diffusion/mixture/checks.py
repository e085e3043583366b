"""Checks of a fit's arguments on the host, before anything is compiled, and of its result."""

import numpy as np

from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture.em_steps import Parameters
from gmm_diffusion.mixture.gaussian_mixture import GaussianMixture, covariance_shape
from gmm_diffusion.mixture.starts import STARTS
from gmm_diffusion.types import AnyArray


def check_dim(x: np.ndarray, dim: int, name: str) -> None:
    """Raises InputError where points have another dimension than those before."""
    if x.shape[1] != dim:
        raise InputError(f"{name} has shape {x.shape}; valid after the first is [N, {dim}].")


def check_enough_points(num_points: int, num_components: int, allow_degenerate: bool) -> None:
    """Raises InputError for fewer points of positive weight than components."""
    if num_points < num_components and not allow_degenerate:
        raise InputError(
            f"x has {num_points} points of positive weight; valid for num_components "
            f"{num_components} is at least as many, or allow_degenerate=True."
        )


def check_data(
    x: AnyArray, sample_weights: AnyArray | None, name: str = "x"
) -> tuple[np.ndarray, np.ndarray | None]:
    """Host arrays; raises InputError for a wrong shape or a value that is not finite."""
    x = np.asarray(x)
    if x.ndim != 2 or 0 in x.shape:
        raise InputError(f"{name} has shape {x.shape}; valid is [N, D] with N, D >= 1.")
    if not np.issubdtype(x.dtype, np.floating):
        x = x.astype(np.float32)
    if not np.isfinite(x.sum(dtype=np.float64)) and not np.isfinite(x).all():
        n, d = (int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise InputError(f"{name}[{n}, {d}] is {x[n, d]}; valid are finite numbers.")
    if sample_weights is not None:
        sample_weights = np.asarray(sample_weights, np.float64)
        if sample_weights.shape != x.shape[:1]:
            raise InputError(
                f"sample_weights has shape {sample_weights.shape}; valid is {x.shape[:1]}."
            )
        bad = ~(np.isfinite(sample_weights) & (sample_weights >= 0))
        if bad.any():
            n = int(np.argmax(bad))
            raise InputError(
                f"sample_weights[{n}] is {sample_weights[n]}; valid are finite numbers >= 0."
            )
        if not sample_weights.any():
            raise InputError("sample_weights are all 0; valid is at least one positive weight.")
    return x, sample_weights


def check_settings(
    num_components: int,
    kind: str,
    start: str | GaussianMixture,
    num_restarts: int,
    max_iterations: int,
    tolerance: float,
    covariance_floor: float,
) -> None:
    """Raises InputError for a setting of `fit_em` out of range."""
    covariance_shape(kind, 1, 1)
    for name, value in (
        ("num_components", num_components),
        ("num_restarts", num_restarts),
        ("max_iterations", max_iterations),
    ):
        if not isinstance(value, int | np.integer) or value < 1:
            raise InputError(f"{name} is {value!r}; valid are whole numbers >= 1.")
    if not isinstance(start, GaussianMixture) and start not in STARTS:
        raise InputError(f"start is {start!r}; valid are {STARTS} or a GaussianMixture.")
    if not tolerance >= 0:
        raise InputError(f"tolerance is {tolerance!r}; valid are numbers >= 0.")
    if not 0 < covariance_floor < np.inf:
        raise InputError(f"covariance_floor is {covariance_floor!r}; valid are numbers > 0.")


def check_finite(params: Parameters) -> None:
    """Raises FloatingPointError that names the first component that is not finite."""
    finite = np.isfinite(np.asarray(params.log_weights)) & np.isfinite(params.means).all(axis=1)
    root = np.isfinite(params.root)
    finite &= root.all() if params.kind == "tied" else root.reshape(len(finite), -1).all(axis=1)
    if not finite.all():
        k = int(np.argmin(finite))
        raise FloatingPointError(
            f"component {k} of {len(finite)} is not finite after the fit; a larger "
            "covariance_floor or fewer components may help."
        )
