"""How many devices JAX makes of a CPU: one a core, unless something else was chosen.

XLA divides few of its operations for the CPU among cores. Devices divide the whole batch.
"""

import os
import pathlib
import re
import sys

from gmm_diffusion.errors import InputError

# Fewer examples a device cost more than another core brings.
_LEAST_EXAMPLES = 8
_FLAG = "xla_force_host_platform_device_count"


def cores() -> int:
    """The cores that this process may use: those it is bound to, within a container's share."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    share = _share(pathlib.Path("/sys/fs/cgroup"))
    return count if share is None else max(1, min(count, int(share)))


def _share(folder):
    """Cores that the control group whose folder this is may use in the mean; None is all."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu/cpu.cfs_quota_us").read_text()
            period = (folder / "cpu/cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def suitable(num_cores: int, batch_size: int, microbatch: int = 0) -> int:
    """The most devices, up to `num_cores`, over which a batch spreads evenly.

    Args:
      num_cores: of the machine.
      batch_size: examples of an update.
      microbatch: examples of a device whose gradient is taken at once; 0 is all it has.

    Returns:
      A number that divides the batch into parts of 8 examples or more, and of whole microbatches.
    """

    def fits(count):
        share, rest = divmod(batch_size, count)
        return not rest and share >= _LEAST_EXAMPLES and not (microbatch and share % microbatch)

    return max(filter(fits, range(1, num_cores + 1)), default=1)


def choose(asked: int | None, alone: bool, batch_size: int, microbatch: int = 0) -> None:
    """Tells JAX, which has not begun, how many devices to make of the CPU.

    Nothing is told where there are several processes, or where `XLA_FLAGS` or
    `JAX_NUM_CPU_DEVICES` name a number. With an accelerator it changes nothing.

    Args:
      asked: the number, or None for one a core as `suitable`.
      alone: whether this process is the only one of its run.
      batch_size: as of `suitable`.
      microbatch: likewise.

    Raises:
      InputError: another number than was asked for is there already.
    """
    import jax

    if asked is None and (not alone or _is_chosen(jax) or _has_begun()):
        return
    count = suitable(cores(), batch_size, microbatch) if asked is None else asked
    if asked is not None and (_has_begun() or _FLAG in os.environ.get("XLA_FLAGS", "")):
        if _has_begun():
            there, cause = len(jax.devices("cpu")), "JAX runs in this process already"
        else:
            found = re.search(rf"{_FLAG}=(\d+)", os.environ["XLA_FLAGS"])
            there, cause = int(found[1]) if found else 1, f"XLA_FLAGS names {_FLAG}"
        if there != asked:
            raise InputError(f"--devices is {asked}, and {cause}, with {there} devices.")
        return
    jax.config.update("jax_num_cpu_devices", count)


def describe(asked: int | None) -> str:
    """A sentence for the log, empty where JAX has found no CPU devices or a single one.

    Raises:
      InputError: devices were asked for, and JAX has found an accelerator.
    """
    import jax

    platform, count = jax.default_backend(), jax.local_device_count()
    if platform != "cpu":
        if asked is not None:
            raise InputError(
                f"--devices is {asked}; it divides a CPU, and JAX has found {count} devices of "
                f"kind {platform}. Choose among them as the platform does, such as by "
                "CUDA_VISIBLE_DEVICES, or set JAX_PLATFORMS=cpu."
            )
        return ""
    if count == 1:
        return ""
    return f"The CPU is {count} devices (--devices=N for another number)."


def _is_chosen(jax):
    return _FLAG in os.environ.get("XLA_FLAGS", "") or jax.config.jax_num_cpu_devices > 0


def _has_begun():
    if "jax" not in sys.modules:
        return False
    from jax._src import xla_bridge  # No public name says so.

    return xla_bridge.backends_are_initialized()
