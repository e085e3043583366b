"""Arrays that are there already, in memory or in files, as a dataset.

An `.npz`, or a folder of `.npy`, holds `x` and what is known of each example: `label`,
`attributes` with `attribute_names`, `features`. Splits of their own are `x_heldout`,
`label_heldout`, ... and `x_validation`, ...
"""

import dataclasses
import difflib
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from gmm_diffusion import npz_files
from gmm_diffusion.attribute_names import check_askable, check_names
from gmm_diffusion.data.dataset import Dataset, Split, evenly_spaced, split_indices
from gmm_diffusion.errors import InputError, printable

_KNOWN = ("x", "label", "attributes", "features")
_OTHERS = ("heldout", "validation")
_NAMES = (*_KNOWN, "attribute_names", *(f"{name}_{part}" for part in _OTHERS for name in _KNOWN))
# Values that are looked at together: a file that is mapped into memory is never there whole.
_CHUNK_VALUES = 1 << 22


def from_arrays(
    x: np.ndarray,
    label: np.ndarray | None = None,
    heldout_fraction: float = 0.2,
    seed: int = 0,
    name: str = "arrays",
    *,
    attributes: np.ndarray | None = None,
    attribute_names: Sequence[str] = (),
    features: np.ndarray | None = None,
    heldout: Mapping[str, np.ndarray] | None = None,
    validation: Mapping[str, np.ndarray] | None = None,
    decoder: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Dataset:
    """Images, latents or vectors, and what is known of them.

    Args:
      x: `[N, H, W, C]` uint8 images, `[N, H, W, C]` float latents or `[N, D]` floats, which become
        float32.
      label: `[N]` integers from 0 and below N, or None.
      heldout_fraction: share held out of every class, in (0, 1), where `heldout` is None.
      seed: non-negative; which examples are held out.
      name: for messages.
      attributes: `[N, A]` of 0 and 1, or -1 and 1; or None.
      attribute_names: A names.
      features: `[N, F]` numbers that describe each example, for `conditioning.features` own; or
        None.
      heldout: a held-out split: `x`, and all of `label`, `attributes` and `features` that are
        given of the others.
      validation: a split for choices, likewise; None leaves it to `data.validation_fraction`.
      decoder: `[n, H, W, C]` latents -> `[n, H', W', 1 or 3]` pictures, uint8 or in [-1, 1]; or
        None.

    Raises:
      InputError: arrays of another shape, type or length, values that are not finite, labels out
        of range, splits that do not match, or a fraction outside (0, 1).
    """
    if not (decoder is None or callable(decoder)):
        raise InputError(f"decoder is {decoder!r}; it must be a function of latents, or None.")
    for part, arrays in zip(_OTHERS, (heldout, validation), strict=True):
        if not (arrays is None or isinstance(arrays, Mapping)):
            raise InputError(
                f"{part} is a {type(arrays).__name__}; it must be a dict of arrays, such as "
                "{'x': x, 'label': label}."
            )
    given = {"x": x, "label": label, "attributes": attributes, "features": features}
    train = _split(given, name, "", len(x) if np.ndim(x) else 0)
    num_classes = 0 if train.label is None else int(train.label.max()) + 1
    names = _columns(train, attribute_names, name)
    splits = {}
    for part, arrays in zip(_OTHERS, (heldout, validation), strict=True):
        if arrays is not None:
            splits[part] = _split(arrays, name, f"_{part}", num_classes)
            _check_alike(train, splits[part], name, part)
    how = "heldout of its own"
    if "heldout" not in splits:
        rows, others = split_indices(len(train), heldout_fraction, seed, train.label)
        how = f"heldout {heldout_fraction:g}, seed {seed}"
        train, splits["heldout"] = train.take(rows), train.take(others)
    return Dataset(
        name=f"{name} ({how})",
        train=train,
        num_classes=num_classes,
        class_names=tuple(map(str, range(num_classes))),
        attribute_names=names,
        decoder=decoder,
        **splits,
    )


def _split(arrays, source, suffix, num_classes):
    """A `Split` of what is given, with labels below `num_classes`."""
    unknown = set(arrays) - set(_KNOWN)
    if unknown or arrays.get("x") is None:
        wrong = f"holds {min(unknown)!r}" if unknown else f"has no x{suffix}"
        raise InputError(f"{source} {wrong}; valid are {', '.join(_KNOWN)}, and x is needed.")

    def of(name):
        what = f"{name}{suffix} of {source}"
        if np.ma.is_masked(arrays.get(name)):
            raise InputError(f"{what} has masked values, which cannot be learned from.")
        return arrays.get(name), what

    x, what = of("x")
    x = np.asarray(x)
    # Anything but bytes and floats is refused by the split itself.
    x = _finite(x, what) if np.issubdtype(x.dtype, np.floating) else x
    label, what = of("label")
    label = None if label is None else _labels(label, num_classes, what)
    attributes, what = of("attributes")
    attributes = None if attributes is None else _attributes(attributes, what)
    features, what = of("features")
    features = None if features is None else _finite(features, what)
    return Split(x, label, attributes, features)


def _finite(values, what):
    """Numbers of any type -> float32, without a copy where they are that already."""
    values = np.asarray(values)
    if not values.ndim or values.dtype.kind not in "biuf":
        raise InputError(f"{what} is of type {values.dtype}; it must be an array of numbers.")
    with np.errstate(over="ignore"):
        values = values.astype(np.float32, copy=False)
    rows = max(1, _CHUNK_VALUES // max(1, int(np.prod(values.shape[1:]))))
    for start in range(0, len(values), rows):
        if not np.isfinite(values[start : start + rows]).all():
            raise InputError(f"{what} holds a value that is not finite; valid are numbers.")
    return values


def _labels(label, num_classes, what):
    label = np.asarray(label)
    if not label.size:
        raise InputError(f"{what} is empty; it must have a label for each example.")
    if not np.issubdtype(label.dtype, np.integer):
        raise InputError(f"{what} is of type {label.dtype}; labels must be integers from 0.")
    for value in (label.min(), label.max()):
        if not 0 <= value < num_classes:
            raise InputError(
                f"{what} holds {value}; labels must be integers from 0 to {num_classes - 1}, the "
                "classes of the training split, of which there are at most as many as examples."
            )
    return label.astype(np.int32)


def _attributes(attributes, what):
    attributes = np.asarray(attributes)
    values = set(np.unique(attributes).tolist()) if attributes.dtype.kind in "biuf" else {None}
    if not (values <= {0, 1} or values <= {-1, 1}):
        raise InputError(f"{what} holds other values than 0 and 1, or -1 and 1.")
    return (attributes > 0).astype(np.uint8)


def _columns(train, names, source):
    """The names of attributes, as many as there are."""
    names = tuple(map(str, names))
    num = 0 if train.attributes is None else train.attributes.shape[1]
    if len(names) != num or len(set(names)) < num or not all(names):
        raise InputError(
            f"attribute_names of {source} are {', '.join(names) or 'none'}; they must be "
            f"{num} different names, one for each column of attributes."
        )
    check_askable(names, f"attribute_names of {source}")
    return names


def _check_alike(train, other, source, part):
    """Refuses a split of other things than the training split."""
    for name in _KNOWN:
        ours, theirs = (
            None if values is None else (values.shape[1:], str(values.dtype))
            for values in (getattr(train, name), getattr(other, name))
        )
        if ours != theirs:
            found, wanted = (
                "absent" if kind is None else f"of shape {kind[0]} each and type {kind[1]}"
                for kind in (theirs, ours)
            )
            raise InputError(
                f"{name}_{part} of {source} is {found}; it must be {wanted}, as {name} is."
            )


def load(
    data_dir: str,
    attributes: tuple[str, ...] = (),
    heldout_fraction: float = 0.2,
    split_seed: int = 0,
    max_examples: int | None = None,
) -> Dataset:
    """Reads an `.npz`, or maps the `.npy` of a folder into memory.

    Mapped are only arrays that need no change: uint8 or float32, and with splits of their own.

    Args:
      data_dir: the file or folder.
      attributes: names out of `attribute_names`, in this order; () is all of them.
      heldout_fraction: as of `from_arrays`, where there is no `x_heldout`.
      split_seed: which examples are held out.
      max_examples: so many of each split, evenly spaced; None takes all.

    Raises:
      InputError: a file that cannot be read, or holds Python objects, which are never loaded; an
        array of another name; or as `from_arrays`.
    """
    path = pathlib.Path(data_dir)
    source = f"data.data_dir {path}"
    arrays = _read(path)
    for name in arrays:
        if name not in _NAMES:
            near = difflib.get_close_matches(name, _NAMES, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"valid are {', '.join(_NAMES)}."
            raise InputError(f"{source} holds the array {name!r}, which has no meaning; {hint}")
    names = _texts(np.atleast_1d(arrays.get("attribute_names", [])), source)
    if attributes and not names:
        raise InputError(
            f"data.attributes names {', '.join(attributes)}, and {source} has no attribute_names."
        )
    check_names(attributes, names, "data.attributes")
    given = {
        part: {name: arrays[name + part] for name in _KNOWN if name + part in arrays}
        for part in ("", *(f"_{part}" for part in _OTHERS))
    }
    if attributes:
        for known in given.values():
            if "attributes" in known and np.shape(known["attributes"])[1:] == (len(names),):
                columns = [names.index(name) for name in attributes]
                known["attributes"] = known["attributes"][:, columns]
        names = list(attributes)
    training = given.pop("")
    if "x" not in training:
        raise InputError(f"{source} holds no array x; it must hold the examples.")
    data = from_arrays(
        **training,
        heldout_fraction=heldout_fraction,
        seed=split_seed,
        name=source,
        attribute_names=names,
        heldout=given["_heldout"] or None,
        validation=given["_validation"] or None,
    )
    splits = {}
    if max_examples is not None:
        for part in ("train", *_OTHERS):
            split = getattr(data, part)
            if split is not None and len(split) > max_examples:
                splits[part] = split.take(evenly_spaced(len(split), max_examples))
    # So that a judge or statistics of other arrays are never taken for those of these.
    digest = 0
    for name in sorted(arrays):
        values = np.ascontiguousarray(arrays[name]).reshape(-1)
        digest = zlib.crc32(values.view(np.uint8).data, digest)
    how = data.name.removeprefix(f"{source} ").strip("()")
    most = f", at most {max_examples}" if splits else ""
    return dataclasses.replace(
        data, name=f"arrays {printable(path.name)} ({how}{most}, bytes {digest:08x})", **splits
    )


def _texts(array, source):
    """Names, which may be bytes, as text."""
    try:
        decoded = np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
        return decoded.astype(str).tolist()
    except UnicodeDecodeError as error:
        raise InputError(
            f"attribute_names of {source} hold bytes that are no UTF-8 ({error.reason}); they must "
            "be texts."
        ) from error


def _read(path):
    """Every array by its name; those of a folder stay in their files until they are used."""
    if not path.is_dir():
        try:
            return npz_files.read(path, compressed=True)
        except npz_files.Damaged as error:
            raise InputError(_unreadable(f"data.data_dir {path}", str(error))) from error
    files = sorted(path.glob("*.npy"))
    if not files:
        raise InputError(
            f"data.data_dir {path} holds no .npy; it must hold x.npy, and what is known of x."
        )
    return {file.stem: read_npy(file, f"data.data_dir: {file}") for file in files}


def read_npy(path: pathlib.Path, name: str) -> np.ndarray:
    """The array of an `.npy`, mapped into memory.

    Args:
      path: of the file.
      name: of the file, and of the setting that it comes from, for the message.

    Raises:
      InputError: it is no such file, or holds Python objects, which are never loaded.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # NumPy's parser of headers fails in many ways.
        raise InputError(_unreadable(name, str(error))) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise InputError(f"{name} is an .npz under another name; it must hold one array.")
    return array


def _unreadable(name, reason):
    # The words are NumPy's.
    if "object" in reason.lower() or "pickle" in reason.lower():
        return (
            f"{name} holds Python objects (a pickle), which can run any code and are never loaded; "
            "it must hold arrays of numbers."
        )
    return f"{name} cannot be read as NumPy writes it: {reason.rstrip('.')}."
