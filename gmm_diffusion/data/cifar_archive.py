"""CIFAR-10 and CIFAR-100 from the archive that you have on disk, without a network."""

import gzip
import io
import pathlib
import tarfile
import zlib
from typing import NamedTuple

import numpy as np

from gmm_diffusion.data.dataset import Dataset, Split
from gmm_diffusion.data.resize import announce, fit
from gmm_diffusion.errors import InputError

_PIXELS = 3 * 32 * 32
# Bytes of an unpacked archive; both have less than a fifth of that.
_MOST = 1 << 30


class _Layout(NamedTuple):
    """What lies in the folder of an archive; a record is its labels, the class last, and pixels."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    num_classes: int
    labels: int


_LAYOUTS = {
    "cifar-10-batches-bin": _Layout(
        tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        ("test_batch.bin",),
        "batches.meta.txt",
        10,
        1,
    ),
    "cifar-100-binary": _Layout(("train.bin",), ("test.bin",), "fine_label_names.txt", 100, 2),
}


def load(
    data_dir: str,
    resolution: int | None = None,
    crop: str = "center",
    max_examples: int | None = None,
) -> Dataset:
    """Reads `cifar-10-binary.tar.gz` or `cifar-100-binary.tar.gz`, packed as they are.

    The format is that of the data's home page (Krizhevsky 2009,
    https://www.cs.toronto.edu/~kriz/cifar.html). Of CIFAR-100 the 100 fine classes are taken.

    Args:
      data_dir: path of the archive.
      resolution: images get this height and width; None keeps 32.
      crop: what is cut out before that; see `resize.fit`.
      max_examples: the first so many of each split; None takes all.

    Returns:
      Images `[N, 32, 32, 3]` uint8, the test split held out.

    Raises:
      InputError: no such file, an archive that is damaged or lacks a member, another archive, or
        the version of pickled Python objects, which could run any code and is not read.
    """
    path = pathlib.Path(data_dir)
    if not path.is_file():
        raise InputError(
            f"data.data_dir is {data_dir!r}, which is no file; it must be the path of "
            "cifar-10-binary.tar.gz or cifar-100-binary.tar.gz."
        )
    members = _members(path)
    folder = next((name for name in _LAYOUTS if any(m.startswith(name + "/") for m in members)), "")
    if not folder:
        found = sorted({name.split("/")[0] for name in members})
        if any(name.endswith(("-py", "-python")) for name in found):
            raise InputError(
                f"{path} is the version for Python, whose pickles could run any code and are not "
                "read; data.data_dir must be the binary version (cifar-10-binary.tar.gz)."
            )
        raise InputError(
            f"{path} holds {', '.join(found[:5]) or 'nothing'}; it must hold the folder "
            f"{' or '.join(_LAYOUTS)}."
        )
    layout = _LAYOUTS[folder]

    def member(name):
        if f"{folder}/{name}" not in members:
            raise InputError(f"{path} lacks {folder}/{name}; fetch the archive again.")
        return members[f"{folder}/{name}"]

    def read(names):
        record = layout.labels + _PIXELS
        for name in names:
            if not member(name) or len(member(name)) % record:
                raise InputError(
                    f"{name} of {path} has {len(member(name))} bytes; it must be images of "
                    f"{record} bytes each: fetch the archive again."
                )
        rows = np.frombuffer(b"".join(map(member, names)), np.uint8).reshape(-1, record)
        rows = rows[:max_examples]
        label = rows[:, layout.labels - 1].astype(np.int32)
        if label.max() >= layout.num_classes:
            raise InputError(
                f"{path} has the label {label.max()}; valid are 0 to {layout.num_classes - 1}: "
                "fetch the archive again."
            )
        x = rows[:, layout.labels :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        if resolution is not None or crop not in ("center", "none"):
            x = np.stack([fit(image, resolution, crop) for image in x])
        return Split(np.ascontiguousarray(x), label)

    class_names = tuple(member(layout.names).decode("ascii", "replace").split())
    if len(class_names) != layout.num_classes:
        raise InputError(
            f"{layout.names} of {path} has {len(class_names)} names; it must have "
            f"{layout.num_classes}: fetch the archive again."
        )
    train, heldout = read(layout.train), read(layout.test)
    announce((32, 32, 3), train.x.shape[1:], crop, path.name)
    size = "x".join(map(str, train.x.shape[1:]))
    return Dataset(
        name=f"cifar_archive {folder} (train {len(train)}, test {len(heldout)}, {size}, {crop})",
        train=train,
        heldout=heldout,
        num_classes=layout.num_classes,
        class_names=class_names,
    )


def _members(path) -> dict[str, bytes]:
    """The files of an archive, in memory; of the version for Python the names alone."""
    members = {}
    try:
        # Read to its end at once: the checksum stands there, and tarfile stops before it.
        with gzip.open(path) as f:
            content = f.read(_MOST + 1)
        if len(content) > _MOST:
            raise InputError(
                f"{path} unpacks to more than {_MOST >> 20} MiB, which CIFAR does not; fetch it "
                "again."
            )
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for entry in archive:
                # A sparse file of a few bytes can be of any size.
                if entry.isfile() and not entry.issparse():
                    known = entry.name.split("/")[0] in _LAYOUTS
                    file = archive.extractfile(entry) if known else None
                    members[entry.name] = b"" if file is None else file.read()
    except InputError:
        raise
    except (OSError, EOFError, ValueError, OverflowError, tarfile.TarError, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read as a .tar.gz archive ({error}); fetch it again."
        ) from error
    return members
