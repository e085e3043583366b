"""A folder of your own images; needs neither TensorFlow nor a network.

DIR/CLASS/*.png        a folder for each class
DIR/*.png              no labels
DIR/**/*.png and a table of attributes, DIR/attributes.csv or CelebA's list_attr_celeba.txt
DIR/train, DIR/test    one of these in each, with the table in DIR; else a part is held out
"""

import dataclasses
import hashlib
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gmm_diffusion.attribute_names import check_names
from gmm_diffusion.data import attribute_table, image_files, streaming
from gmm_diffusion.data.dataset import Dataset, Split, evenly_spaced, split_indices
from gmm_diffusion.data.resize import fit
from gmm_diffusion.errors import InputError, printable

log = logging.getLogger(__name__)

HELDOUT = ("test", "heldout", "val", "validation")  # the first that is there
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
) -> Dataset:
    """Reads every image below a folder, sorted by path, into memory or when it is asked for.

    Folders of classes and attributes are both conditions, so with a table the names of folders
    count for nothing. A single folder is no class. Folders named by numbers are sorted by them.

    Args:
      data_dir: the folder.
      attributes: names out of the table, in this order; () is all of them.
      heldout_fraction: where there is no folder of held-out images, the part held out, in (0, 1),
        the same of every class.
      split_seed: which images are that part.
      resolution: images get this height and width; None keeps theirs, which must then be equal.
      crop: what is cut out before that; see `resize.fit`.
      max_examples: so many of each split, evenly spaced; None takes all.
      in_memory: of `streaming.CHOICES`.

    Returns:
      Images `[N, H, W, C]` uint8, C 1 or 3, with classes, attributes or neither.

    Raises:
      InputError: names the file: a folder without images, or with both images and classes; an
        image that cannot be read, has 16 bits, transparency, or other channels or another size
        than the first; a table that cannot be read or does not match the images; an attribute that
        it does not have; classes that only held-out images have. Streamed images are looked at
        when they are read.
    """
    streaming.check(in_memory)
    root = pathlib.Path(data_dir)
    if not root.is_dir():
        raise InputError(f"data.data_dir is {data_dir!r}, which is no folder; it must be one.")
    table = attribute_table.find(root)
    files = image_files.find(root, table)
    splits = _splits(root, files)
    names, rows, class_names, label = (), None, (), None
    if table is not None:
        names, rows = _matched(root, table, files, attributes)
    elif attributes:
        raise InputError(
            f"data.attributes names {', '.join(attributes)}, and {root} holds no table of "
            f"attributes; it must hold {' or '.join(attribute_table.NAMES)}."
        )
    else:
        class_names = _class_names(root, splits)
    if class_names:
        label = {
            file: class_names.index(file.relative_to(root / split).parts[0])
            for split, members in splits.items()
            for file in members
        }
    used = splits
    if max_examples is not None:
        used = {
            split: [members[i] for i in evenly_spaced(len(members), max_examples)]
            for split, members in splits.items()
        }
    every = [file for members in used.values() for file in members]
    images = _Images(tuple(every), resolution, crop, read_image(every[0], resolution, crop).shape)
    x: Any = streaming.Streamed(images)
    whole = Split(
        x,
        None if label is None else np.array([label[file] for file in every], np.int32),
        None if rows is None else np.stack([rows[file] for file in every]),
    )
    if not streaming.choose(in_memory, x.nbytes, f"data.data_dir {root}"):
        whole = whole.held(root.name)
    train: slice | np.ndarray
    heldout: slice | np.ndarray
    if len(splits) > 1:
        train, heldout = slice(len(used["train"])), slice(len(used["train"]), None)
        parts = ", ".join(splits)
    else:
        train, heldout = split_indices(len(every), heldout_fraction, split_seed, whole.label)
        parts = f"{heldout_fraction} held out, seed {split_seed}"
    # So that a judge or statistics of other images are never taken for those of these.
    listed = [f"{_name(file, root)} {file.stat().st_size}" for file in every]
    text = "\n".join([*listed, *names, *class_names])
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape"))
    digest.update(b"" if whole.attributes is None else whole.attributes.tobytes())
    size = "x".join(map(str, images.shape))
    return Dataset(
        name=f"image_folder {printable(root.resolve().name)} ({parts}, {size}, crop {crop}, "
        f"files {digest.hexdigest()[:8]})",
        train=whole.take(train),
        heldout=whole.take(heldout),
        num_classes=len(class_names),
        class_names=tuple(map(printable, class_names)),
        attribute_names=names,
    )


def _name(file, root):
    return file.relative_to(root).as_posix()


def _splits(root, files):
    """Images by folder of the first level where that is a split, training first; else by ""."""
    top: dict[str, list[pathlib.Path]] = {}
    for file in files:
        top.setdefault("" if file.parent == root else _name(file, root).split("/")[0], []).append(
            file
        )
    heldout = next((name for name in HELDOUT if name in top), None)
    if "train" not in top or (heldout is None and len(top) > 1):
        return {"": files}
    used = {name: top.pop(name) for name in ("train", heldout) if name in top}
    if top:
        log.warning("Images of %s outside %s are not read.", root, " and ".join(used))
    return used


def _class_names(root, splits):
    """The classes of a tree without a table; empty if all images lie in one folder."""
    train, *others = (_folders_of_images(root / split, splits[split]) for split in splits)
    for other in others:
        only = set(other) - set(train) if other or len(train) < 2 else set(train)
        if only:
            raise InputError(
                f"{root} has the class {min(only)} in one of its folders {' and '.join(splits)} "
                "only; held-out images need the classes of those to train on."
            )
    return tuple(train) if len(train) > 1 else ()


def _folders_of_images(folder, members):
    inside = [file for file in members if file.parent != folder]
    if not inside:
        return []
    if len(inside) < len(members):
        stray = next(file for file in members if file.parent == folder)
        raise InputError(
            f"{folder} holds both images ({stray.name}) and folders of images "
            f"({_name(inside[0], folder).split('/')[0]}); it must hold only one of them."
        )
    names = {_name(file, folder).split("/")[0] for file in inside}
    for subfolder in sorted(folder.iterdir()):
        empty = subfolder.is_dir() and subfolder.name not in names
        if empty and not image_files.is_system(subfolder.name):
            raise InputError(f"{subfolder} holds no image; every class needs at least one.")
    (only,) = names if len(names) == 1 else [None]
    if only and all(file.parent != folder / only for file in inside):
        raise InputError(
            f"{folder} holds the folder {only} alone, which holds folders; data.data_dir must be "
            "the folder that holds a folder for each class."
        )
    return sorted(names, key=_by_number)


def _by_number(name):
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)


def _matched(root, table, files, wanted):
    """The attributes by file: `(names, {file: [A] uint8})`."""
    names, rows = attribute_table.read(table)
    check_names(wanted, names, "data.attributes")
    paths = any("/" in name for name in rows)
    keys: dict[str, pathlib.Path] = {}
    for file in files:
        key = _name(file, root) if paths else file.name
        if key in keys:
            raise InputError(
                f"{file} and {keys[key]} have one name; {table.name} must name files by their "
                f"paths from {root}."
            )
        keys[key] = file
    without_image = [name for name in rows if name not in keys]
    without_row = [name for name in keys if name not in rows]
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
    columns = [names.index(name) for name in wanted or names]
    chosen = tuple(names[i] for i in columns)
    return chosen, {file: rows[key][columns] for key, file in keys.items()}


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
    try:
        return fit(pixels if pixels.ndim == 3 else pixels[..., None], resolution, crop)
    except InputError as error:
        raise InputError(f"{str(error).rstrip('.')}: {file}.") from error


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
