"""The denoiser of a network, and its learned uncertainty."""

from collections.abc import Callable

from gmm_diffusion.diffusion import preconditioning


def make_denoise(network, sigma_data: float) -> Callable:
    """`(params, x, sigma, cond, keys=None) -> x0` of a linen network; `params` a dict of parts."""

    def denoise(params, x, sigma, cond=None, keys=None):
        def network_fn(x, c_noise, cond):
            return network.apply({"params": params["network"]}, x, c_noise, cond, keys)

        return preconditioning.precondition(network_fn, sigma_data)(x, sigma, cond)

    return denoise


def make_log_variance(network) -> Callable:
    """`(params, sigma [B]) -> u [B]` of the linen module `LogVariance`."""

    def log_variance(params, sigma):
        c_noise = preconditioning.c_noise(sigma)
        return network.apply({"params": params["log_variance"]}, c_noise)

    return log_variance
