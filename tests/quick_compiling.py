"""Flags of XLA by which tests compile in half the time.

A test compiles more than it computes. What XLA's fusion emitters and LLVM do for the speed of a
program is most of that.
"""

import importlib.util
import mmap
import pathlib

_WANTED = ("--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false")


def _known(flags):
    """Those whose names are in XLA's library: it ends a process that has others in XLA_FLAGS."""
    (folder,) = importlib.util.find_spec("jaxlib").submodule_search_locations
    library = next(pathlib.Path(folder).glob("libjax_common.*"), None)
    if library is None:
        return ()
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return tuple(f for f in flags if text.find(f.strip("-").split("=")[0].encode()) >= 0)


# Of XLA_FLAGS.
FLAGS = " ".join(_known(_WANTED))
