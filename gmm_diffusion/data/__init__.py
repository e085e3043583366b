"""Datasets by name. Importing this imports neither TensorFlow nor scikit-learn."""

from gmm_diffusion.data import digits, faces, tfds_images, toy
from gmm_diffusion.data.dataset import Dataset, Split, to_float, to_uint8

DATASETS = {
    "digits": digits.load,
    "toy": toy.load,
    "faces": faces.load,
    "tfds_images": tfds_images.load,
}

__all__ = ["DATASETS", "Dataset", "Split", "to_float", "to_uint8"]
