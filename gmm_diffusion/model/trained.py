"""What sampling and guidance know of a trained model: its attributes, and none of its methods."""

from typing import Any, Protocol

from gmm_diffusion.model.classifier import Classifier
from gmm_diffusion.model.denoiser import Denoiser
from gmm_diffusion.model.fitted import FittedStatistics
from gmm_diffusion.types import PyTree


class Trained(Protocol):
    """The attributes of a `model.Model`, which says more of each."""

    @property
    def params(self) -> PyTree:
        """A dict of parts."""

    @property
    def fitted(self) -> FittedStatistics:
        """Everything fitted to data before training."""

    @property
    def denoiser(self) -> Denoiser:
        """The network without its parameters."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""

    @property
    def classifier(self) -> Classifier | None:
        """The classifier without its parameters."""

    @property
    def config(self) -> Any:
        """The settings of the run, or None."""

    @property
    def classifier_params(self) -> PyTree:
        """Of the classifier."""

    @property
    def sigma_max(self) -> float:
        """Where sampling starts."""
