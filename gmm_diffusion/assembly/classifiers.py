"""A classifier that takes part in training or guidance, and what its output costs."""

import flax.linen as nn
from ml_collections import ConfigDict

from gmm_diffusion.assembly.kind import kind
from gmm_diffusion.mixture import ngmg
from gmm_diffusion.model import classifier as classifier_lib
from gmm_diffusion.model.fitted import FittedStatistics
from gmm_diffusion.networks.encoder import ENCODERS
from gmm_diffusion.tasks import TASKS
from gmm_diffusion.types import Classify


def has_classifier(config: ConfigDict) -> bool:
    """Whether a classifier has a part in training, trained or frozen."""
    return TASKS[config.training.task].classifies or config.ngmg.weight > 0


def trained_parts(config: ConfigDict) -> tuple[str, ...]:
    """Parts of the parameters: those of the task, and a classifier that is trained beside."""
    parts = TASKS[config.training.task].parts
    beside = config.ngmg.weight > 0 and not config.ngmg.workdir
    return (*parts, "classifier") if beside else parts


def objective(
    config: ConfigDict, fitted: FittedStatistics
) -> classifier_lib.Objective | classifier_lib.AttributeObjective:
    """What the classifier's output costs; InputError for centres that allow no scale."""
    own, conditioner = kind(config), fitted.conditioner
    assert own is not None, "a config with a classifier has a kind of conditioning"
    assert conditioner is not None, "a classifier learns the components of a mixture"
    return _OBJECTIVES[own.objective](config, conditioner.mixture)


def _of_components(config, mix):
    group = config.classifier
    scale = ngmg.scales(mix.means, tuple(group.scales)) if group.scales else mix
    return classifier_lib.Objective(group.loss, mix, scale, group.form)


def _of_attributes(config, mix):
    group = config.classifier
    # The centres of an attribute are 1 apart.
    num, scales = mix.num_components // 2, tuple(group.scales)
    return classifier_lib.AttributeObjective(group.loss, num, scales, group.form)


# By `conditioning.Kind.objective`.
_OBJECTIVES = {"components": _of_components, "attributes": _of_attributes}


def encoder(config: ConfigDict, fitted: FittedStatistics) -> nn.Module:
    """The network of the classifier."""
    group = config.classifier
    return ENCODERS[group.name](
        objective(config, fitted).out_dim, group.width, group.embedding_dim, group.normalize
    )


def classify(config: ConfigDict, fitted: FittedStatistics) -> Classify:
    """`(params of the part, x, sigma=None) -> (out, embedding)`, of centred data."""
    return classifier_lib.make_classify(
        encoder(config, fitted), float(fitted.sigma_data), config.classifier.noisy
    )
