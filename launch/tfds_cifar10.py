"""Builds `cifar10` of TensorFlow Datasets on disk from images that are at hand, without a network.

    python launch/tfds_cifar10.py SOURCE DATA_DIR [--file_format=array_record]
    python -m gmm_diffusion.main --config=configs/cifar_gmm.py --workdir=runs/cifar_gmm \\
        --config.data.data_dir=DATA_DIR

SOURCE is a folder or a .tar.gz with train/CLASS/* and test/CLASS/*, images of 32 x 32 in CIFAR-10's
ten classes, perhaps below other folders. Files of array_record can be streamed. Names and features
are those of the dataset that TFDS would fetch, and so is the name of the run's data: where pixels
went through JPEG, figures are not those of CIFAR-10. DATA_DIR says so in ORIGIN.txt. Exit status: 0
done, 1 failed, 2 bad input.
"""

import io
import pathlib
import sys
import tarfile
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

# A clone that is not installed works, too.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from gmm_diffusion import command_line, lazy_tensorflow, paths
from gmm_diffusion.data import image_files
from gmm_diffusion.errors import InputError

SPLITS = ("train", "test")
SHAPE = (32, 32, 3)
# By their labels; TFDS reads them out of the archive that it fetches.
CLASSES = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
]


def build(source: pathlib.Path, data_dir: pathlib.Path, file_format: str | None = None) -> dict:
    """Prepares the dataset below `data_dir`.

    Args:
      source: a folder or an archive.
      data_dir: of `data.data_dir`.
      file_format: of TFDS; None is its own.

    Returns:
      Numbers of images by split.

    Raises:
      InputError: a source without a split or class, with an image that cannot be read or is not 32
        x 32, or the dataset is there already.
    """
    tfds = lazy_tensorflow.import_tensorflow_datasets("the dataset cifar10")
    builder = tfds.builder("cifar10", data_dir=str(data_dir), file_format=file_format)
    if builder.is_prepared():
        raise InputError(f"{builder.data_dir} is there already; choose another DATA_DIR.")
    # All are looked at before anything is written.
    found: dict[str, list[tuple[str, np.ndarray]]] = {split: [] for split in SPLITS}
    for path, content in sorted(_archived(source) if source.is_file() else _files(source)):
        *_, split, label, _ = ["", "", *pathlib.PurePosixPath(path).parts]
        if split not in SPLITS:
            continue
        if label not in CLASSES:
            raise InputError(f"{path} is of no class of CIFAR-10; they are {', '.join(CLASSES)}.")
        found[split].append((label, _pixels(path, content)))
    for split, images in found.items():
        missing = [name for name in CLASSES if name not in {label for label, _ in images}]
        if missing:
            raise InputError(
                f"SOURCE {source} holds no image {split}/{missing[0]}/*; it must hold train and "
                "test, and in each a folder for each class."
            )

    def examples(split):
        for number, (label, pixels) in enumerate(found[split]):
            key = f"{split}_{number:05d}"
            yield key, {"id": key, "image": pixels, "label": label}

    builder.info.features["label"].names = CLASSES
    builder._split_generators = lambda _: {split: examples(split) for split in SPLITS}
    builder.download_and_prepare()
    (pathlib.Path(builder.data_dir) / "ORIGIN.txt").write_text(
        f"Built by launch/tfds_cifar10.py from {source.resolve()}, and not from CIFAR-10's own "
        "files: pixels of JPEG images are near the original ones, and not the same.\n",
        encoding="utf-8",
        errors="backslashreplace",
    )
    return {split: len(images) for split, images in found.items()}


def _files(root) -> Iterator[tuple[str, bytes]]:
    for file in image_files.find(root, setting="SOURCE"):
        yield file.as_posix(), file.read_bytes()


def _archived(path) -> Iterator[tuple[str, bytes]]:
    """Images of an archive, which is not unpacked."""
    try:
        with tarfile.open(path) as archive:
            for entry in archive:
                if entry.isfile() and entry.name.lower().endswith(image_files.EXTENSIONS):
                    file = archive.extractfile(entry)
                    assert file is not None
                    yield entry.name, file.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise InputError(f"SOURCE {path} cannot be read as an archive ({error}).") from error


def _pixels(path, content):
    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert("RGB"))
    except Exception as error:  # Each of Pillow's formats fails in its own way.
        raise InputError(f"{path} cannot be read as an image ({error}).") from error
    if pixels.shape != SHAPE:
        raise InputError(
            f"{path} has {pixels.shape[0]}x{pixels.shape[1]} pixels; it must be 32x32."
        )
    return pixels


def _work(argv):
    parser = command_line.Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("source")
    parser.add_argument("data_dir")
    parser.add_argument("--file_format", choices=("tfrecord", "array_record"))
    arguments = parser.parse_args(argv)
    source = paths.expand(arguments.source, "SOURCE")
    if not source.exists():
        raise InputError(f"SOURCE is {str(source)!r}; it must be a folder or an archive.")
    data_dir = paths.folder(arguments.data_dir, "DATA_DIR")
    counts = build(source, data_dir, arguments.file_format)
    print(f"{counts['train']} images to train on and {counts['test']} held out in {data_dir}.")


def run(argv: list[str]) -> int:
    """One command, without the program's name; returns the exit status."""
    return command_line.run(argv, __file__, _work)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
