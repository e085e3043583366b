"""How much memory this process may still take."""

import contextlib
import os
import pathlib
import resource

_GROUPS = pathlib.Path("/sys/fs/cgroup")


def free_memory() -> float:
    """Bytes that are free: of the machine, of its control group, and below `ulimit -v`."""
    free = float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, StopIteration):
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        # What caches hold counts as free, too.
        free = 1024.0 * next(int(s.split()[1]) for s in lines if s.startswith("MemAvailable:"))
    for group in _own_groups():
        with contextlib.suppress(OSError, ValueError):  # No such file, or no limit: "max".
            limit, used = ((group / f"memory.{n}").read_text() for n in ("max", "current"))
            free = min(free, float(int(limit) - int(used)))
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        with contextlib.suppress(OSError):
            pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
            free = min(free, float(limit - pages * os.sysconf("SC_PAGE_SIZE")))
    return max(free, 0.0)


def _own_groups():
    """The folder of this process's control group and those around it, each of which may limit."""
    groups = [_GROUPS]  # As a container sees its own.
    with contextlib.suppress(OSError, StopIteration):
        lines = pathlib.Path("/proc/self/cgroup").read_text().splitlines()
        name = next(line[3:] for line in lines if line.startswith("0::"))
        for part in pathlib.PurePosixPath(name.strip("/")).parts:
            groups.append(groups[-1] / part)
    return groups
