"""Settings: their defaults, what each is to a run, their rules and checks, and what a run wrote.

None of it imports JAX, so that a bad flag is refused before that has loaded.
"""

from ml_collections import ConfigDict

from gmm_diffusion.config.checks import check_fields, check_name, check_splits, check_zeta, validate
from gmm_diffusion.config.defaults import SIGMA_MAX, default
from gmm_diffusion.config.rules import KINDS, KINDS_OF_ATTRIBUTES, RULES
from gmm_diffusion.config.settings import (
    FREE_FIELDS,
    MODEL_FIELDS,
    MODEL_GROUPS,
    PATH_FIELDS,
    SAMPLING_GROUPS,
    fields,
    plain_fields,
    sampling_fields,
)
from gmm_diffusion.config.stored import EARLIER, as_written, differences, from_dict, with_paths

__all__ = [
    "EARLIER",
    "FREE_FIELDS",
    "KINDS",
    "KINDS_OF_ATTRIBUTES",
    "MODEL_FIELDS",
    "MODEL_GROUPS",
    "PATH_FIELDS",
    "RULES",
    "SAMPLING_GROUPS",
    "SIGMA_MAX",
    "ConfigDict",
    "as_written",
    "check_fields",
    "check_name",
    "check_splits",
    "check_zeta",
    "default",
    "differences",
    "fields",
    "from_dict",
    "plain_fields",
    "sampling_fields",
    "validate",
    "with_paths",
]
