"""Memory in huge pages on a CPU: a network of 7 M parameters trains a sixth faster.

Its arrays are too many pages for the processor's table of them. The C library asks the system for
huge ones only if it was told so before the process began.
"""

import os
import pathlib
import platform
import sys
from collections.abc import Mapping

_VARIABLE, _TUNABLE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
_SYSTEM = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def environment(given: Mapping[str, str], system: pathlib.Path = _SYSTEM) -> dict[str, str] | None:
    """`given` with huge pages asked for; None where that is chosen already or of no use.

    Of no use: another C library than glibc 2.35 or newer, a system that gives them to everybody or
    to nobody, and `JAX_PLATFORMS` without a CPU.
    """
    name, version = platform.libc_ver()
    try:
        is_new = name == "glibc" and tuple(map(int, version.split(".")[:2])) >= (2, 35)
        on_request = "[madvise]" in system.read_text()
    except (OSError, ValueError):
        return None
    chosen = given.get(_VARIABLE, "")
    if not is_new or not on_request or _TUNABLE in chosen:
        return None
    platforms = given.get("JAX_PLATFORMS", "")
    if platforms and "cpu" not in platforms:
        return None
    return {**given, _VARIABLE: ":".join(filter(None, [chosen, f"{_TUNABLE}=1"]))}


def start_again() -> None:
    """Becomes the same command, in the same process, with huge pages where they are of use."""
    asked = environment(os.environ)
    if asked is None or not sys.orig_argv or not sys.executable:
        return
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], asked)
    except OSError:
        return
