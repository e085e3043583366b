"""Datasets by name. Importing this imports neither TensorFlow nor scikit-learn."""

from collections.abc import Callable

from gmm_diffusion.data import arrays, cifar_archive, faces, image_folder, tfds_images, toy
from gmm_diffusion.data.arrays import from_arrays
from gmm_diffusion.data.dataset import Dataset, Split, to_float, to_uint8
from gmm_diffusion.data.handwritten import digits

DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "toy": toy.load,
    "faces": faces.load,
    "tfds_images": tfds_images.load,
    "image_folder": image_folder.load,
    "cifar_archive": cifar_archive.load,
    "arrays": arrays.load,
}

__all__ = ["DATASETS", "Dataset", "Split", "digits", "from_arrays", "to_float", "to_uint8"]
