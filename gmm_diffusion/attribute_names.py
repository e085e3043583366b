"""Attributes by name: which are known, and what `Smiling=1,Bald=0` assigns."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from gmm_diffusion.errors import InputError

_UNASKABLE = re.compile(r"[=,\r\n]|^(class|component):\s*\d+$|^(like|features):")


def check_names(chosen: Sequence[str], names: Sequence[str], field: str) -> None:
    """Raises InputError unless `chosen` are different names out of `names`."""
    for name in chosen:
        if name not in names:
            raise InputError(_unknown(name, names, field))
        if list(chosen).count(name) > 1:
            raise InputError(f"{field} names {name} twice; once is enough.")


def check_askable(names: Sequence[str], source: str) -> None:
    """Raises InputError for one of the `names` in `source` that no `Name=1,Other=0` could spell."""
    for name in names:
        if _UNASKABLE.search(name):
            raise InputError(
                f"{source} names the attribute {name!r}, and a name must be without '=', ',' and "
                "line breaks, and not like class:3 or like:, so that a condition can ask for it."
            )


def parse(
    text: str,
    names: Sequence[str],
    exclusive: Iterable[tuple[str, str]] = (),
    field: str = "sample.condition",
) -> dict[str, int]:
    """`Smiling=1,Bald=0` -> `{"Smiling": 1, "Bald": 0}`, in the order of the text.

    Spaces count inside a name only. Attributes that the text does not name are left open.

    Args:
      text: at least one assignment, separated by commas.
      names: every attribute that there is.
      exclusive: pairs of which no example has both.
      field: what messages call the text.

    Raises:
      InputError: another form, an unknown name (with the nearest known one), a value other than 0
        and 1, a name twice, or both attributes of an exclusive pair set to 1.
    """
    assigned: dict[str, int] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals):
            raise InputError(
                f"{field} is {text!r}; it must be like Name=1,Other=0 with attributes of the data."
            )
        if name not in names:
            raise InputError(_unknown(name, names, field))
        if value not in ("0", "1"):
            raise InputError(f"{field} is {text!r}; {name} must be 0 or 1, and is {value!r}.")
        if name in assigned:
            raise InputError(f"{field} is {text!r}; it names {name} twice.")
        assigned[name] = int(value)
    for first, second in exclusive:
        if assigned.get(first) == assigned.get(second) == 1:
            raise InputError(
                f"{field} is {text!r}; no example has both {first} and {second}, so only one of "
                "them can be 1."
            )
    return assigned


def shows(attributes: np.ndarray, assigned: Mapping[str, int], names: Sequence[str]) -> np.ndarray:
    """Which rows of `attributes [N, A]`, columns named `names`, agree with `assigned`: `[N]`."""
    columns = [list(names).index(name) for name in assigned]
    return (attributes[:, columns] == np.array(list(assigned.values()), np.uint8)).all(axis=1)


def _unknown(name: str, names: Sequence[str], field: str) -> str:
    # Case and underscores are what people get wrong, and difflib minds both.
    plain = {known.lower().replace("_", ""): known for known in names}
    near = difflib.get_close_matches(name.lower().replace("_", ""), plain, 1, 0.5)
    hint = f"did you mean {plain[near[0]]}?" if near else f"valid are {', '.join(names)}."
    return f"{field} names the attribute {name!r}, which the data do not have; {hint}"
