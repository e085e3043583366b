"""The negative Gaussian mixture and its gradient (NGMG), a cost for points in feature space.

Lu et al. (arXiv 2401.11261) train with a gradient that is that of a negative Gaussian mixture, for
which they claim stability and a likeness to the Wasserstein distance. The formulas are our reading:

  energy(y)   = - sum_k w_k exp(-|y - mu_k|^2 / (2 s^2))                          peak height 1
  gradient(y) =   sum_k w_k (y - mu_k) / s^2 exp(-|y - mu_k|^2 / (2 s^2))         d energy / d y

Whatever `y`, the gradient's norm is at most `exp(-1/2) / s` and the Hessian's at most `1 / s^2`;
near a single centre `1 + energy` is `|y - mu|^2 / (2 s^2)`. Far from every centre the gradient
vanishes: take several scales, over which the energy is averaged, or the form "log",
`-log sum_k w_k exp(...)`, whose gradient does not vanish and is not bounded.
"""

import jax
import jax.numpy as jnp
import numpy as np

from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture.gaussian_mixture import GaussianMixture
from gmm_diffusion.types import AnyArray, Array, Numbers

# One, several, or the covariances of a mixture.
Scale = Numbers | tuple[float, ...] | GaussianMixture
FORMS = ("density", "log")
# The centres of an attribute: absent, present.
ATTRIBUTE_CENTERS = ((0.0,), (1.0,))
_HIGHEST = jax.lax.Precision.HIGHEST


def energy(
    y: Array, weights: Array, centers: AnyArray, scale: Scale, form: str = "density"
) -> Array:
    """The negative mixture at `y`; differentiable in every array.

    Shapes are checked always, values where they are concrete.

    Args:
      y: `[..., D]` points.
      weights: `[..., K]`, each row on the simplex; leading axes broadcast with those of `y`. The
        gradient of the form "log" with respect to a weight of 0 is 0.
      centers: `[K, D]`, in the units of `y`.
      scale: `s > 0` in the same units; or several, `[S]`, over which the energy is averaged; or a
        `GaussianMixture` of K components, whose covariances then take the place of `s^2`
        (Mahalanobis distances, no determinants; its weights and means are not used).
      form: "density", between -1 and 0, or "log", at least 0.

    Returns:
      `[...]`.

    Raises:
      InputError: as `check`.
    """
    check(y, weights, centers, scale, form)
    weights, squared, _, _ = _distances(y, weights, centers, scale)
    if form == "log":
        values = -jax.nn.logsumexp(_log_joint(weights, squared), axis=-1)
    else:
        values = -jnp.sum(weights * jnp.exp(-0.5 * squared), axis=-1)
    return jnp.mean(values, axis=-1)


def gradient(
    y: Array, weights: Array, centers: AnyArray, scale: Scale, form: str = "density"
) -> Array:
    """The derivative of `energy` with respect to `y`, in closed form.

    `sum_k c_k Sigma_k^-1 (y - mu_k)`, averaged over the scales, where `c_k` is
    `w_k exp(-q_k / 2)` for "density" and its share of their sum, a responsibility without
    determinants, for "log"; `q_k` is the squared distance in units of the scale.

    Args and errors are those of `energy`.

    Returns:
      `[..., D]`; for "density" its norm is at most the mean of `exp(-1/2) / s` over the scales, or
      `exp(-1/2)` over the smallest standard deviation of any component.
    """
    check(y, weights, centers, scale, form)
    weights, squared, pull, precision = _distances(y, weights, centers, scale)
    if form == "log":
        share = jax.nn.softmax(_log_joint(weights, squared), axis=-1)
    else:
        share = weights * jnp.exp(-0.5 * squared)
    share = jnp.mean(share * precision, axis=-2)
    return jnp.sum(share[..., None] * pull, axis=-2)


def shares(y: Array, weights: Array, centers: AnyArray, scale: Scale) -> Array:
    """What each centre has of the point: `c_k` of the form "log", averaged over the scales.

    Args and errors are those of `energy`.

    Returns:
      `[..., K]`, rows sum to 1; exactly 0 where the weight is 0.
    """
    check(y, weights, centers, scale)
    weights, squared, _, _ = _distances(y, weights, centers, scale)
    return jnp.mean(jax.nn.softmax(_log_joint(weights, squared), axis=-1), axis=-2)


def attribute_energy(y: Array, attributes: Array, scale: Scale, form: str = "density") -> Array:
    """`energy` with two centres, 0 and 1, for each of A numbers, summed over these.

    A scale below 1/2 has a minimum at both centres for weights between; about 1, or several, has a
    gradient at the wrong end.

    Args:
      y: `[..., A]`, one number an attribute.
      attributes: `[..., A]`, each 0 (absent) or 1 (present).
      scale: as in `energy`.
      form: as in `energy`.

    Returns:
      `[...]`.

    Raises:
      InputError: an attribute that is neither 0 nor 1, or as `check`.
    """
    centers = jnp.asarray(ATTRIBUTE_CENTERS, y.dtype)
    each = energy(y[..., None], attribute_weights(attributes), centers, scale, form)
    return jnp.sum(each, axis=-1)


def attribute_weights(attributes: AnyArray) -> Array:
    """The component that each attribute selects: `[..., A]` of 0 and 1 -> `[..., A, 2]`.

    Raises:
      InputError: another value (where concrete).
    """
    if _is_concrete(attributes):
        values = np.asarray(attributes)
        bad = (values != 0) & (values != 1)
        if bad.any():
            where = [int(i) for i in np.argwhere(bad)[0]]
            raise InputError(f"attributes{where} is {values[bad][0]:g}; valid are 0 and 1.")
    attributes = jnp.asarray(attributes, dtype=float)
    return jnp.stack([1 - attributes, attributes], axis=-1)


def scales(
    centers: AnyArray, multiples: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
) -> tuple[float, ...]:
    """Scales that fit the centres, on the host.

    One fixed scale gives almost nothing in many dimensions, where centres are far apart: so these
    are multiples of the median, over the centres, of the distance to the nearest other centre.

    Args:
      centers: `[K, D]`, concrete, at least two.
      multiples: positive numbers.

    Returns:
      As many numbers as `multiples`.

    Raises:
      InputError: fewer than two centres, centres that coincide, or a multiple that is not positive.
    """
    centers = np.asarray(centers, np.float64)
    if centers.ndim != 2 or len(centers) < 2:
        raise InputError(f"centers has shape {centers.shape}; scales need [K, D] with K >= 2.")
    if not multiples or not all(np.isfinite(m) and m > 0 for m in multiples):
        raise InputError(f"multiples is {multiples}; valid are numbers above 0, at least one.")
    distances = np.linalg.norm(centers[:, None] - centers[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    median = float(np.median(distances.min(axis=1)))
    if not 0 < median < np.inf:
        raise InputError(
            f"centers have a median distance of {median:g} to their nearest; valid are different "
            "centres."
        )
    return tuple(median * float(m) for m in multiples)


def check(y: Array, weights: Array, centers: AnyArray, scale: Scale, form: str = "density") -> None:
    """Checks the arguments of `energy`: shapes always, values where they are concrete.

    Raises:
      InputError: an unknown form, centres of another dimension than `y`, weights of another number
        than centres, negative, or with a sum other than 1 (to 1e-4), a scale that is not positive,
        or a mixture of another shape.
    """
    if form not in FORMS:
        raise InputError(f"form is {form!r}; valid are {' and '.join(map(repr, FORMS))}.")
    y_shape, weights_shape, centers_shape = (np.shape(a) for a in (y, weights, centers))
    dim = y_shape[-1] if y_shape else None
    if len(centers_shape) != 2 or 0 in centers_shape or centers_shape[1] != dim:
        raise InputError(f"centers has shape {centers_shape}; valid for y {y_shape} is [K, {dim}].")
    if not weights_shape or weights_shape[-1] != centers_shape[0]:
        raise InputError(
            f"weights has shape {weights_shape}; valid for centers of shape {centers_shape} is "
            f"[..., {centers_shape[0]}]."
        )
    if _is_concrete(weights):
        _check_weights(np.asarray(weights, np.float64))
    if isinstance(scale, GaussianMixture):
        if scale.means.shape != tuple(centers_shape):
            raise InputError(
                f"scale is a mixture with means of shape {scale.means.shape}; valid for centers of "
                f"that shape only, here {centers_shape}."
            )
        return
    scale_shape = jnp.asarray(scale).shape
    if len(scale_shape) > 1 or 0 in scale_shape:
        raise InputError(f"scale has shape {scale_shape}; valid are a number and [S].")
    if _is_concrete(scale):
        values = np.asarray(scale, np.float64).reshape(-1)
        bad = ~(np.isfinite(values) & (values > 0))
        if bad.any():
            raise InputError(f"scale is {values[bad][0]:g}; valid are finite numbers above 0.")


def _check_weights(weights):
    if not (weights >= 0).all():
        value = weights[~(weights >= 0)][0]
        raise InputError(f"weights hold {value:g}; valid are numbers >= 0 with sum 1.")
    sums = weights.sum(axis=-1)
    if not (np.abs(sums - 1) <= 1e-4).all():
        worst = sums.flat[int(np.argmax(np.abs(sums - 1)))]
        raise InputError(f"weights sum to {worst:g}; valid are numbers >= 0 with sum 1.")


def _is_concrete(value) -> bool:
    leaves = value if isinstance(value, tuple | list) else [value]
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)


def _distances(y, weights, centers, scale):
    """What both functions are made of, all of one rank.

    Returns:
      weights `[..., 1, K]`; squared distances in units of the scale `[..., S, K]`; the pull of each
      centre `[..., K, D]` and what it is to be multiplied with, `[..., S, 1]`, which together are
      `Sigma_k^-1 (y - mu_k)`.
    """
    dtype = jnp.result_type(float, y)
    y, weights, centers = (jnp.asarray(a, dtype) for a in (y, weights, centers))
    rank = max(y.ndim, weights.ndim)
    y, weights = (a.reshape((1,) * (rank - a.ndim) + a.shape) for a in (y, weights))
    leading = (1,) * (rank - 1)
    offsets = y[..., None, :] - centers.reshape(leading + centers.shape)
    weights = weights[..., None, :]
    if isinstance(scale, GaussianMixture):
        white, pull = _whiten(scale, offsets)
        squared = jnp.sum(white**2, axis=-1)[..., None, :]
        return weights, squared, pull, jnp.ones((*leading, 1, 1), y.dtype)
    precision = 1 / jnp.asarray(scale, y.dtype).reshape((*leading, -1, 1)) ** 2
    squared = jnp.sum(offsets**2, axis=-1)[..., None, :] * precision
    return weights, squared, offsets, precision


def _whiten(mix, offsets):
    """`Sigma_k^-1/2` and `Sigma_k^-1` applied to `[..., K, D]`, the first up to a rotation."""
    spectrum = mix.spectrum.reshape((1,) * (offsets.ndim - 2) + mix.spectrum.shape)
    if mix.basis is None:
        return offsets / jnp.sqrt(spectrum), offsets / spectrum
    axes = "kde" if mix.kind == "full" else "de"
    coordinates = jnp.einsum(f"{axes},...kd->...ke", mix.basis, offsets, precision=_HIGHEST)
    pull = jnp.einsum(f"{axes},...ke->...kd", mix.basis, coordinates / spectrum, precision=_HIGHEST)
    return coordinates / jnp.sqrt(spectrum), pull


def _log_joint(weights, squared):
    """`log w_k - q_k / 2`, `[..., S, K]`; -inf with gradient 0 where the weight is 0."""
    # Below the smallest normal number 1 / w overflows, and with it the gradient.
    positive = weights >= jnp.finfo(weights.dtype).tiny
    log_weights = jnp.log(jnp.where(positive, weights, 1.0))
    return jnp.where(positive, log_weights - 0.5 * squared, -jnp.inf)
