"""What the C library's allocator is told on a CPU: huge pages, and few arenas.

A network of 7 M parameters trains a sixth faster in huge pages: its arrays are too many pages for
the processor's table of them. Arenas are pools of memory, by default eight a core, each of which
keeps what its threads have freed: one for two cores is as fast, and takes a tenth off the peak and
most of what a long run gains (benchmarks/README.md, docs/reliability.md). The library reads both
only before the process begins.
"""

import os
import pathlib
import platform
import sys
from collections.abc import Mapping

_VARIABLE = "GLIBC_TUNABLES"
_HUGE_PAGES, _ARENAS = "glibc.malloc.hugetlb", "glibc.malloc.arena_max"
_SYSTEM = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def environment(given: Mapping[str, str], system: pathlib.Path = _SYSTEM) -> dict[str, str] | None:
    """`given` with what is of use and not chosen already; None where that is nothing.

    Nothing is of use for another C library than glibc 2.35 or newer, or with `JAX_PLATFORMS`
    without a CPU; huge pages are not where the system gives them to everybody or to nobody.
    """
    name, version = platform.libc_ver()
    try:
        is_new = name == "glibc" and tuple(map(int, version.split(".")[:2])) >= (2, 35)
    except ValueError:
        return None
    platforms = given.get("JAX_PLATFORMS", "")
    if not is_new or (platforms and "cpu" not in platforms):
        return None
    chosen = given.get(_VARIABLE, "")
    asked = []
    if _HUGE_PAGES not in chosen and _on_request(system):
        asked.append(f"{_HUGE_PAGES}=1")
    if _ARENAS not in chosen and "MALLOC_ARENA_MAX" not in given:
        asked.append(f"{_ARENAS}={max(1, (os.cpu_count() or 1) // 2)}")
    if not asked:
        return None
    return {**given, _VARIABLE: ":".join(filter(None, [chosen, *asked]))}


def _on_request(system):
    try:
        return "[madvise]" in system.read_text()
    except (OSError, ValueError):
        return False


def start_again() -> None:
    """Becomes the same command, in the same process, with these settings where they are of use."""
    asked = environment(os.environ)
    if asked is None or not sys.orig_argv or not sys.executable:
        return
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], asked)
    except OSError:
        return
