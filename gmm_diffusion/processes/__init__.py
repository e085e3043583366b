"""Several processes that train or sample one model as one program, on the devices of all of them.

Every process runs the same commands on the same config and data, up to the same points; what they
compute together is in `devices`. Here is how they find each other, what they tell each other beside
that, and how all end when one does. The first process alone writes files and speaks.
"""

from gmm_diffusion.processes.agreeing import (
    checksum,
    in_turn,
    is_first,
    meet,
    of_first,
    same,
    same_step,
    versions,
)
from gmm_diffusion.processes.joining import joined

__all__ = [
    "checksum",
    "in_turn",
    "is_first",
    "joined",
    "meet",
    "of_first",
    "same",
    "same_step",
    "versions",
]
