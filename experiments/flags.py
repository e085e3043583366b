"""The command line of an experiment: what is wrong in it is refused before anything is computed."""

import argparse
import math
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import NoReturn

from gmm_diffusion import command_line, paths
from gmm_diffusion.errors import InputError


class Parser(command_line.Parser):
    """Refuses by a sentence that begins with the flag where a type below has refused its value."""

    def error(self, message: str) -> NoReturn:
        """Raises InputError."""
        if refused := re.fullmatch(r"argument --(\w+): ((?:is|has) .*\.)", message, re.DOTALL):
            raise InputError(f"{refused[1]} {refused[2]}")
        super().error(message)


def folder(text: str) -> pathlib.Path:
    """A directory, which may be there or not."""
    return _place(paths.folder, text)


def picture(text: str) -> pathlib.Path:
    """A file, which may be there or not, in a directory that exists."""
    return _place(paths.file, text)


def _place(of, text):
    try:
        return of(text, "--out")
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("--out ")) from error


def count(text: str) -> int:
    """A whole number from 1."""
    return _whole(text, 1)


def index(text: str) -> int:
    """A whole number from 0."""
    return _whole(text, 0)


def _whole(text, lowest):
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= lowest):
        raise argparse.ArgumentTypeError(f"is {text}; valid are whole numbers from {lowest} on.")
    return int(text)


def numbers(text: str) -> list[float]:
    """Finite numbers from 0, with commas between."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = [math.nan]
    if not all(0 <= number < math.inf for number in found):
        raise argparse.ArgumentTypeError(f"is {text}; valid are numbers from 0 on, as 0,0.5,1.")
    return found


def names(known: Iterable[str]) -> Callable[[str], str]:
    """Some of the known names, with commas between."""
    valid = tuple(known)

    def check(text: str) -> str:
        for name in text.split(","):
            if name not in valid:
                raise argparse.ArgumentTypeError(f"has {name!r}; valid are {', '.join(valid)}.")
        return text

    return check
