"""Any image dataset of TensorFlow Datasets, decoded once into memory, or streamed."""

import dataclasses
import functools
import io
import re
import shlex
import threading
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import numpy as np
from PIL import Image

from gmm_diffusion import lazy_tensorflow
from gmm_diffusion.attribute_names import check_names
from gmm_diffusion.data import streaming
from gmm_diffusion.data.dataset import Dataset, Split, split_indices
from gmm_diffusion.data.resize import announce, fit
from gmm_diffusion.errors import InputError

_PROBE_SECONDS = 8.0
# The format of files that are read at any place, and the colours of so many channels in Pillow.
_RANDOM_ACCESS = "array_record"
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_EMPTY = "split {split!r} of dataset {name} is empty; at least one image needed."
_EMBEDDED = "the embedded datasets are digits, toy and faces"
# What else to type where TFDS cannot help: it is not installed, or the host of a dataset does not
# answer or has sent too much today.
_BY_HAND = {
    "celeb_a": (
        "add --config.data.name=image_folder --config.data.data_dir=FOLDER, with "
        "img_align_celeba.zip (1.34 GiB) unpacked in FOLDER and list_attr_celeba.txt beside it"
    ),
    "cifar10": (
        "add --config.data.name=cifar_archive --config.data.data_dir=FILE, which is your "
        "cifar-10-binary.tar.gz (0.16 GiB)"
    ),
    "cifar100": (
        "add --config.data.name=cifar_archive --config.data.data_dir=FILE, which is your "
        "cifar-100-binary.tar.gz (0.16 GiB)"
    ),
}


def load(
    tfds_name: str,
    data_dir: str | None = None,
    train_split: str = "train",
    heldout_split: str | None = "test",
    heldout_fraction: float = 0.2,
    split_seed: int = 0,
    resolution: int | None = None,
    crop: str = "center",
    max_examples: int | None = None,
    attributes: tuple[str, ...] = (),
    in_memory: str = "auto",
) -> Dataset:
    """Reads a dataset that TFDS has on disk, or lets TFDS download and prepare it.

    TFDS only fills the arrays (CIFAR-10 takes 0.2 GB); order and batches are ours. Examples keep
    the order of the files; those in the format array_record can be streamed. Labels come from the
    class label named `label`, where there is one, and attributes from booleans below `attributes`,
    as CelebA has them.

    Args:
      tfds_name: such as "cifar10" or "imagenet_resized/64x64".
      data_dir: where TFDS keeps its data; None is TFDS's own default.
      train_split: split to train on, TFDS's slices included ("train[:90%]").
      heldout_split: split held out, or None to hold out a part of the training split.
      heldout_fraction: that part, in (0, 1), the same of every class.
      split_seed: which examples are that part.
      resolution: images get this height and width; None keeps them.
      crop: what is cut out before that; see `resize.fit`.
      max_examples: the first so many of each split; None takes all.
      attributes: names of attributes, in this order; () is all that there are.
      in_memory: of `streaming.CHOICES`; what is not there yet is prepared as array_record where it
        is "never".

    Returns:
      Images `[N, H, W, C]` uint8.

    Raises:
      InputError: `[data]` is not installed; the dataset is unknown, or neither on disk nor
        downloadable (said within seconds); it lacks the split or one image; it is empty; its images
        differ in size and there is no `resolution`; it has no attribute of such a name; `in_memory`
        is "never" and it cannot be streamed.
    """
    streaming.check(in_memory)
    try:
        tfds = lazy_tensorflow.import_tensorflow_datasets(f"dataset {tfds_name}")
    except InputError as e:
        # Of "cifar10:3.*.*" the first part.
        name = re.split("[:/]", tfds_name)[0]
        raise InputError(f"{str(e).rstrip('.')}; or {_alternatives(name)}.") from e
    builder = _builder(tfds, tfds_name, data_dir)
    if in_memory == "never" and not builder.is_prepared():
        builder = _builder(tfds, tfds_name, data_dir, file_format=_RANDOM_ACCESS)
    _prepare(tfds, builder)
    image_key, label_key = _keys(tfds, builder)
    attributes = _attributes(tfds, builder, attributes)
    for field, split in (("train_split", train_split), ("heldout_split", heldout_split)):
        known = list(builder.info.splits)
        if split is not None and known and split.split("[")[0] not in (*known, "all"):
            raise InputError(
                f"data.{field} is {split!r}; {tfds_name} has {', '.join(known)}, and an empty "
                "heldout_split holds out a part of the training split."
            )

    keys = image_key, label_key, attributes
    chosen = (train_split,) if heldout_split is None else (train_split, heldout_split)
    if _RANDOM_ACCESS in {known.value for known in builder.info.available_file_formats()}:
        opened = [
            _open(tfds, builder, split, keys, resolution, crop, max_examples) for split in chosen
        ]
        nbytes = sum(split.x.nbytes for split in opened)
        if not streaming.choose(in_memory, nbytes, tfds_name):
            opened = [split.held(tfds_name) for split in opened]
    else:
        nbytes = _size(builder, chosen, image_key, resolution, max_examples)
        streaming.choose(in_memory, nbytes, tfds_name, _anew(builder))
        opened = [
            _read(tfds, builder, split, keys, resolution, crop, max_examples) for split in chosen
        ]
    train = opened[0]
    if heldout_split is None:
        kept, left_out = split_indices(len(train), heldout_fraction, split_seed, train.label)
        heldout_split = f"{heldout_fraction} of it, seed {split_seed}"
        train, heldout = train.take(kept), train.take(left_out)
    else:
        heldout = opened[1]
        if heldout.x.shape[1:] != train.x.shape[1:]:
            raise InputError(
                f"images of {tfds_name} have shape {train.x.shape[1:]} in {train_split} and "
                f"{heldout.x.shape[1:]} in {heldout_split}; data.resolution makes them equal."
            )
    names = () if label_key is None else tuple(builder.info.features[label_key].names)
    size = "x".join(map(str, train.x.shape[1:]))
    # Only what differs from the defaults, so that statistics of earlier versions keep their name.
    limit = "" if max_examples is None else f", first {max_examples}"
    limit += "" if crop == "center" else f", crop {crop}"
    return Dataset(
        name=f"tfds {builder.info.full_name} ({train_split}, {heldout_split}, {size}{limit})",
        train=train,
        heldout=heldout,
        num_classes=len(names),
        class_names=names,
        attribute_names=attributes,
    )


def _alternatives(name: str) -> str:
    by_hand = f"{_BY_HAND[name]}; or " if name in _BY_HAND else ""
    return f"{by_hand}use other data: {_EMBEDDED}"


def _builder(tfds, name: str, data_dir: str | None, **options):
    try:
        return tfds.builder(name, data_dir=data_dir, **options)
    except Exception as e:
        # TFDS lists every dataset that it knows; the first line says what matters.
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
        directory = data_dir or tfds.core.constants.DATA_DIR
        raise InputError(
            f"data.tfds_name is {name!r}, which TFDS cannot open from {directory} ({reason[:200]});"
            f" valid are names of TFDS image datasets, and {_EMBEDDED}."
        ) from e


def _prepare(tfds, builder) -> None:
    if builder.is_prepared():
        return
    url = next(iter(builder.url_infos or {}), None)
    problem = None if url is None else _probe(url)
    if problem is None:
        try:
            # TFDS would first look for a copy in a bucket of its own, which hangs behind firewalls.
            config = tfds.download.DownloadConfig(try_download_gcs=False)
            builder.download_and_prepare(download_config=config)
            return
        except Exception as e:
            problem = f"{type(e).__name__}: {(str(e).strip().splitlines() or [''])[0][:300]}"
    name, place = builder.info.full_name, builder.data_dir_root
    line = shlex.join(_build(builder, place))
    raise InputError(
        f"dataset {name} is not in data.data_dir {place} and cannot be downloaded ({problem}); "
        f"prepare it with `{line}` where there is a network; or {_alternatives(builder.name)}."
    )


def _build(builder, place):
    """What to type to prepare a dataset there, in its own format."""
    name, own = builder.info.full_name.rpartition("/")[0], builder.info.file_format
    # TFDS's default needs no word.
    suffix = (f"--file_format={own.value}",) if own and own.value == _RANDOM_ACCESS else ()
    return ("tfds", "build", name, f"--data_dir={place}", *suffix)


def _probe(url: str) -> str | None:
    """Why nothing answers at `url`, or None: TFDS itself retries for minutes before it says so."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        return None
    outcome: list[str | None] = [f"no answer within {_PROBE_SECONDS:g} s"]

    def ask():
        request = urllib.request.Request(url, method="HEAD")
        try:
            # Through the proxy that the environment names, if any, as the download itself.
            urllib.request.urlopen(request, timeout=_PROBE_SECONDS).close()
            outcome[0] = None
        except urllib.error.HTTPError as e:
            # Below 500 a server is there and may only dislike HEAD; 407 is a proxy.
            outcome[0] = None if e.code < 500 and e.code != 407 else f"HTTP status {e.code}"
        except OSError as e:
            outcome[0] = f"no network: {getattr(e, 'reason', e)}"

    # In a thread, since a name look-up obeys no timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    return outcome[0]


def _keys(tfds, builder) -> tuple[str, str | None]:
    """Names of the image feature and of the class label, if any."""
    features = builder.info.features
    items = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    images = [k for k, f in items.items() if type(f) is tfds.features.Image]
    image = "image" if "image" in images else images[0] if len(images) == 1 else None
    if image is None or items[image].dtype != np.uint8:
        raise InputError(
            f"dataset {builder.info.full_name} has the features {', '.join(items) or 'of no dict'};"
            " valid is one with a uint8 image named image, or with only one image."
        )
    return image, "label" if isinstance(items.get("label"), tfds.features.ClassLabel) else None


def _attributes(tfds, builder, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the attributes that are wanted, or of all; () if there are none."""
    found = dict(builder.info.features.items()).get("attributes")
    items = found.items() if isinstance(found, tfds.features.FeaturesDict) else ()
    names = [name for name, f in items if f.shape == () and f.np_dtype == np.bool_]
    if wanted and not names:
        raise InputError(
            f"data.attributes names {', '.join(wanted)}, and dataset {builder.info.full_name} has "
            "no attributes; it must be empty."
        )
    check_names(wanted, names, "data.attributes")
    return wanted or tuple(names)


def _unreadable(builder, split, error):
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return InputError(
        f"split {split!r} of dataset {builder.info.full_name} in {builder.data_dir} cannot be read "
        f"({reason[:200]}); valid are its splits, {', '.join(builder.info.splits)}, or slices of "
        "them."
    )


def _read(tfds, builder, split, keys, resolution, crop, max_examples) -> Split:
    name = builder.info.full_name
    image_key, label_key, attributes = keys
    wanted: dict[str, Any] = {key: True for key in (image_key, label_key) if key is not None}
    if attributes:
        wanted["attributes"] = dict.fromkeys(attributes, True)
    try:
        source = builder.as_dataset(
            split=split,
            shuffle_files=False,
            read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
            decoders=tfds.decode.PartialDecoding(wanted),
        )
    except Exception as e:
        raise _unreadable(builder, split, e) from e
    if max_examples is not None:
        source = source.take(max_examples)
    x, labels, rows, num = None, [], [], 0
    for example in tfds.as_numpy(source):
        image = fit(example[image_key], resolution, crop)
        if x is None:
            announce(example[image_key].shape, image.shape, crop, f"{name}, {split}")
            x = np.empty((max(1, int(source.cardinality())), *image.shape), np.uint8)
        if image.shape != x.shape[1:]:
            raise InputError(
                f"images of dataset {name} have shapes {x.shape[1:]} and {image.shape}; "
                "data.resolution makes them equal."
            )
        if num == len(x):  # The number was not known beforehand.
            x = np.concatenate([x, np.empty_like(x)])
        x[num] = image
        num += 1
        if label_key is not None:
            labels.append(example[label_key])
        if attributes:
            rows.append([example["attributes"][attribute] for attribute in attributes])
    if x is None:
        raise InputError(_EMPTY.format(split=split, name=name))
    return _split(builder, split, x[:num], labels, rows)


def _split(builder, split, x, labels, rows):
    """A `Split` of what is there."""
    label = np.array(labels, np.int32) if labels else None
    if label is not None and label.min() < 0:
        raise InputError(
            f"split {split!r} of dataset {builder.info.full_name} holds the label {label.min()}, "
            "which stands for none; valid are splits with labels."
        )
    return Split(x, label, np.array(rows, np.uint8) if rows else None)


def _size(builder, splits, image_key, resolution, most):
    """Bytes of all images of some splits, as far as it is known before they are read."""
    height, width, channels = builder.info.features[image_key].shape
    one = (resolution or height or 0) * (resolution or width or 0) * (channels or 0)
    try:
        counts = [builder.info.splits[split].num_examples for split in splits]
        return one * sum(count if most is None else min(count, most) for count in counts)
    except Exception:  # A slice of no split, of which reading it tells more.
        return 0


def _anew(builder):
    """Why files cannot be read at any place, and what to type."""
    place = f"{builder.data_dir_root}/{_RANDOM_ACCESS}"
    line = shlex.join((*_build(builder, place), f"--file_format={_RANDOM_ACCESS}"))
    return (
        f"{builder.data_dir} holds files that are read in order only; `{line}` prepares others, "
        f"and --config.data.data_dir={place} reads them"
    )


@functools.cache
def _example():
    return lazy_tensorflow.import_example()


@dataclasses.dataclass(frozen=True)
class _Records:
    """A `streaming.Source` of a split's records in the format array_record."""

    records: Any
    name: str
    image_key: str
    channels: int | None
    resolution: int | None
    crop: str
    shape: tuple[int, ...] = ()

    def __len__(self):
        return len(self.records)

    def __getitem__(self, i):
        pixels = self.decoded(i)
        image = fit(pixels, self.resolution, self.crop)
        if self.shape and image.shape != self.shape:
            raise InputError(
                f"images of {self.name} have shapes {self.shape} and {image.shape} (record {i}); "
                "data.resolution makes them equal."
            )
        return image

    def decoded(self, i):
        """`[H, W, C]` as it is stored."""
        example = _example()
        try:
            record = example.FromString(self.records[i])
            (content,) = record.features.feature[self.image_key].bytes_list.value
            with Image.open(io.BytesIO(content)) as opened:
                mode = _MODES.get(self.channels or 0, opened.mode)
                pixels = np.asarray(opened.convert(mode), np.uint8)
        except Exception as error:  # Each of Pillow's formats fails in its own way.
            raise InputError(
                f"record {i} of {self.name} cannot be read as an image ({error})."
            ) from error
        return pixels if pixels.ndim == 3 else pixels[..., None]


def _open(tfds, builder, split, keys, resolution, crop, max_examples) -> Split:
    """A split whose images stay in their files; labels and attributes are read."""
    image_key, label_key, attributes = keys
    name = f"split {split!r} of dataset {builder.info.full_name}"
    try:
        records = builder.as_data_source(
            split,
            deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
            file_format=_RANDOM_ACCESS,
        ).data_source
    except Exception as e:
        raise _unreadable(builder, split, e) from e
    num = len(records) if max_examples is None else min(len(records), max_examples)
    if not num:
        raise InputError(_EMPTY.format(split=split, name=builder.info.full_name))
    channels = builder.info.features[image_key].shape[-1]
    source = _Records(records, name, image_key, channels, resolution, crop)
    source = dataclasses.replace(source, shape=source[0].shape)
    announce(source.decoded(0).shape, source.shape, crop, f"{builder.info.full_name}, {split}")
    x: Any = streaming.Streamed(source, np.arange(num))
    labels, rows = [], []
    if label_key is not None or attributes:
        for i in range(num):
            record = _example().FromString(records[i]).features.feature
            if label_key is not None:
                labels.append(record[label_key].int64_list.value[0])
            if attributes:
                rows.append([record[f"attributes/{a}"].int64_list.value[0] for a in attributes])
    return _split(builder, split, x, labels, rows)
