"""Decoded images of many files, kept in the user's cache until one of the files changes.

60,000 small files take ten seconds to read, and the same pixels in one file a tenth of one. Files
that have the paths, sizes and times of change that they had are taken for the same.
"""

import contextlib
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Sequence

import numpy as np
import PIL

from gmm_diffusion import npz_files, paths
from gmm_diffusion.data.streaming import Streamed
from gmm_diffusion.errors import RunError

log = logging.getLogger(__name__)

# Fewer images are read as fast from their files.
FEWEST = 2000
# A file that changed so lately may change again within the clock's tick, and look the same.
SETTLED_SECONDS = 2.0
# Of the free disk space, most that is taken.
_SHARE = 0.1
_FORMAT = "1"


def held(
    x: Streamed,
    files: Sequence[str],
    found: Sequence[os.stat_result],
    settings: str,
    name: str,
) -> np.ndarray:
    """`x.held(name)`, kept for the next call, or from what a call before has kept.

    One file for each folder and its settings, written anew when the images change. What cannot be
    kept or read is no error.

    Args:
      x: the images.
      files: the name of each image's file in the folder.
      found: what the system said of each of them, before it is read.
      settings: the folder, and what is made of its images.
      name: of the bar.

    Returns:
      `[N, H, W, C]` uint8.
    """
    folder = paths.user_cache()
    if folder is None or len(files) < FEWEST:
        return x.held(name)
    key = hashlib.sha256(settings.encode("utf-8", "surrogateescape")).hexdigest()[:20]
    path = folder / "images" / f"{key}.npz"
    started = time.time()
    state, newest = _state(files, found)
    kept = _read(path, state, x.shape)
    if kept is not None:
        log.info("%s: %d decoded images from %s; no file has changed.", name, len(kept), path)
        return kept
    images = x.held(name)
    text = f"{name}: read {len(images)} images in {time.time() - started:.1f} s"
    settled = newest < started - SETTLED_SECONDS
    if settled and _write(path, images, state):
        text += f", kept in {path} ({images.nbytes / 2**20:.0f} MiB) until one of them changes"
    log.info("%s.", text)
    return images


def _state(files, found):
    """A checksum `[32]` of names, sizes and times of files, and the newest of the times, in s."""
    digest = hashlib.sha256(f"{_FORMAT} {PIL.__version__}".encode())
    newest = 0
    for file, known in zip(files, found, strict=True):
        text = f"\n{file} {known.st_size} {known.st_mtime_ns} {known.st_ctime_ns} {known.st_ino}"
        digest.update(text.encode("utf-8", "surrogateescape"))
        newest = max(newest, known.st_mtime_ns, known.st_ctime_ns)
    return np.frombuffer(digest.digest(), np.uint8), newest / 1e9


def _read(path, state, shape):
    """What is kept of files in this state, or None."""
    try:
        arrays = npz_files.read(path)
    except (FileNotFoundError, npz_files.Damaged, RunError):
        return None  # It is made anew.
    if arrays.keys() != {"state", "x"} or not np.array_equal(arrays["state"], state):
        return None
    x = arrays["x"]
    return x if (x.shape, x.dtype) == (shape, np.uint8) else None


def _write(path, images, state):
    """Whether the images are kept."""
    temporary = f".{os.getpid()}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if images.nbytes > _SHARE * free:
            log.info(
                "Decoded images are not kept in %s: they take %.2f GiB, and %.2f GiB are free.",
                path.parent,
                images.nbytes / 2**30,
                free / 2**30,
            )
            return False
        with paths.whole(path, temporary) as place, place.open("wb") as file:
            np.savez(file, state=state, x=images)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.with_name(path.name + temporary).unlink()
        log.info("Decoded images are not kept: %s: %s.", path, error.strerror or error)
        return False
    return True
