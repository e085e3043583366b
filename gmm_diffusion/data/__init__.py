"""Datasets by name. Importing this imports neither TensorFlow nor scikit-learn."""

from gmm_diffusion.data import cifar_archive, digits, faces, image_folder, tfds_images, toy
from gmm_diffusion.data.dataset import Dataset, Split, to_float, to_uint8

DATASETS = {
    "digits": digits.load,
    "toy": toy.load,
    "faces": faces.load,
    "tfds_images": tfds_images.load,
    "image_folder": image_folder.load,
    "cifar_archive": cifar_archive.load,
}

__all__ = ["DATASETS", "Dataset", "Split", "to_float", "to_uint8"]
