"""`training.seed=0,1,2` on the command line of a sweep."""

import ast
import re

from gmm_diffusion import config as config_lib
from gmm_diffusion.errors import InputError


def parse(text: str) -> tuple[str, list]:
    """`"training.seed=0,1,2"` -> `("training.seed", [0, 1, 2])`.

    Commas inside brackets do not separate: `network.channel_mult=(1,2),(1,2,4)` has two values.

    Raises:
      InputError: no such setting, or a value that is not of its type.
    """
    field, sign, values = text.partition("=")
    if not sign:
        raise InputError(f"{text!r} is not GROUP.FIELD=VALUE,VALUE and not a sweep file (*.py).")
    config_lib.check_name(field)
    usual = config_lib.fields(config_lib.default())[field]
    parts = re.split(r",(?![^(\[]*[)\]])", values)
    return field, [_value(field, part.strip(), type(usual)) for part in parts]


def _value(field, text, kind):
    if kind is str or re.search(r"\{[\w.]+\}", text):
        return text
    try:
        value = ast.literal_eval(text.capitalize() if kind is bool else text)
    except (ValueError, SyntaxError):
        value = None
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise InputError(f"{field} is {text!r}; it must be of type {kind.__name__}.")
    return value
