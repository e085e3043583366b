"""Which numbers can be meant, where a config and the settings from Python must agree."""

import numbers

# Counts are int32 on a device; of others nobody needs to exceed it.
MOST = 2**31 - 1
# Of `sampling.settings.SamplerSettings`, both ends included. In a config sigma_max may be 0, too.
SAMPLER = {
    "sigma_min": (1e-10, MOST),
    "sigma_max": (1e-10, MOST),
    "rho": (0.1, 1000),
    "churn": (0, MOST),
    "churn_min": (0, MOST),
    "churn_max": (0, MOST),
    "churn_noise": (0, MOST),
    "eta": (0, 1),
    "window": (0, 100_000),
    "tolerance": (0, MOST),
}


def is_ema_width(value: float) -> bool:
    """Whether an average can have this relative standard deviation (`training.ema`)."""
    return 1e-6 <= value < 0.28


def is_whole(value: object) -> bool:
    """Whether it is an integer, NumPy's included, and no truth value."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
