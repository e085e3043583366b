"""An archive of JPEGs, train/CLASS/*.jpg and test/CLASS/*.jpg, as arrays for data.name "arrays".

python launch/cifar_arrays.py ARCHIVE OUT

Nothing is unpacked: images are decoded from the archive into OUT/x.npy, label.npy, x_heldout.npy
and label_heldout.npy, uint8 and int32; classes are numbered by their names. A folder OUT that is
there is left as it is, since it appears only when it is whole.
"""

import io
import os
import pathlib
import sys
import tarfile
import tempfile
import zlib

import numpy as np
from PIL import Image

_SPLITS = {"train": "", "test": "_heldout"}


def arrays(archive: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays by name, examples in the order of their files' names.

    Raises:
      ValueError: a member of another layout or size, or a split or class without images.
    """
    found: dict[tuple[str, str, str], np.ndarray] = {}
    with tarfile.open(archive) as members:
        for member in members:
            if not member.isfile():
                continue
            parts = pathlib.PurePosixPath(member.name).parts[-3:]
            if len(parts) != 3 or parts[0] not in _SPLITS:
                raise ValueError(f"it holds {member.name}; valid are train/CLASS/*, test/CLASS/*")
            file = members.extractfile(member)
            assert file is not None
            with Image.open(io.BytesIO(file.read())) as image:
                found[parts] = np.asarray(image.convert("RGB"))
    classes = sorted({name for _, name, _ in found})
    if {(split, name) for split, name, _ in found} != {(s, n) for s in _SPLITS for n in classes}:
        raise ValueError("it must hold images of every class in train and in test")
    if len({image.shape for image in found.values()}) != 1:
        raise ValueError("its images must be of one size")
    made = {}
    for split, suffix in _SPLITS.items():
        own = sorted(key for key in found if key[0] == split)
        made[f"x{suffix}"] = np.stack([found[key] for key in own])
        made[f"label{suffix}"] = np.array([classes.index(key[1]) for key in own], np.int32)
    return made


def main(archive: str, out: str) -> int:
    """The exit status: 2 for an archive that cannot be used."""
    folder = pathlib.Path(out)
    if folder.is_dir():
        return 0
    try:
        made = arrays(pathlib.Path(archive))
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
        print(f"Error: {archive} cannot be used: {error}.", file=sys.stderr)
        return 2
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        whole = pathlib.Path(temporary) / "arrays"
        whole.mkdir()
        for name, values in made.items():
            np.save(whole / f"{name}.npy", values)
        os.rename(whole, folder)
    print(f"{len(made['x'])} images to train on and {len(made['x_heldout'])} held out in {folder}")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print(__doc__)
        sys.exit(2)
    sys.exit(main(*sys.argv[1:]))
