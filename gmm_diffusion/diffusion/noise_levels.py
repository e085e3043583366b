"""Noise levels: the law of sigma in training and the grid of sigmas in sampling.

Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models"
(arXiv 2206.00364).
"""

import jax
import jax.numpy as jnp

from gmm_diffusion.types import Array


def log_normal(keys: Array, mean: float, std: float) -> Array:
    """One sigma a key, `ln sigma ~ N(mean, std^2)`: `[B]` keys -> `[B]` (table 1)."""
    return jnp.exp(mean + std * jax.vmap(jax.random.normal)(keys))


def karras(num_steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Array:
    """The EDM grid, `[S+1]` decreasing from `sigma_max` to `sigma_min`, then 0 (eq. 5).

    Raises:
      ValueError: for fewer than one step, or sigmas not positive and increasing.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; it must be at least 1.")
    if not 0 < sigma_min < sigma_max:
        raise ValueError(
            f"sigma_min is {sigma_min} and sigma_max is {sigma_max}; "
            "they must satisfy 0 < sigma_min < sigma_max."
        )
    fraction = jnp.linspace(0.0, 1.0, num_steps) if num_steps > 1 else jnp.zeros(1)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigmas = (high + fraction * (low - high)) ** rho
    return jnp.append(sigmas, 0.0)
