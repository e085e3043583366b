"""Tables of attributes beside images: a CSV, or CelebA's own list."""

import csv
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from gmm_diffusion.attribute_names import check_askable
from gmm_diffusion.data import folder_splits
from gmm_diffusion.errors import InputError

NAMES = ("attributes.csv", "list_attr_celeba.csv", "list_attr_celeba.txt")
_VALUES = {"1": 1, "0": 0, "-1": 0}


def find(folder: pathlib.Path) -> pathlib.Path | None:
    """The table in a folder: one of `NAMES`, or its only CSV, in letters of any size; or None.

    Raises:
      InputError: several tables that might be meant.
    """
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}.") from error
    known = [name for name in names if name.lower() in NAMES]
    csvs = [
        name
        for name in names
        if name.lower().endswith(".csv") and name.lower() not in folder_splits.FILES
    ]
    found = [folder / name for name in known or csvs if (folder / name).is_file()]
    if len(found) > 1:
        raise InputError(
            f"{folder} holds the tables {', '.join(p.name for p in found)}; it must hold one table "
            "of attributes, or one that is called attributes.csv."
        )
    return found[0] if found else None


def read(path: str | os.PathLike) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Reads a table.

    A `.csv` starts with the line `file,Smiling,Bald`; a `.txt` is CelebA's: the number of rows, the
    names, and rows of a file and its values, separated by spaces. Values are 0 and 1, or -1 and 1.

    Args:
      path: of the table.

    Returns:
      `(names, rows)`: the A names, and for each file its `[A]` uint8 of 0 and 1, in the order of
      the table.

    Raises:
      InputError: with the table and the number of its line: it cannot be read, has no or doubtful
        names, or one that no condition can ask for, a row of another length, another value, or a
        file twice.
    """
    path = pathlib.Path(path)
    try:
        # With or without the mark that spreadsheets put in front.
        with open(path, newline="", encoding="utf-8-sig") as f:
            lines = _comma_separated(f) if path.suffix.lower() == ".csv" else _celeba(f, path)
            return _parse(path, lines)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a table of attributes: {error}.") from error


def _comma_separated(f) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(f)
    for cells in reader:
        if any(cells):
            yield reader.line_num, [cell.strip() for cell in cells]


def _celeba(f, path) -> Iterator[tuple[int, list[str]]]:
    first = f.readline().strip()
    if not (first.isdecimal() and len(first) < 10):
        raise InputError(f"line 1 of {path} is {first[:50]!r}; it must be the number of rows.")
    yield 2, ["file", *f.readline().split()]
    number = 2
    for number, line in enumerate(f, 3):
        if line.strip():
            yield number, line.split()
        else:
            number -= 1
    if number - 2 != int(first):
        raise InputError(f"{path} has {number - 2} rows, and its first line says {first}.")


def _parse(path, lines):
    _, header = next(lines, (1, []))
    names = tuple(header[1:])
    if not names or not all(names) or len(set(names)) < len(names):
        raise InputError(
            f"the header of {path} is {','.join(header)[:80]!r}; it must be file and then the "
            "names of attributes, all different, separated by commas."
        )
    check_askable(names, str(path))
    rows: dict[str, np.ndarray] = {}
    found_on: dict[str, int] = {}
    seen: set[str] = set()
    for number, (name, *cells) in lines:
        where = f"line {number} of {path}"
        if len(cells) != len(names):
            raise InputError(f"{where} has {len(cells)} values; the header has {len(names)} names.")
        if name in rows:
            raise InputError(f"{where} is of {name}, as is line {found_on[name]}; once is enough.")
        try:
            rows[name] = np.array([_VALUES[cell] for cell in cells], np.uint8)
        except KeyError:
            wrong = next(i for i, cell in enumerate(cells) if cell not in _VALUES)
            raise InputError(
                f"{where} has {names[wrong]} {cells[wrong]!r}; valid are 0 and 1, or -1 and 1."
            ) from None
        found_on[name] = number
        seen.update(cells)
        if {"0", "-1"} <= seen:
            raise InputError(
                f"{where} has both 0 and -1 in it or before it; valid are 0 and 1, or -1 and 1."
            )
    return names, rows
