"""Which processes make up a run, from flags or as the cluster says; without JAX."""

import dataclasses
import importlib.util
import os
import pathlib
import re
from collections.abc import Mapping

from gmm_diffusion.errors import InputError


@dataclasses.dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run, as flags name them.

    Attributes:
      coordinator: HOST:PORT where process 0 is to be found; empty asks the environment.
      count: of processes; 1 asks nobody.
      index: of this one, from 0.
      wait: seconds until processes that do not come are given up.
    """

    coordinator: str = ""
    count: int | None = None
    index: int | None = None
    wait: int = 300

    def __post_init__(self):
        if self.wait < 1:
            raise InputError(f"--wait is {self.wait}; it must be 1 or more seconds.")
        if self.count is not None and self.count < 1:
            raise InputError(f"--processes is {self.count}; it must be 1 or more.")
        nothing = not self.coordinator and self.count is None and self.index is None
        if nothing or (self.count == 1 and not self.index):
            return
        if not self.coordinator or self.count is None or self.index is None:
            raise InputError(
                "--coordinator=HOST:PORT, --processes=N and --process=I go together; one of them "
                "is missing."
            )
        port = re.fullmatch(r".+:(\d{1,5})", self.coordinator)
        if not port or not 0 < int(port[1]) < 2**16:
            raise InputError(
                f"--coordinator is {self.coordinator!r}; it must be HOST:PORT of process 0, such "
                "as 10.0.0.1:1234."
            )
        if not 0 <= self.index < self.count:
            raise InputError(
                f"--process is {self.index}; it must be 0 to {self.count - 1}, since --processes "
                f"is {self.count}."
            )

    @property
    def alone(self) -> bool:
        """Whether this process is by itself."""
        if self.count is not None:
            return self.count == 1
        return not announced(os.environ)


def announced(environment: Mapping[str, str]) -> bool:
    """Whether something has started several processes, so that it is worth to ask JAX who they are.

    These are SLURM's `srun`, Open MPI, an indexed job of Kubernetes (with the package kubernetes)
    and a virtual machine with a TPU, which may be one of several.
    """

    def several(name):
        return environment.get(name, "").isdigit() and int(environment[name]) > 1

    if several("SLURM_NTASKS") and "SLURM_STEP_NODELIST" in environment:
        return "SLURM_PROCID" in environment
    if several("OMPI_COMM_WORLD_SIZE") and "OMPI_MCA_orte_hnp_uri" in environment:
        return True
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return importlib.util.find_spec("kubernetes") is not None
    if "tpu" not in environment.get("JAX_PLATFORMS", "tpu"):
        return False
    chips = [*pathlib.Path("/dev").glob("accel[0-9]*"), *pathlib.Path("/dev/vfio").glob("[0-9]*")]
    return bool(chips) and importlib.util.find_spec("libtpu") is not None
