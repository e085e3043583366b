"""From a group of a config to the dataclass of settings that a part takes."""

import dataclasses
from typing import Any, TypeVar

from ml_collections import ConfigDict

S = TypeVar("S")


def of_group(cls: type[S], group: ConfigDict, **others: Any) -> S:
    """The dataclass `cls` with the values of the group's fields of the same names, and `others`."""
    names = {field.name for field in dataclasses.fields(cls)} - others.keys()  # type: ignore[arg-type]
    return cls(**{name: group[name] for name in names}, **others)
