"""A folder of your own images; needs neither TensorFlow nor a network.

DIR/CLASS/*.png        a folder for each class
DIR/*.png              no labels
DIR/**/*.png and a table of attributes, DIR/attributes.csv or CelebA's list_attr_celeba.txt
DIR/train, DIR/test    one of these in each, with the table in DIR
DIR and HELDOUT_DIR    one of these in each, with a table of its own in each
Splits may also be in a list, DIR/splits.csv or CelebA's list_eval_partition.txt; where nothing says
what is held out, a part is.
"""

import dataclasses
import hashlib
import logging
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gmm_diffusion.attribute_names import check_names
from gmm_diffusion.data import (
    attribute_table,
    decoded_images,
    folder_splits,
    image_files,
    streaming,
)
from gmm_diffusion.data.dataset import Dataset, Split, evenly_spaced, split_indices
from gmm_diffusion.data.resize import announce, fit
from gmm_diffusion.errors import InputError, printable

log = logging.getLogger(__name__)

_PURPOSES = {"train": "to train on", "heldout": "held out", "validation": "for choices"}
_CHANNELS = {1: "grey", 3: "RGB"}
# Of what a file holds, whatever it is called; others may run programs (EPS) or have 16 bits (TIFF).
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF")


def load(
    data_dir: str,
    attributes: tuple[str, ...] = (),
    heldout_fraction: float = 0.2,
    split_seed: int = 0,
    resolution: int | None = None,
    crop: str = "center",
    max_examples: int | None = None,
    in_memory: str = "auto",
    heldout_dir: str | None = None,
    validation: bool = False,
    cache: bool = False,
) -> Dataset:
    """Reads every image below a folder, sorted by path, into memory or when it is asked for.

    Folders of classes and attributes are both conditions, so with a table the names of folders
    count for nothing. A single folder is no class. Folders named by numbers are sorted by them.

    Args:
      data_dir: the folder.
      attributes: names out of the table, in this order; () is all of them.
      heldout_fraction: where nothing says what is held out (`folder_splits`), the part that is, in
        (0, 1), the same of every class.
      split_seed: which images are that part.
      resolution: images get this height and width; None keeps theirs, which must then be equal.
      crop: what is cut out before that; see `resize.fit`.
      max_examples: so many of each split, evenly spaced; None takes all.
      in_memory: of `streaming.CHOICES`.
      heldout_dir: a folder of held-out images, in `data_dir` or elsewhere, with the same classes or
        attributes; None looks for another sign of what is held out.
      validation: whether images that are for choices, by folders or by a list, become that split;
        else they are left out.
      cache: whether many decoded images are kept for the next call, `decoded_images.held`.

    Returns:
      Images `[N, H, W, C]` uint8, C 1 or 3, with classes, attributes or neither.

    Raises:
      InputError: names the file: a folder without images, or with both images and classes; an
        image that cannot be read, has 16 bits, transparency, or other channels or another size
        than the first; a table that cannot be read or does not match the images; an attribute that
        it does not have; classes that only held-out images have; or as `folder_splits.find`.
        Streamed images are looked at when they are read.
    """
    streaming.check(in_memory)
    root = pathlib.Path(data_dir)
    held_root = None if heldout_dir is None else pathlib.Path(heldout_dir)
    for field, folder in (("data_dir", root), ("heldout_dir", held_root)):
        if folder is not None and not folder.is_dir():
            raise InputError(
                f"data.{field} is {str(folder)!r}, which is no folder; it must be one."
            )
    tables = {
        folder: table
        for folder in (root, held_root)
        if folder is not None and (table := attribute_table.find(folder)) is not None
    }
    splits = folder_splits.find(root, held_root, validation, list(tables.values()))
    _say(root, splits)
    names, rows, class_names, label = (), None, (), None
    if tables:
        names, rows = _attributes(root, tables, splits, attributes)
    elif attributes:
        raise InputError(
            f"data.attributes names {', '.join(attributes)}, and {root} holds no table of "
            f"attributes; it must hold {' or '.join(attribute_table.NAMES)}."
        )
    else:
        class_names = _class_names(root, splits.parts)
    if class_names:
        number = {name: i for i, name in enumerate(class_names)}
        label = {
            file: number[image_files.top(file, part.folder)]
            for part in splits.parts.values()
            for file in part.files
        }
    used = {name: part.files for name, part in splits.parts.items()}
    if max_examples is not None:
        used = {
            name: [members[i] for i in evenly_spaced(len(members), max_examples)]
            for name, members in used.items()
        }
    every = [file for members in used.values() for file in members]
    first = read_image(every[0], None, "none")
    images = _Images(
        tuple(every), resolution, crop, _fitted(first, resolution, crop, every[0]).shape
    )
    announce(first.shape, images.shape, crop, str(root))
    x: Any = streaming.Streamed(images)
    whole = Split(
        x,
        None if label is None else np.array([label[file] for file in every], np.int32),
        None if rows is None else np.stack([rows[file] for file in every]),
    )
    found = [os.stat(file) for file in every]
    in_folder = [_name(file, root) for file in every]
    listed = [f"{name} {f.st_size}" for name, f in zip(in_folder, found, strict=True)]
    if not streaming.choose(in_memory, x.nbytes, f"data.data_dir {root}"):
        if cache:
            roots = [os.path.realpath(folder) for folder in (root, held_root) if folder is not None]
            settings = repr((roots, resolution, crop, max_examples))
            held = decoded_images.held(x, in_folder, found, settings, root.name)
            whole = dataclasses.replace(whole, x=held)
        else:
            whole = whole.held(root.name)
    rows_of: dict[str, slice | np.ndarray] = {}
    if len(used) > 1:
        start = 0
        for name, members in used.items():
            rows_of[name] = slice(start, start + len(members))
            start += len(members)
        how = splits.how
    else:
        indices = split_indices(len(every), heldout_fraction, split_seed, whole.label)
        rows_of = dict(zip(("train", "heldout"), indices, strict=True))
        how = f"{heldout_fraction} held out, seed {split_seed}"
    if len({part.folder for part in splits.parts.values()}) < len(splits.parts):
        # By a list: no path says on which side an image is.
        listed.append(" ".join(str(len(members)) for members in used.values()))
    # So that a judge or statistics of other images are never taken for those of these.
    text = "\n".join([*listed, *names, *class_names])
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape"))
    digest.update(b"" if whole.attributes is None else whole.attributes.tobytes())
    size = "x".join(map(str, images.shape))
    return Dataset(
        name=f"image_folder {printable(root.resolve().name)} ({printable(how)}, {size}, "
        f"crop {crop}, files {digest.hexdigest()[:8]})",
        num_classes=len(class_names),
        class_names=tuple(map(printable, class_names)),
        attribute_names=names,
        train=whole.take(rows_of["train"]),
        heldout=whole.take(rows_of["heldout"]),
        validation=whole.take(rows_of["validation"]) if "validation" in rows_of else None,
    )


def _name(file, root):
    """From the folder of the data; that of held-out images may lie elsewhere."""
    inside = str(root) == "." or str(file).startswith(f"{str(root).rstrip('/')}/")
    return image_files.relative(file, root) if inside else os.path.relpath(file, root)


def _say(root, splits):
    """Which images are what, where it was found, and which are nothing."""
    if len(splits.parts) > 1:
        counts = [
            f"{len(part.files)} {_PURPOSES[name]}"
            + (f" ({part.folder.name})" if part.folder != root else "")
            for name, part in splits.parts.items()
        ]
        log.info("Images of %s: %s.", root, ", ".join(counts))
    if splits.left_out:
        folders = [part.folder.name for part in splits.parts.values() if part.folder != root]
        where = f"outside {' and '.join(folders)}" if folders else "of other splits"
        log.warning(
            "Images of %s %s are not read: %d, the first is %s.",
            root,
            where,
            len(splits.left_out),
            _name(splits.left_out[0], root),
        )


def _class_names(root, parts):
    """The classes of a tree without a table; empty if all images lie in one folder."""
    folders = {part.folder for part in parts.values()}
    if len(folders) < len(parts):
        # By a list of splits, which may put all images of a folder on one side.
        _folders_of_images(root, [file for part in parts.values() for file in part.files], folders)
        found = [
            sorted({image_files.top(file, root) for file in part.files} - {""}, key=_by_number)
            for part in parts.values()
        ]
    else:
        found = [_folders_of_images(part.folder, part.files, folders) for part in parts.values()]
    train, *others = found
    for other in others:
        only = set(other) - set(train) if other or len(train) < 2 else set(train)
        if only:
            raise InputError(
                f"{root} has the class {min(only)} in one of its {_splits_in_words(parts)} only; "
                "held-out images need the classes of those to train on."
            )
    return tuple(train) if len(train) > 1 else ()


def _splits_in_words(parts):
    names = {part.folder.name for part in parts.values()}
    if len(names) == len(parts):
        return f"folders {' and '.join(part.folder.name for part in parts.values())}"
    return "splits"


def _folders_of_images(folder, members, splits):
    """The folders right below that hold images; `splits` are folders of others."""
    tops = [image_files.top(file, folder) for file in members]
    names = {top for top in tops if top}
    if not names:
        return []
    if "" in tops:
        raise InputError(
            f"{folder} holds both images ({members[tops.index('')].name}) and folders of images "
            f"({next(filter(None, tops))}); it must hold only one of them."
        )
    for subfolder in sorted(folder.iterdir()):
        empty = subfolder.is_dir() and subfolder.name not in names
        other = any(split.is_relative_to(subfolder) for split in splits)
        if empty and not other and not image_files.is_system(subfolder.name):
            raise InputError(f"{subfolder} holds no image; every class needs at least one.")
    (only,) = names if len(names) == 1 else [None]
    if only and all(file.parent != folder / only for file in members):
        raise InputError(
            f"{folder} holds the folder {only} alone, which holds folders; data.data_dir must be "
            "the folder that holds a folder for each class."
        )
    return sorted(names, key=_by_number)


def _by_number(name):
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)


def _attributes(root, tables, splits, wanted):
    """The attributes by file: `(names, {file: [A] uint8})`."""
    parts = [(part.folder, part.files) for part in splits.parts.values()]
    of_table: dict[pathlib.Path, list[pathlib.Path]] = {}
    for folder, files in parts:
        # The table beside them, or else that of the folder of the data, in which they are.
        owner = next((f for f in (folder, root) if f in tables and folder.is_relative_to(f)), None)
        if owner is None:
            (other,) = tables.values()
            raise InputError(
                f"{folder} holds no table of attributes, and {other} does not list its images; it "
                f"must hold {' or '.join(attribute_table.NAMES)}."
            )
        of_table.setdefault(owner, []).extend(files)
    first, found = None, {}
    for owner, files in of_table.items():
        table = tables[owner]
        names, rows = attribute_table.read(table)
        check_names(wanted, names, "data.attributes")
        if first is not None and set(names) != set(first[1]):
            other = min(set(names) ^ set(first[1]))
            raise InputError(
                f"{first[0]} and {table} differ in the attribute {other}; both must have the same."
            )
        first = first or (table, names)
        columns = [names.index(name) for name in wanted or first[1]]
        left_out = [file for file in splits.left_out if file.is_relative_to(owner)]
        named = image_files.named(owner, table, rows, [*files, *left_out])
        found.update({file: rows[named[file]][columns] for file in files})
    assert first is not None
    return tuple(wanted or first[1]), found


def _fitted(pixels, resolution, crop, file):
    try:
        return fit(pixels, resolution, crop)
    except InputError as error:
        raise InputError(f"{str(error).rstrip('.')}: {file}.") from error


@dataclasses.dataclass(frozen=True)
class _Images:
    """A `streaming.Source` of files."""

    files: Sequence[pathlib.Path]
    resolution: int | None
    crop: str
    shape: tuple[int, ...]

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        image = read_image(self.files[i], self.resolution, self.crop)
        if image.shape != self.shape:
            raise InputError(_differing(self.files[0], self.shape, self.files[i], image.shape))
        return image


def _differing(first_file, first, file, shape):
    if first[2] != shape[2]:
        kinds = [_CHANNELS[n] for n in (first[2], shape[2])]
        return (
            f"{first_file} is {kinds[0]} and {file} is {kinds[1]}; all images must have the same "
            "channels."
        )
    sizes = ["x".join(map(str, s[:2])) for s in (first, shape)]
    return (
        f"{first_file} has {sizes[0]} pixels and {file} {sizes[1]}; data.resolution makes them "
        "equal."
    )


def read_image(
    file: pathlib.Path, resolution: int | None = None, crop: str = "center"
) -> np.ndarray:
    """One image, `[H, W, 1 or 3]` uint8; the arguments and what is raised as of `load`."""
    try:
        _check_depth(file)
        with Image.open(file, formats=_FORMATS) as opened:
            # A telephone's pictures say which way up they are.
            image = _plain(ImageOps.exif_transpose(opened), file)
    except InputError:
        raise
    except Exception as error:  # Each of Pillow's formats fails in its own way.
        known = not isinstance(error, UnidentifiedImageError)
        reason = getattr(error, "strerror", None) or str(error) if known else "of no known format"
        raise InputError(f"{file} cannot be read as an image ({reason}).") from error
    pixels = np.asarray(image, np.uint8)
    return _fitted(pixels if pixels.ndim == 3 else pixels[..., None], resolution, crop, file)


def _check_depth(file):
    """Pillow reads a PNG of 16 bits as one of 8, and keeps the upper or the lower ones."""
    with open(file, "rb") as f:
        start = f.read(25)
    depth = start[24] if len(start) == 25 and start[12:16] == b"IHDR" else 8
    if depth > 8:
        raise InputError(f"{file} has more than 8 bits a channel ({depth}); it must have 8.")


def _plain(image, file):
    """As grey or RGB with 8 bits; InputError where that would change what one sees."""
    if image.mode.startswith(("I", "F")):
        raise InputError(f"{file} has more than 8 bits a channel ({image.mode}); it must have 8.")
    may_be_clear = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    if may_be_clear and image.convert("RGBA").getextrema()[3][0] < 255:
        raise InputError(
            f"{file} is transparent in places; paint it on a background, so that it is opaque."
        )
    return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
