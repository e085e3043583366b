"""The classifier of another run whose last hidden layer is a space of features."""

from ml_collections import ConfigDict

from gmm_diffusion import paths
from gmm_diffusion.data import Dataset
from gmm_diffusion.errors import InputError
from gmm_diffusion.model.embedder import Embedder


def load(config: ConfigDict, data: Dataset) -> Embedder:
    """The classifier of `conditioning.classifier`, of the average that its `sample.ema` names.

    It may know other data, classes or components; it stands in this run's checkpoints from then on.

    Raises:
      InputError: no such run, one without a classifier, or of data of another shape or type.
    """
    workdir = config.conditioning.classifier
    name = f"conditioning.classifier is {workdir!r}"
    wanted = "the workdir of a run with a classifier"
    paths.folder(workdir, "conditioning.classifier", exists=wanted, bucket=True)
    # Imported late: what reads checkpoints takes a second to import, and few runs need it here.
    from gmm_diffusion.assembly import load as load_lib

    run = load_lib.load_run(workdir)
    if run.classifier is None or "classifier" not in run.params:
        raise InputError(f"{name}, a run without a classifier; it must be {wanted}.")
    if run.shape != tuple(data.shape) or run.fitted.latent != data.is_latent:
        raise InputError(
            f"{name}, whose examples have the shape {run.shape}; it must be of data like these, of "
            f"shape {data.shape}."
        )
    group = run.config.classifier
    return Embedder(
        run.params["classifier"],
        run.fitted.transform,
        run.fitted.sigma_data,
        name=group.name,
        out_dim=run.classifier.objective.out_dim,
        width=group.width,
        embedding_dim=group.embedding_dim,
        normalize=group.normalize,
        noisy=group.noisy,
    )
