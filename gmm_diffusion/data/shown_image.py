"""An image that a user shows to a model, made of the model's size as its data were."""

import logging
import pathlib
from typing import Any

import numpy as np

from gmm_diffusion.data.image_folder import read_image
from gmm_diffusion.data.resize import fit
from gmm_diffusion.errors import InputError

log = logging.getLogger(__name__)

# Data whose images `data.resolution` and `data.crop` change; others are what they are.
_FITTED = ("cifar_archive", "image_folder", "tfds_images")


def read(file: pathlib.Path, shape: tuple[int, ...], group: Any, name: str) -> np.ndarray:
    """One image as the data of a run would have it.

    It is cut and resized by `data.crop` and `data.resolution`, as every image of the data was; one
    of the model's size into which the cut does not fit was cut before, and stays as it is. Grey
    becomes RGB and RGB of equal channels grey, which changes nothing that one sees.

    Args:
      file: its path.
      shape: `(H, W, C)` of the model.
      group: the group `data` of the run's config, or None where there is none.
      name: what names the image, for messages.

    Returns:
      `[H, W, C]` uint8.

    Raises:
      InputError: as `image_folder.read_image`, or an image of another size than the model's where
        the data were not resized, one that is too small for the cut, or a coloured one for a model
        of grey images.
    """
    image = _channels(read_image(file, None, "none"), shape, name)
    resolution, crop = None, "none"
    if group is not None and group.name in _FITTED:
        resolution, crop = group.resolution or None, group.crop
    try:
        fitted = fit(image, resolution, crop)
    except InputError as error:
        if image.shape == shape:
            return image
        raise InputError(f"{str(error).rstrip('.')}: {name}.") from error
    if fitted.shape != shape:
        raise InputError(
            f"{name} has {_size(fitted.shape)} pixels, and the data of this model are not resized; "
            f"it must have {_size(shape)}."
        )
    if fitted.shape != image.shape:
        log.info(
            "%s has %s pixels, and is made %s as the data were: data.resolution and data.crop %s.",
            name,
            _size(image.shape),
            _size(shape),
            crop,
        )
    return fitted


def _channels(image, shape, name):
    have, wanted = image.shape[2], shape[2]
    if have == wanted:
        return image
    if (have, wanted) == (1, 3):
        return np.repeat(image, 3, axis=2)
    if (have, wanted) == (3, 1):
        if (image == image[..., :1]).all():
            return image[..., :1]
        raise InputError(f"{name} is coloured, and the data of this model are grey; convert it.")
    raise InputError(f"{name} has {have} channels; the images of this model have {wanted}.")


def _size(shape):
    return "x".join(map(str, shape[:2]))
