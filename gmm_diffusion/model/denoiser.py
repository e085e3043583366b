"""The denoiser of a network, and its learned uncertainty."""

import dataclasses

import flax.linen as nn

from gmm_diffusion.diffusion import preconditioning
from gmm_diffusion.types import Array, LogVariance, PyTree


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """A linen network as a denoiser; two of the same network and `sigma_data` are equal.

    Attributes:
      network: `(x, c_noise, cond, keys) -> [B, ...]`, linen, preconditioned here.
      sigma_data: RMS of the centred training data.
      preconditioning: key of `preconditioning.PRECONDITIONINGS`.
    """

    network: nn.Module
    sigma_data: float
    preconditioning: str = "edm"

    def __call__(
        self, params: PyTree, x: Array, sigma: Array, cond: PyTree = None, keys: Array | None = None
    ) -> Array:
        """`x [B, ...]` centred, `sigma [B]` or `[]`, `keys [B]` of dropout or None -> `[B, ...]`.

        `params` is a dict of parts, of which it takes "network".
        """

        def network_fn(x, c_noise, cond):
            return self.network.apply({"params": params["network"]}, x, c_noise, cond, keys)

        made = preconditioning.precondition(network_fn, self.sigma_data, self.preconditioning)
        return made(x, sigma, cond)


def make_log_variance(network: nn.Module) -> LogVariance:
    """`(params, sigma [B]) -> u [B]` of the module `LogVariance` of `networks`."""

    def log_variance(params, sigma):
        c_noise = preconditioning.c_noise(sigma)
        return network.apply({"params": params["log_variance"]}, c_noise)

    return log_variance
