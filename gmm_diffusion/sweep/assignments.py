"""`training.seed=0,1,2` on the command line of a sweep.

Commas separate values, but not inside brackets, and not in a text with `=`, which is one condition.
Where there is a semicolon, semicolons separate them and commas do not:

  network.channel_mult=(1,2),(1,2,4)             two values
  sample.sampler=heun,euler                      two
  sample.condition=Smiling=1,Bald=0              one
  data.crop=0,0,8,8;                             one
"""

import ast
import re

from gmm_diffusion import config as config_lib
from gmm_diffusion.errors import InputError


def parse(text: str) -> tuple[str, list]:
    """`"training.seed=0,1,2"` -> `("training.seed", [0, 1, 2])`.

    Raises:
      InputError: no such setting, or a value that is not of its type.
    """
    field, sign, values = text.partition("=")
    if not sign:
        raise InputError(f"{text!r} is not GROUP.FIELD=VALUE,VALUE and not a sweep file (*.py).")
    config_lib.check_name(field)
    usual = config_lib.fields(config_lib.default())[field]
    return field, [_value(field, part.strip(), type(usual)) for part in _parts(values, type(usual))]


def parse_all(texts: list[str]) -> dict[str, list]:
    """All of a command line, by field.

    Raises:
      InputError: as `parse`, or a field that is given twice.
    """
    found: dict[str, list] = {}
    for text in texts:
        field, values = parse(text)
        if field in found:
            raise InputError(f"{field} is given twice; give all its values at once.")
        found[field] = values
    return found


def _parts(values, kind):
    if ";" in values:
        return values.removesuffix(";").split(";")
    if kind is str and "=" in values:
        return [values]
    parts, depth = [""], 0
    for letter in values:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _value(field, text, kind):
    if kind is str or re.search(r"\{[\w.]+\}", text):
        return text
    try:
        value = ast.literal_eval(text.capitalize() if kind is bool else text)
        value = float(value) if kind is float and type(value) is int else value
    except (ValueError, SyntaxError, TypeError, OverflowError, MemoryError, RecursionError):
        value = None
    if type(value) is not kind:
        raise InputError(f"{field} is {text!r}; it must be of type {kind.__name__}.")
    return value
