"""How samples are drawn, as one value: the sampler, its noise levels, steps at once."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from gmm_diffusion.bounds import SAMPLER
from gmm_diffusion.diffusion import noise_levels
from gmm_diffusion.errors import InputError
from gmm_diffusion.sampling.parallel import picard
from gmm_diffusion.sampling.samplers import SAMPLERS
from gmm_diffusion.types import Sampler


@dataclasses.dataclass(frozen=True)
class SamplerSettings:
    """A sampler with its options.

    Attributes:
      name: key of `samplers.SAMPLERS`.
      sigma_min: the last positive noise level.
      sigma_max: the first noise level; None takes the model's own.
      rho: exponent of the grid (arXiv 2206.00364, equation 5).
      churn: heun: new noise over the run (EDM's S_churn).
      churn_min: heun: churn at and above this noise level.
      churn_max: heun: churn at and below this noise level.
      churn_noise: heun: standard deviation of the new noise.
      eta: ancestral: share of the new noise, 0 is DDIM.
      window: steps of a sample that are worked on at once (`parallel.picard`); 0 is one by one.
      tolerance: parallel: a point is found when a round moves it by less, in units of its step's
        noise.

    Raises:
      InputError: no such sampler, one that cannot be parallel with a window, or a number that is
        none.
    """

    name: str = "heun"
    sigma_min: float = 0.002
    sigma_max: float | None = None
    rho: float = 7.0
    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = 1e9
    churn_noise: float = 1.0
    eta: float = 1.0
    window: int = 0
    tolerance: float = 0.1

    def __post_init__(self):
        if self.name not in SAMPLERS:
            raise InputError(f"sampler is {self.name!r}; it must be one of {', '.join(SAMPLERS)}.")
        if self.window and self.name == "dpmpp_2m":
            raise InputError(f"window is {self.window}; dpmpp_2m remembers steps, and needs 0.")
        for name, (low, high) in SAMPLER.items():
            value = getattr(self, name)
            if not ((value is None and name == "sigma_max") or low <= value <= high):
                raise InputError(f"{name} is {value}; it must be from {low:g} to {high:.10g}.")

    def grid(self, steps: int, sigma_max: float) -> jax.Array:
        """`[steps + 1]` decreasing noise levels, the last one 0."""
        return noise_levels.karras(steps, self.sigma_min, self.sigma_max or sigma_max, self.rho)

    def levels(self, steps: int, sigma_max: float) -> np.ndarray:
        """The noise levels at which one sample asks the denoiser, without churn and a window."""
        return SAMPLERS[self.name].levels(np.asarray(self.grid(steps, sigma_max)))

    def sampler(self, sigma_data: float = 1.0, axis_name: str | None = None) -> Sampler:
        """The sampler with its options bound; with a window, `picard` of its step.

        Args:
          sigma_data: RMS of the centred data.
          axis_name: of devices that share the steps of a window, or None.
        """
        options: dict[str, Any] = {}
        if self.name == "heun":
            names = ("churn", "churn_min", "churn_max", "churn_noise")
            options = {name: getattr(self, name) for name in names}
        elif self.name == "ancestral":
            options = {"eta": self.eta}
        if not self.window:
            return functools.partial(SAMPLERS[self.name], **options)
        return functools.partial(
            picard,
            step=self.name,
            window=self.window,
            tolerance=self.tolerance,
            sigma_data=sigma_data,
            axis_name=axis_name,
            **options,
        )
