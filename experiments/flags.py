"""Values of an experiment's command line, refused before anything is computed.

Types for `argparse`, which names the flag and ends with status 2.
"""

import argparse
import pathlib
from collections.abc import Callable, Iterable

from gmm_diffusion import paths
from gmm_diffusion.errors import InputError


def folder(text: str) -> pathlib.Path:
    """A directory, which may be there or not."""
    try:
        return paths.folder(text, "it")
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def count(text: str) -> int:
    """A whole number from 1."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"it is {text!r}; it must be a whole number from 1.")
    return int(text)


def names(known: Iterable[str]) -> Callable[[str], str]:
    """Some of the known names, with commas between."""
    valid = tuple(known)

    def check(text: str) -> str:
        for name in text.split(","):
            if name not in valid:
                raise argparse.ArgumentTypeError(
                    f"{name!r} is none of {', '.join(valid)}, of which it must be made."
                )
        return text

    return check
