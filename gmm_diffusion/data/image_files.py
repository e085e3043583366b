"""Which files below a folder are images: each once, and none of those that systems leave there.

And which of them a table means.
"""

import logging
import os
import pathlib
from collections.abc import Collection

from gmm_diffusion.errors import InputError, printable

log = logging.getLogger(__name__)

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
# In small letters: thumbnails, waste baskets and snapshots of network drives and desktops.
_SYSTEM = (
    "@eadir",
    "@recycle",
    "@recently-snapshot",
    "@tmp",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "recycler",
    "system volume information",
    "lost+found",
    "__macosx",
    "__pycache__",
)
_TABLES = (".csv", ".tsv", ".tab", ".txt", ".json", ".jsonl", ".parquet", ".xls", ".xlsx", ".ods")


def is_system(name: str) -> bool:
    """Whether a file or folder of this name belongs to a system or program, and holds no data."""
    return name.startswith(".") or name.lower() in _SYSTEM


def find(
    root: pathlib.Path,
    tables: Collection[pathlib.Path] = (),
    read: dict[str, pathlib.Path] | None = None,
    setting: str = "data.data_dir",
) -> list[pathlib.Path]:
    """Every image below `root`, sorted by its path from there; links are followed.

    What is passed over is said: folders of systems, and files that are neither images nor tables.

    Args:
      root: the folder.
      tables: files that somebody else reads.
      read: what is read already, real path -> path; what this call reads is added. For folders
        whose images must differ.
      setting: that names `root`.

    Raises:
      InputError: no image, a folder that cannot be read, or a link to what is read already, by
        which examples would count twice and stand on both sides of a split.
    """
    images, others, skipped = [], [], []
    real = os.path.realpath(root)
    read = {} if read is None else read
    _once(root, real, read)
    folders = [(root, real)]
    while folders:
        folder, real = folders.pop()
        for entry in _entries(folder):
            path = folder / entry.name
            is_link = entry.is_symlink()
            target = os.path.realpath(path) if is_link else os.path.join(real, entry.name)
            # Of what is no link the folder's list knows, without a call for each file.
            is_folder = os.path.isdir(path) if is_link else entry.is_dir()
            is_image = not is_folder and entry.name.lower().endswith(EXTENSIONS)
            if is_system(entry.name):
                if is_folder:
                    skipped.append(path)
            elif not (is_folder or is_image):
                others.append(path)
            else:
                _once(path, target, read)
                if is_folder:
                    folders.append((path, target))
                elif not (os.path.isfile(path) if is_link else entry.is_file()):
                    raise InputError(f"{path} is no file, or a link to none; remove it.")
                else:
                    images.append(path)
    if not images:
        raise InputError(
            f"{setting} {root} holds no image ({len(others)} other files); it must hold files "
            f"that end in {', '.join(EXTENSIONS)}."
        )
    _report(root, skipped, [path for path in others if path not in tables])
    return sorted(images, key=lambda file: relative(file, root))


def relative(file: pathlib.Path, root: pathlib.Path) -> str:
    """The path of a file that `find(root)` has found from there, as text.

    Of tens of thousands of files, ten times as fast as `pathlib`.
    """
    start = str(root)
    return str(file) if start == "." else str(file)[len(start) :].lstrip("/")


def top(file: pathlib.Path, root: pathlib.Path) -> str:
    """The folder of the first level that holds a file which `find(root)` has found, or ""."""
    first, slash, _ = relative(file, root).partition("/")
    return first if slash else ""


def named(
    root: pathlib.Path, table: pathlib.Path, names: Collection[str], files: list[pathlib.Path]
) -> dict[pathlib.Path, str]:
    """Which of the names in a table is each image's: its path from `root`, or its name alone.

    Args:
      root: the folder of the images.
      table: for messages.
      names: with a slash in any of them, all are paths.
      files: the images.

    Returns:
      `{file: name}`, for all of both.

    Raises:
      InputError: names without an image, images without a name, or two images of one name.
    """
    paths = any("/" in name for name in names)
    keys: dict[str, pathlib.Path] = {}
    for file in files:
        key = relative(file, root) if paths else file.name
        if key in keys:
            raise InputError(
                f"{file} and {keys[key]} have one name; {table.name} must name files by their "
                f"paths from {root}."
            )
        keys[key] = file
    without_image = [name for name in names if name not in keys]
    without_row = [name for name in keys if name not in names]
    if without_image or without_row:
        counts = [
            f"{len(missing)} {what} (the first is {missing[0]})"
            for missing, what in (
                (without_image, "rows have no image"),
                (without_row, "images have no row"),
            )
            if missing
        ]
        raise InputError(
            f"{table} does not match the images below {root}: {', and '.join(counts)}; each image "
            "needs one row."
        )
    return {file: key for key, file in keys.items()}


def _entries(folder):
    try:
        with os.scandir(folder) as entries:
            # Sorted, so that of two paths to one place the same is named every time.
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}.") from error


def _once(path, target, read):
    if target in read:
        raise InputError(
            f"{path} and {read[target]} are one place, by a link; remove the link, so that each "
            "image is read once."
        )
    read[target] = path


def _report(root, skipped, others):
    if skipped:
        names = sorted({printable(path.name) for path in skipped})
        log.warning(
            "%d folders of %s are skipped, since systems make them: %s.",
            len(skipped),
            root,
            _list(names),
        )
    tables = sorted(path for path in others if path.suffix.lower() in _TABLES)
    if tables:
        log.warning(
            "%s: not read. A table of attributes must be attributes.csv in %s itself.",
            _list([str(path) for path in tables]),
            root,
        )
    rest = sorted(path for path in others if path.suffix.lower() not in (*_TABLES, ".md"))
    if rest:
        log.warning(
            "%d files of %s are not read, since they do not end in %s; the first is %s.",
            len(rest),
            root,
            ", ".join(EXTENSIONS),
            rest[0].relative_to(root).as_posix(),
        )


def _list(names):
    """The first few of some names."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
