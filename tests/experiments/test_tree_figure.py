"""The tree's exact samples and its figure."""

import numpy as np
import pytest
from PIL import Image

from experiments import tree_figure
from gmm_diffusion.data import toy
from gmm_diffusion.metrics.vector_scores import VectorScores


def test_exact_samples_are_of_the_class_asked_for_and_no_defects():
    data = toy.load("ring", num_train=4000, num_heldout=2000)
    labels = np.arange(2000, dtype=np.int32) % 4
    x = tree_figure.exact_samples(data, labels, 24, (0.002, 20.0, 7.0))
    scores = VectorScores(data)(x, labels)
    assert scores["agreement_2k"] == 1
    assert scores["condition_defects_2k"] < 0.005
    assert scores["sliced_wasserstein_2k"] < 0.1


def test_the_tail_counts_what_has_left():
    data = toy.load("ring", num_train=4000, num_heldout=200)
    x = data.train.x[data.train.label == 1][:100].copy()
    x[7] += 3.0
    tail = tree_figure.tail(data, 1, x, VectorScores(data))
    assert tail["far"] == 0.01
    own = data.train.x[data.train.label == 1]
    expected = np.linalg.norm(own - x[7], axis=1).min()
    assert tail["distance"] == pytest.approx(expected, rel=1e-5)


def test_the_figure_is_written(tmp_path):
    data = toy.load("ring", num_train=10, num_heldout=200)
    path = tmp_path / "figure.png"
    panels = [("one", data.train.x), ("two", data.train.x)]
    tree_figure.plot(data, 0, panels, str(path))
    with Image.open(path) as image:
        assert image.width > 1.5 * image.height


def test_a_class_of_the_tree_has_a_thousand_components():
    known = toy.MIXTURES["tree"]()
    assert np.bincount(known.component_class).min() >= 1000


def test_the_range_is_that_of_the_run_sampler(tiny_run):
    # `sample.sigma_max` 0 leaves the first level to the model.
    low, high, rho = tree_figure.noise_range(tiny_run[0])
    assert 0 < low < high == 80
    assert rho > 0
