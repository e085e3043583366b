"""Averages of the parameters with a power-function profile (Karras et al., arXiv 2312.02696).

After update t the average is `sum_{i<=t} w_i params_i` with `w_i` close to
`(gamma + 1) i^gamma / t^(gamma + 1)`: its width is a fixed fraction of the run so far, so early
averages forget the initialisation and no decay constant has to be matched to the run's length.
"""

import jax
import jax.numpy as jnp
import numpy as np

from gmm_diffusion.bounds import is_ema_width
from gmm_diffusion.errors import InputError
from gmm_diffusion.types import Array, PyTree


def gamma_from_width(width: float) -> float:
    """The exponent gamma of the profile with a given relative standard deviation.

    The profile `i^gamma` on [0, t] has standard deviation `t * width`,
    `width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3))` (arXiv 2312.02696, section 3.1); the
    largest real root of that cubic is the one that falls as the width grows.

    Args:
      width: standard deviation as a fraction of the run so far, from 1e-06, an average of
        the last millionth, to below 0.28.

    Returns:
      gamma, solved in float64: 16.972 for 0.05, 6.937 for 0.10.

    Raises:
      InputError: another width.
    """
    if not is_ema_width(width):
        raise InputError(
            f"EMA width {width} is not valid: a relative standard deviation is at least 1e-06 and"
            " below 0.28, for example 0.05."
        )
    precision = np.float64(width) ** -2
    roots = np.roots([1.0, 7.0, 16.0 - precision, 12.0 - precision])
    # The imaginary part of a real root is exactly 0 for a cubic with three real roots.
    return float(roots.real[roots.imag == 0].max())


def beta(step: Array | int, gamma: float) -> Array:
    """Decay of update t: `(1 - 1 / t)^(gamma + 1)` (arXiv 2312.02696, equations 121-127).

    Args:
      step: `[]` 1-based number of the update, a Python int or traced.
      gamma: exponent of the profile.

    Returns:
      `[]` float32 in [0, 1). It is 0 at update 1, which makes the average a copy of the
      parameters: what it was started from carries no weight afterwards.
    """
    return jnp.exp(_log_beta(step, gamma))


def update(
    emas: tuple[PyTree, ...], params: PyTree, step: Array | int, widths: tuple[float, ...]
) -> tuple[PyTree, ...]:
    """Moves each average towards the parameters of update `step`, in float32.

    Args:
      emas: one pytree like `params` for each width; start them as copies of the parameters.
      params: pytree of arrays of any shape; any float type.
      step: `[]` 1-based number of the update.
      widths: relative standard deviations, static; see `gamma_from_width`.

    Returns:
      The averages, float32, in the order of `widths`.

    Raises:
      InputError: as `gamma_from_width`.
      ValueError: there are not as many averages as widths.
    """
    averages = []
    for ema, width in zip(emas, widths, strict=True):
        # 1 - beta is far below float32's resolution of beta late in a run, hence expm1; and
        # moving by a difference leaves parameters that do not change exactly where they are.
        rate = -jnp.expm1(_log_beta(step, gamma_from_width(width)))
        averages.append(
            jax.tree.map(
                lambda average, value, rate=rate: (
                    average.astype(jnp.float32)
                    + rate * (value.astype(jnp.float32) - average.astype(jnp.float32))
                ),
                ema,
                params,
            )
        )
    return tuple(averages)


def _log_beta(step: Array | int, gamma: float) -> Array:
    """`[]` float32 log of the decay; minus infinity at update 1."""
    return (gamma + 1) * jnp.log1p(-1 / jnp.asarray(step, jnp.float32))
