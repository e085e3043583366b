"""How many devices JAX makes of a CPU: one a core, unless something else was chosen.

XLA divides few of its operations for the CPU among cores. Devices divide the whole batch.
"""

import os
import pathlib
import re

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


def suitable(num_cores: int, batch_size: int, microbatch: int = 0, points: int = 0) -> int:
    """The most devices, up to `num_cores`, over which a batch spreads evenly.

    Args:
      num_cores: of the machine.
      batch_size: examples of an update.
      microbatch: examples of a device whose gradient is taken at once; 0 is all it has.
      points: of the contrastive loss, which are spread likewise; 0 is none.

    Returns:
      A number that divides the batch into parts of 8 examples or more, and of whole microbatches.
    """

    def fits(count):
        share, rest = divmod(batch_size, count)
        whole = not rest and not points % count and not (microbatch and share % microbatch)
        return whole and share >= _LEAST_EXAMPLES

    return max(filter(fits, range(1, num_cores + 1)), default=1)


def choose(
    asked: int | None, alone: bool, batch_size: int, microbatch: int = 0, points: int = 0
) -> None:
    """Tells JAX, which has not begun, how many devices to make of the CPU.

    Nothing is told where there are several processes, or where `XLA_FLAGS` or
    `JAX_NUM_CPU_DEVICES` name a number. With an accelerator it changes nothing.

    Args:
      asked: the number, or None for one a core as `suitable`.
      alone: whether this process is the only one of its run.
      batch_size: as of `suitable`.
      microbatch: likewise.
      points: likewise.

    Raises:
      InputError: another number than was asked for is there already.
    """
    import jax

    chosen = _chosen(jax)
    if chosen is None:
        count = asked or (suitable(cores(), batch_size, microbatch, points) if alone else 1)
        jax.config.update("jax_num_cpu_devices", count)
    elif asked is not None and asked != (there := chosen()):
        raise InputError(
            f"--devices is {asked}, and XLA_FLAGS, JAX_NUM_CPU_DEVICES or what has run in this "
            f"process before chose {there} devices."
        )


def check(asked: int | None) -> None:
    """Raises InputError where devices were asked for, and JAX has found an accelerator."""
    import jax

    platform = jax.default_backend()
    if asked is not None and platform != "cpu":
        raise InputError(
            f"--devices is {asked}; it divides a CPU, and JAX has found {jax.local_device_count()} "
            f"devices of kind {platform}. Choose among them as the platform does, such as by "
            "CUDA_VISIBLE_DEVICES, or set JAX_PLATFORMS=cpu."
        )


def describe() -> str:
    """A sentence for the log, empty where JAX has found no CPU devices or a single one."""
    import jax

    count = jax.local_device_count()
    if jax.default_backend() != "cpu" or count == 1:
        return ""
    return f"The CPU is {count} devices (--devices=N for another number)."


def _chosen(jax):
    """What tells the number that something else has chosen, or None."""
    from jax._src import xla_bridge  # No public name says so.

    if xla_bridge.backends_are_initialized():
        return lambda: len(jax.devices("cpu"))
    if found := re.search(rf"{_FLAG}=(\d+)", os.environ.get("XLA_FLAGS", "")):
        return lambda: int(found[1])
    number = jax.config.jax_num_cpu_devices
    return (lambda: number) if number > 0 else None
