"""A trained run is loaded for a command, the same in all processes that do it together."""

import pathlib

from ml_collections import ConfigDict

from gmm_diffusion import processes
from gmm_diffusion.assembly import load as load_lib
from gmm_diffusion.model.model import Model


def load(config: ConfigDict, path: pathlib.Path) -> Model:
    """The model of the run in `path` at `sample.step`, or as new as the first process finds it.

    Raises:
      InputError: as `assembly.load.load_run`, or the processes read different parameters.
    """

    def of_step(step):
        return load_lib.load_run(path, step, config=config)

    model = processes.same_step(lambda: of_step(config.sample.step or None), of_step)
    processes.same("The parameters", lambda: {"their checksum": processes.checksum(model.params)})
    return model
