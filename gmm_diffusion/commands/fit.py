"""Training from parts and without a config."""

import dataclasses
import os
import tempfile

from gmm_diffusion import config as config_lib
from gmm_diffusion import paths
from gmm_diffusion.assembly import load as load_lib
from gmm_diffusion.bounds import is_whole
from gmm_diffusion.commands.train import train
from gmm_diffusion.conditioning.settings import KINDS, ConditioningSettings, Fitted, Unconditional
from gmm_diffusion.data import Dataset
from gmm_diffusion.errors import InputError
from gmm_diffusion.model.model import Model
from gmm_diffusion.networks.settings import MLPSettings, UNetSettings
from gmm_diffusion.runs import workdir as workdir_lib


def fit(
    data: Dataset,
    *,
    conditioning: ConditioningSettings | None = None,
    network: UNetSettings | MLPSettings | None = None,
    steps: int = 1200,
    batch_size: int = 128,
    learning_rate: float = 1e-2,
    seed: int = 0,
    flip: bool = False,
    law: str | None = None,
    workdir: str | os.PathLike | None = None,
) -> Model:
    """A new model, trained as `train` trains it; all other settings are those of `config.default`,
    but for `evaluation.neighbours`, which stays below the number of examples.

    Args:
      data: of which `train` is trained on, for example `data.from_arrays(x)`.
      conditioning: what the model is conditioned on; None takes `Fitted`, to each class where there
        are classes, and with fewer components where there is less data.
      network: None takes a `UNetSettings` for images and latents and an `MLPSettings` for vectors.
      steps: updates.
      batch_size: examples an update, over all devices.
      learning_rate: its peak.
      seed: of parameters, noise and the order of examples.
      flip: whether images are mirrored with probability 1/2.
      law: `diffusion.law`, of the noise in training; None takes "auto" for vectors and "given" for
        images and latents, and in a run that is gone on with its own.
      workdir: directory of the run, created if absent; resumed if it holds the same run. None keeps
        nothing on disk.

    Returns:
      The average of the parameters that `sample.ema` names, with the run's config.

    Raises:
      InputError: parts that do not fit each other or the data.
      RunError: the run itself failed.
    """
    if workdir is not None:
        workdir = paths.folder(workdir, "workdir", bucket=True)
    for name, value in (("steps", steps), ("batch_size", batch_size), ("seed", seed)):
        if not is_whole(value):
            raise InputError(f"{name} is {value!r}; it must be a whole number.")
    for name, part, kinds in (
        ("conditioning", conditioning, tuple(KINDS)),
        ("network", network, (UNetSettings, MLPSettings)),
    ):
        if part is not None and not isinstance(part, kinds):
            raise InputError(
                f"{name} is {part!r}; it must be one of {', '.join(k.__name__ for k in kinds)}, "
                "or None."
            )
    # NumPy's numbers are none of a config's.
    steps, batch_size, seed = int(steps), int(batch_size), int(seed)
    conditioning = conditioning or _usual_conditioning(data)
    network = network or (UNetSettings() if len(data.shape) == 3 else MLPSettings())
    config = config_lib.default()
    config.data.name, config.data.flip, config.data.validation_fraction = "arrays", flip, 0.0
    config.conditioning.kind = KINDS[type(conditioning)]
    config.conditioning.update(dataclasses.asdict(conditioning))
    config.network.name = "unet" if isinstance(network, UNetSettings) else "mlp"
    config.network.update(dataclasses.asdict(network))
    training = config.training
    training.num_steps, training.batch_size, training.seed = steps, batch_size, seed
    config.optimizer.learning_rate = float(learning_rate)
    config.diffusion.law = law or _usual_law(network, workdir)
    config.evaluation.at_end = False
    fewest = min(len(data.train), len(data.heldout))
    config.evaluation.neighbours = min(config.evaluation.neighbours, max(fewest - 1, 1))
    if workdir is not None:
        return _fit(config, data, workdir)
    # Nobody sees what is written on the way, or goes on from there.
    config.checkpoint.every, config.checkpoint.snapshot_every = steps, 0
    training.heldout_every, training.tensorboard = 0, False
    with tempfile.TemporaryDirectory() as folder:
        return _fit(config, data, os.path.join(folder, "run"))


def _fit(config, data, workdir):
    train(config, os.fspath(workdir), data)
    return load_lib.load_run(workdir)


def _usual_law(network, workdir):
    if workdir is not None and (paths.of(workdir) / workdir_lib.CONFIG).exists():
        return workdir_lib.read_config(workdir).diffusion.law
    # A network that does not fit the data is refused as such, and not for the law.
    return "auto" if isinstance(network, MLPSettings) else "given"


def _usual_conditioning(data):
    """A mixture of about a component for ten examples, at most the usual number."""
    per_class = data.num_classes > 0
    classes = max(data.num_classes, 1)
    num = min(Fitted().num_components, len(data.train) // 10) // classes * classes
    if num < classes:
        return Unconditional()
    dim = min(Fitted().feature_dim, data.train.x[0].size, len(data.train))
    return Fitted(num, per_class=per_class, feature_dim=dim)
