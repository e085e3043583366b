"""Which images of a folder are to train on, which are held out, and which are for choices.

A folder of held-out images that is named says it, or a file, or folders of the first level that are
called after splits. Where nothing does, a part of all must be held out.
"""

import csv
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from gmm_diffusion.data import image_files
from gmm_diffusion.errors import InputError

# Names of folders, in letters of any size; the first that is there.
TRAIN = ("train", "training")
VALIDATION = ("val", "valid", "validation")
HELDOUT = ("test", "testing", "heldout", *VALIDATION)
# CelebA's list, as its authors and as Kaggle have it, and one of the user's own.
FILES = ("list_eval_partition.txt", "list_eval_partition.csv", "splits.csv")
_WORDS = {
    **dict.fromkeys(("0", *TRAIN), "train"),
    **dict.fromkeys(("1", *VALIDATION), "validation"),
    **dict.fromkeys(("2", "test", "testing", "heldout"), "heldout"),
}


class Part(NamedTuple):
    """The images of a split.

    Attributes:
      folder: where they lie; folders of classes are those right below.
      files: of the images, in order.
    """

    folder: pathlib.Path
    files: list[pathlib.Path]


class Splits(NamedTuple):
    """What is known of a folder.

    Attributes:
      parts: by `train`, `heldout` and `validation`; `train` alone where nothing says what is held
        out.
      how: what says it, in words; empty where nothing does.
      left_out: images of no part.
    """

    parts: dict[str, Part]
    how: str
    left_out: list[pathlib.Path]


def find_file(root: pathlib.Path) -> pathlib.Path | None:
    """The file of `FILES` in a folder, in letters of any size, or None.

    Raises:
      InputError: several, or the folder cannot be read.
    """
    try:
        names = sorted(name for name in os.listdir(root) if name.lower() in FILES)
    except OSError as error:
        raise InputError(f"{root} cannot be read: {error.strerror}.") from error
    if len(names) > 1:
        raise InputError(f"{root} holds {' and '.join(names)}; it must hold one list of splits.")
    return root / names[0] if names else None


def find(
    root: pathlib.Path,
    heldout: pathlib.Path | None = None,
    validation: bool = False,
    tables: Sequence[pathlib.Path] = (),
) -> Splits:
    """Finds the images of every split.

    Args:
      root: the folder of all images, or of those to train on.
      heldout: a folder of held-out images, inside of `root` or elsewhere; or None.
      validation: whether images for choices are wanted, apart from held-out ones.
      tables: files of attributes, which somebody else reads.

    Raises:
      InputError: as `image_files.find`; `heldout` is or holds `root`; a list of splits that cannot
        be read, does not match the images, or stands beside folders of splits; a split without
        images.
    """
    listed = find_file(root)
    read: dict[str, pathlib.Path] = {}
    files = image_files.find(root, [*tables, *([listed] if listed else [])], read)
    if heldout is not None:
        if listed:
            raise InputError(
                f"data.heldout_dir is {str(heldout)!r}, and {listed} says what is held out, too; "
                "one of them must go."
            )
        parts, how = _named(root, heldout, files, tables, read), f"held out {heldout.name}"
    else:
        parts = _by_folders(root, files)
        how = ", ".join(parts[name].folder.name for name in parts if name != "validation")
        if listed and len(parts) > 1:
            raise InputError(
                f"{root} holds {listed.name} and the folders {how.replace(', ', ' and ')}, which "
                "are called after splits; one of them must go, or get another name."
            )
        if listed:
            parts, how = _by_list(root, listed, files), listed.name
        elif len(parts) == 1:
            how = ""
    if not validation:
        parts.pop("validation", None)
    elif "validation" in parts:
        how += f", for choices {parts['validation'].folder.name if not listed else 'of its own'}"
    used = {file for part in parts.values() for file in part.files}
    return Splits(parts, how, [file for file in files if file not in used])


def _by_folders(root, files):
    """By folders of the first level where they are called after splits; else all are `train`."""
    top: dict[str, list[pathlib.Path]] = {}
    for file in files:
        top.setdefault(image_files.top(file, root), []).append(file)

    def first_of(names, but=()):
        there = {name.lower(): name for name in sorted(top, reverse=True) if name not in but}
        return next((there[name] for name in names if name in there), None)

    train, heldout = first_of(TRAIN), first_of(HELDOUT)
    if train is None or (heldout is None and len(top) > 1):
        return {"train": Part(root, files)}
    found = {"train": train, "heldout": heldout, "validation": first_of(VALIDATION, (heldout,))}
    return {part: Part(root / name, top[name]) for part, name in found.items() if name is not None}


def _named(root, heldout, files, tables, read):
    """By a folder that `data.heldout_dir` names."""
    name = f"data.heldout_dir is {str(heldout)!r}"
    below = _below(root, heldout)
    if below == pathlib.Path() or _below(heldout, root) is not None:
        raise InputError(
            f"{name}, and images to train on lie there, too (data.data_dir {root}); it must be a "
            "folder of other images."
        )
    if below is None:
        held = Part(heldout, image_files.find(heldout, tables, read, "data.heldout_dir"))
        rest = files
    else:
        place = root / below
        held = Part(place, [file for file in files if place in file.parents])
        rest = [file for file in files if place not in file.parents]
        for part, found in (("held out", held.files), ("to train on", rest)):
            if not found:
                raise InputError(f"{name}, in data.data_dir {root}, which leaves no image {part}.")
    parts = _by_folders(root, rest)
    return {**parts, "heldout": held}


def _below(folder, place):
    """The path of `place` from `folder`, where it is inside, as written or by links; or None."""
    for path in (os.path.abspath, os.path.realpath):
        inner, outer = pathlib.Path(path(place)), pathlib.Path(path(folder))
        if inner.is_relative_to(outer):
            return inner.relative_to(outer)
    return None


def _by_list(root, listed, files):
    """By a file that names the split of every image."""
    rows = _read(listed)
    found: dict[str, list[pathlib.Path]] = {}
    for file, name in image_files.named(root, listed, rows, files).items():
        found.setdefault(rows[name], []).append(file)
    if "heldout" not in found and "validation" in found:
        found["heldout"] = found.pop("validation")
    for part, words in (("train", "to train on"), ("heldout", "held out")):
        if part not in found:
            raise InputError(f"{listed} leaves no image {words}; there must be one or more.")
    return {
        part: Part(root, found[part])
        for part in ("train", "heldout", "validation")
        if part in found
    }


def _read(path) -> dict[str, str]:
    """Names of files -> `train`, `heldout` or `validation`."""
    rows: dict[str, str] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as f:
            if path.suffix.lower() == ".csv":
                lines = [[cell.strip() for cell in cells] for cells in csv.reader(f)]
            else:
                lines = [line.split() for line in f]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a list of splits: {error}.") from error
    for number, cells in enumerate(lines, 1):
        if not any(cells):
            continue
        where = f"line {number} of {path}"
        if len(cells) != 2:
            raise InputError(f"{where} has {len(cells)} values; it must be a file and its split.")
        name, word = cells
        if word.lower() not in _WORDS:
            # A CSV may start with the names of its columns.
            if number == 1 and path.suffix.lower() == ".csv":
                continue
            raise InputError(
                f"{where} has the split {word!r}; valid are 0 or train, 1 or validation, and 2 or "
                "test."
            )
        if name in rows:
            raise InputError(f"{where} is of {name}, which stands further up; once is enough.")
        rows[name] = _WORDS[word.lower()]
    return rows
