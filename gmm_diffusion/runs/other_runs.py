"""Other runs that a config names: whether they are there, before anything that takes long."""

from ml_collections import ConfigDict

from gmm_diffusion import config as config_lib
from gmm_diffusion import paths
from gmm_diffusion.errors import InputError
from gmm_diffusion.runs.workdir import CONFIG, directory


def check(config: ConfigDict, new: bool) -> None:
    """Looks for each directory of another run that is going to be read. Needs no JAX.

    Args:
      config: of the run that names them.
      new: whether it is to be trained from the start; a checkpoint holds what it took from others.

    Raises:
      InputError: one that holds no run.
    """
    conditioning, guidance = config.conditioning, config.guidance
    of_features = conditioning.kind in ("gmm", "clusters")
    read = {
        "guidance.guide": guidance.kind == "auto" and guidance.scale != 1,
        "guidance.classifier": guidance.energy,
        "conditioning.classifier": new and of_features and conditioning.features == "classifier",
        "ngmg.workdir": new and config.ngmg.weight,
        "training.init_from": new,
    }
    values = config_lib.fields(config)
    for field, is_read in read.items():
        if not (is_read and values[field]):
            continue
        wanted = "the directory of a run"
        paths.folder(str(values[field]), field, exists=wanted, bucket=True)
        path = directory(str(values[field]), field)
        if not (path / CONFIG).exists():
            raise InputError(
                f"{field} is {str(path)!r}, which holds no {CONFIG}; it must be {wanted}."
            )
