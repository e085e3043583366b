"""Frechet distance between two sets of features (Heusel et al. 2017, arXiv 1706.08500, eq. 6).

With Inception features it is the FID. The figure depends on the features, the split, the number of
samples and the resize, so all of them travel with the statistics and the name carries the count.
"""

import dataclasses
import os
import warnings
import zlib

import numpy as np

from gmm_diffusion import npz_files, paths
from gmm_diffusion.errors import InputError

_FEW = 10_000
_MUST_MATCH = ("extractor", "resolution", "resize")
_TEXT = ("extractor", "dataset", "split", "resolution", "resize")


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Mean and covariance of features, in float64, and where they come from.

    Attributes:
      mean: `[F]`.
      cov: `[F, F]`, unbiased (divided by n - 1).
      n: number of examples.
      extractor: id of the features with a hash, as `features.Extractor.id`.
      dataset: name of the source.
      split: "train", "heldout" or "samples".
      resolution: of the images, such as "8x8x1".
      resize: `data.resize.METHOD` where images were resized, else empty.
    """

    mean: np.ndarray
    cov: np.ndarray
    n: int
    extractor: str = ""
    dataset: str = ""
    split: str = ""
    resolution: str = ""
    resize: str = ""


def statistics(features: np.ndarray, extractor: str = "", **origin: str) -> Statistics:
    """Statistics of `[N, F]` features, N at least 2.

    Args:
      features: any float type; summed in float64 around the mean (in float32, or in one pass, a
        large mean destroys the covariance).
      extractor: id of the features.
      **origin: the other text fields of `Statistics`.

    Raises:
      InputError: another shape, fewer than 2 examples, or a value that is not finite.
    """
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise InputError(f"features have shape {x.shape}; valid is [N, F] with N at least 2.")
    if not np.isfinite(x).all():
        raise InputError("features hold a value that is not finite; valid are finite numbers.")
    mean = x.mean(axis=0)
    centred = x - mean
    return Statistics(mean, centred.T @ centred / (len(x) - 1), len(x), extractor, **origin)


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Statistics of both sets together, without the features (Chan et al. 1979, eq. 2.1).

    Raises:
      InputError: another extractor, resolution, resize or number of features.
    """
    _check_comparable(a, b)
    n = a.n + b.n
    shift = b.mean - a.mean
    scatter = (a.n - 1) * a.cov + (b.n - 1) * b.cov + np.outer(shift, shift) * (a.n * b.n / n)
    same = {f: getattr(a, f) for f in _TEXT if getattr(a, f) == getattr(b, f)}
    return Statistics(a.mean + shift * (b.n / n), scatter / (n - 1), n, **same)


def distance(a: Statistics, b: Statistics) -> float:
    """`|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))`, in squared units of the features.

    The trace of the root is the sum of the roots of the eigenvalues of `S_a S_b`, which are those
    of the symmetric `S_a^(1/2) S_b S_a^(1/2)`: real, and clipped at 0, so that fewer samples than
    features give a finite real number.

    Raises:
      InputError: another extractor, resolution, resize or number of features.
    """
    _check_comparable(a, b)
    values, vectors = np.linalg.eigh(a.cov)
    root = vectors * np.sqrt(np.clip(values, 0, None))
    cross = np.linalg.eigvalsh(root.T @ b.cov @ root)
    trace = np.trace(a.cov) + np.trace(b.cov) - 2 * np.sqrt(np.clip(cross, 0, None)).sum()
    return float(max(0.0, ((a.mean - b.mean) ** 2).sum() + trace))


def metric_name(n: int) -> str:
    """The name under which a distance is reported, with its sample count: `frechet_5k`.

    Warns below 10,000 samples: the bias then is larger than most differences between models, so
    that only figures of the same count, beside their floor, compare.
    """
    if n < _FEW:
        warnings.warn(
            f"A Frechet distance from {n} samples is strongly biased; compare it only with figures "
            "of the same count and with its floor.",
            stacklevel=2,
        )
    return f"frechet_{count_name(n)}"


def count_name(n: int) -> str:
    """A number of samples as it stands in a metric's name: `360`, `5k`."""
    return f"{n // 1000}k" if n % 1000 == 0 and n > 0 else f"{n}"


def save(stats: Statistics, path: str | os.PathLike) -> None:
    """Writes one plain `.npz`; a reader sees the old file or the new one, never half of one."""
    fields = dataclasses.asdict(stats)
    with paths.whole(paths.of(path), f".{os.getpid()}.tmp") as temporary, temporary.open("wb") as f:
        np.savez(f, **fields, checksum=_checksum(stats))


def load(path: str | os.PathLike) -> Statistics:
    """Reads what `save` wrote.

    Raises:
      InputError: no such file, other content, or content that changed since it was saved.
    """
    path = os.fspath(path)
    try:
        arrays = npz_files.read(path)
        text = {name: str(arrays[name].item()) for name in _TEXT}
        stats = Statistics(arrays["mean"], arrays["cov"], int(arrays["n"].item()), **text)
        intact = arrays["checksum"].item() == _checksum(stats)
    except FileNotFoundError as e:
        raise InputError(
            f"statistics file {path} does not exist; valid is a file by frechet.save."
        ) from e
    except (ValueError, KeyError, OverflowError) as e:
        raise InputError(
            f"statistics file {path} cannot be read ({e}); valid is an intact file by frechet.save."
        ) from e
    if not intact:
        raise InputError(
            f"statistics file {path} is corrupt: its content does not match its checksum; delete "
            "it and compute the statistics again."
        )
    return stats


def _checksum(stats: Statistics) -> int:
    text = "\n".join([str(stats.n), *(getattr(stats, name) for name in _TEXT)])
    return zlib.crc32(text.encode() + stats.mean.tobytes() + stats.cov.tobytes())


def _check_comparable(a: Statistics, b: Statistics) -> None:
    for field in _MUST_MATCH:
        left, right = getattr(a, field), getattr(b, field)
        if left != right:
            raise InputError(
                f"statistics differ in {field}: {left!r} and {right!r}; valid are statistics that "
                "share it."
            )
    if a.mean.shape != b.mean.shape:
        raise InputError(
            f"statistics have {len(a.mean)} and {len(b.mean)} features; valid are equal numbers."
        )
