"""The feature spaces in which sets of samples are compared.

`judge` and `pca` need nothing but the dataset. Published FID figures need Inception features; no
weights come with this package, but a file with them can be used. Make it once, wherever the
weights are:

    fn = jax.jit(lambda x: inception_pool3(params, x))      # float32 [b, 299, 299, 3] -> [b, 2048]
    (b,) = jax.export.symbolic_shape("b")
    spec = jax.ShapeDtypeStruct((b, 299, 299, 3), jnp.float32)           # images are in [-1, 1]
    exported = jax.export.export(fn, platforms=("cpu", "cuda", "tpu"))(spec)
    pathlib.Path("inception.jaxexport").write_bytes(exported.serialize())

and name it `file:inception.jaxexport`. Images are brought to its height and width with
`data.resize` and grey ones get three equal channels. Another port of the network, or another
resize, gives other figures: the file's hash is part of the extractor's id.
"""

import dataclasses
import hashlib
import math
import os
from collections.abc import Callable

import jax
import numpy as np

from gmm_diffusion import extras, paths
from gmm_diffusion.data import resize
from gmm_diffusion.data.dataset import Dataset, Split, to_float
from gmm_diffusion.errors import InputError
from gmm_diffusion.metrics import frechet
from gmm_diffusion.metrics import judge as judges
from gmm_diffusion.metrics.frechet import Statistics

_PCA_DIMENSIONS = 32
_PCA_EXAMPLES = 10_000
# Fewer examples where so many float64 numbers would not hold them: of 256x256x3, a thousand.
_PCA_NUMBERS, _FEWEST_PCA_EXAMPLES = 1 << 27, 1000
_FILE_ROWS = 64
_CHUNK = 4096


@dataclasses.dataclass(frozen=True)
class Extractor:
    """A feature space.

    Attributes:
      id: kind and hash of what is inside; statistics of different ids never compare.
      extract: uint8 images or float latents `[N, H, W, C]`, or vectors `[N, D]`, -> `[N, F]`.
      resize: `data.resize.METHOD` if images are resized on the way, else empty.
    """

    id: str
    extract: Callable[[np.ndarray], np.ndarray]
    resize: str = ""


def _judge(dataset: Dataset, judge: judges.Judge | None, path: str) -> Extractor:
    del dataset, path
    if judge is None:
        raise InputError(
            "features 'judge' needs a dataset with labels; valid without labels is 'pca'."
        )
    return Extractor(f"judge:{judge.hash}", lambda x: judges.embed(judge, x))


def _pca(dataset: Dataset, judge: judges.Judge | None, path: str) -> Extractor:
    del judge, path
    from sklearn.decomposition import PCA

    most = max(_PCA_NUMBERS // math.prod(dataset.shape), _FEWEST_PCA_EXAMPLES)
    chosen = dataset.train.sample(min(_PCA_EXAMPLES, most))
    flat = to_float(chosen.x).reshape(len(chosen), -1).astype(np.float64)
    dimensions = min(_PCA_DIMENSIONS, flat.shape[1], len(flat))
    pca = PCA(dimensions, random_state=0).fit(flat)
    mean, components = pca.mean_, pca.components_
    digest = hashlib.sha256(mean.tobytes() + components.tobytes()).hexdigest()

    def extract(x: np.ndarray) -> np.ndarray:
        if x.shape[1:] != dataset.shape:
            raise InputError(
                f"features 'pca' got examples of shape {x.shape[1:]}; valid is {dataset.shape}."
            )
        return (to_float(x).reshape(len(x), -1) - mean) @ components.T

    return Extractor(f"pca{dimensions}:{digest}", extract)


def _file(dataset: Dataset, judge: judges.Judge | None, path: str) -> Extractor:
    del judge
    file = paths.expand(path, "evaluation.features", bucket=True)
    if not file.is_file():
        raise InputError(
            f"features 'file:{path}' names no file; valid is a serialized jax.export function."
        )
    try:
        content = file.read_bytes()
    except OSError as e:
        raise InputError(f"features 'file:{path}' cannot be read: {e.strerror}.") from e
    try:
        # jax.export reads with it, and JAX does not require it.
        import flatbuffers  # noqa: F401
    except ImportError as e:
        raise InputError(
            f"features 'file:{path}' needs flatbuffers, which cannot be imported ({e}); install it "
            f"with {extras.advice('features')}."
        ) from e
    try:
        exported = jax.export.deserialize(bytearray(content))
        (spec,) = exported.in_avals
    except Exception as e:
        raise InputError(
            f"features 'file:{path}' cannot be read ({type(e).__name__}); valid is a serialized "
            "jax.export function of one array."
        ) from e
    platform = jax.default_backend()
    names = {"gpu": ("cuda", "rocm")}.get(platform, (platform,))
    if not set(names) & set(exported.platforms):
        raise InputError(
            f"features 'file:{path}' was exported for {', '.join(exported.platforms)}; valid is an "
            f"export for {names[0]}, which this process runs on."
        )
    fixed = all(isinstance(n, int) for n in spec.shape[1:])
    if len(spec.shape) != 4 or not fixed or spec.dtype != np.float32 or not dataset.is_image:
        raise InputError(
            f"features 'file:{path}' maps {spec.dtype}{spec.shape} and the dataset has examples of "
            f"shape {dataset.shape}; valid is float32 [B, H, W, C] with fixed H, W, C, and images."
        )
    height, width, channels = spec.shape[1:]
    if dataset.shape[2] not in (1, channels):
        raise InputError(
            f"features 'file:{path}' takes {channels} channels and the dataset has "
            f"{dataset.shape[2]}; valid are equal numbers, or grey images."
        )
    rows = spec.shape[0] if isinstance(spec.shape[0], int) else _FILE_ROWS
    call = jax.jit(exported.call)

    def extract(x: np.ndarray) -> np.ndarray:
        features = []
        for i in range(0, len(x), rows):
            chunk = to_float(resize.resize(x[i : i + rows], (height, width)))
            chunk = np.broadcast_to(chunk, (*chunk.shape[:3], channels))
            # Padded to one shape, so that a last short chunk does not compile anew.
            padded = np.pad(chunk, ((0, rows - len(chunk)), (0, 0), (0, 0), (0, 0)))
            features.append(np.asarray(call(padded))[: len(chunk)])
        return np.concatenate(features).reshape(len(x), -1)

    resized = dataset.shape[:2] != (height, width)
    digest = hashlib.sha256(content).hexdigest()
    return Extractor(f"file:{digest}", extract, resize.METHOD if resized else "")


# Vectors are compared as they are.
RAW = Extractor("raw", lambda x: x)

EXTRACTORS = {"judge": _judge, "pca": _pca, "file": _file}


def make_extractor(spec: str, dataset: Dataset, judge: judges.Judge | None = None) -> Extractor:
    """The feature space of that name.

    Args:
      spec: "judge" (its embedding, needs `judge`), "pca" (32 dimensions of the training split) or
        "file:PATH" (see the top of this file).
      dataset: fixes the shape of examples; PCA is fitted on its training split only.
      judge: fitted on the same dataset.

    Raises:
      InputError: an unknown name, a judge that is missing, or a file that does not fit.
    """
    kind, _, path = spec.partition(":")
    if kind not in EXTRACTORS or bool(path) != (kind == "file"):
        raise InputError(f"features is {spec!r}; valid are 'judge', 'pca' and 'file:PATH'.")
    return EXTRACTORS[kind](dataset, judge, path)


def statistics(extractor: Extractor, x: np.ndarray, **origin: str) -> Statistics:
    """Mean and covariance of the features of `x [N, ...]`, N at least 2, read in chunks.

    Args:
      extractor: the feature space.
      x: uint8 images `[N, H, W, C]` or vectors `[N, D]`.
      **origin: `dataset` and `split`, where known.
    """
    origin |= {"resolution": "x".join(map(str, x.shape[1:])), "resize": extractor.resize}
    merged = None
    for rows in np.array_split(np.arange(len(x)), -(-len(x) // _CHUNK)):
        part = frechet.statistics(extractor.extract(x[rows]), extractor.id, **origin)
        merged = part if merged is None else frechet.merge(merged, part)
    assert merged is not None, "there are examples"
    return merged


def _samples(samples):
    """An array of at least two examples, all of which count."""
    x = np.asarray(samples)
    if x.ndim not in (2, 4) or len(x) < 2 or not (x.dtype == np.uint8 or x.dtype.kind == "f"):
        raise InputError(
            f"samples are {x.dtype} of shape {x.shape}; they must be uint8 images or floats, [N, "
            "H, W, C] or [N, D], N at least 2."
        )
    if np.ma.is_masked(samples):
        raise InputError("samples have masked values; all of them count in a distance.")
    return x


def frechet_distance(
    samples: np.ndarray,
    reference: Dataset | Statistics | str | os.PathLike,
    features: str | Extractor = "pca",
    seed: int = 0,
) -> float:
    """The Frechet distance of samples to real data.

    Args:
      samples: uint8 images `[N, H, W, C]` or float32 vectors `[N, D]`, N at least 2.
      reference: a dataset, whose training split counts; or its statistics, or the file of
        `make_stats` that holds them.
      features: "pca", "judge", which is trained here, or "file:PATH", as `evaluation.features`;
        beside statistics the `Extractor` that they were made with, or "file:PATH".
      seed: of the judge.

    Raises:
      InputError: samples of another shape, or features that the statistics are not of.
    """
    samples = _samples(samples)
    if isinstance(reference, Dataset):
        if samples.shape[1:] != reference.shape or (
            reference.is_image != (samples.dtype == np.uint8)
        ):
            kind = "uint8" if reference.is_image else "floats"
            raise InputError(
                f"samples are {samples.dtype} of shape {samples.shape[1:]} each; those of "
                f"{reference.name} are {kind} of shape {reference.shape}."
            )
        if isinstance(features, str):
            judge = judges.fit_judge(reference, seed) if features == "judge" else None
            features = make_extractor(features, reference, judge)
        real = statistics(features, reference.train.x)
    else:
        real = reference if isinstance(reference, Statistics) else frechet.load(reference)
        if isinstance(features, str):
            if not features.startswith("file:"):
                raise InputError(
                    f"features are {features!r}, which are made of a dataset; beside statistics "
                    "they must be the Extractor of these, or 'file:PATH'."
                )
            split = Split(samples[:1])
            features = make_extractor(features, Dataset("samples", split, split))
    return frechet.distance(statistics(features, samples), real)
