"""The command line of an experiment: what is wrong in it is refused before anything is computed."""

import argparse
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
    try:
        return paths.folder(text, "--out")
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("--out ")) from error


def count(text: str) -> int:
    """A whole number from 1."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"is {text}; valid are whole numbers from 1 on.")
    return int(text)


def names(known: Iterable[str]) -> Callable[[str], str]:
    """Some of the known names, with commas between."""
    valid = tuple(known)

    def check(text: str) -> str:
        for name in text.split(","):
            if name not in valid:
                raise argparse.ArgumentTypeError(f"has {name!r}; valid are {', '.join(valid)}.")
        return text

    return check
