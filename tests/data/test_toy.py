"""Every named mixture: standardised exactly, sampled faithfully, density as SciPy computes it."""

import numpy as np
import pytest
import scipy.stats

from gmm_diffusion import mixture
from gmm_diffusion.data import toy
from gmm_diffusion.errors import InputError

NAMES = list(toy.MIXTURES)


@pytest.mark.parametrize("name", NAMES)
def test_moments_are_standard(name):
    known = toy.MIXTURES[name]()
    mean = known.weights @ known.means
    square = known.weights @ (known.means**2 + np.diagonal(known.covariances, axis1=1, axis2=2))
    np.testing.assert_allclose(mean, 0, atol=1e-12)
    assert abs(square.mean() - 1) < 1e-12
    assert abs(known.weights.sum() - 1) < 1e-12
    assert np.linalg.eigvalsh(known.covariances).min() > 0
    assert set(known.component_class) == set(range(known.component_class.max() + 1))


@pytest.mark.parametrize("name", NAMES)
def test_points_follow_the_mixture(name):
    data = toy.load(name, num_train=20_000, num_heldout=500)
    known = toy.MIXTURES[name]()
    x, label = data.train.x.astype(np.float64), data.train.label
    for c in range(data.num_classes):
        own = known.component_class == c
        share = known.weights[own].sum()
        assert abs((label == c).mean() - share) < 4 * np.sqrt(share * (1 - share) / 20_000)
        mean = known.weights[own] @ known.means[own] / share
        spread = x[label == c].std(axis=0) / np.sqrt((label == c).sum())
        assert (np.abs(x[label == c].mean(axis=0) - mean) < 4.5 * spread).all()
    # Second moments of the whole, against the components' own.
    second = np.einsum("k,kij->ij", known.weights, known.covariances) + np.einsum(
        "k,ki,kj->ij", known.weights, known.means, known.means
    )
    products = x[:, :, None] * x[:, None, :]
    error = products.std(axis=0) / np.sqrt(20_000)
    assert (np.abs(products.mean(axis=0) - second) < 4.5 * error).all()


@pytest.mark.parametrize("name", NAMES)
def test_density_is_scipys(name):
    data = toy.load(name, num_train=1, num_heldout=200)
    known = toy.MIXTURES[name]()
    x = data.heldout.x
    density = sum(
        w * scipy.stats.multivariate_normal(m, c).pdf(x)
        for w, m, c in zip(known.weights, known.means, known.covariances, strict=True)
    )
    np.testing.assert_allclose(mixture.log_prob(data.mixture, x), np.log(density), atol=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_those_of_the_likely_component(name):
    data = toy.load(name, num_train=1, num_heldout=1000)
    owner = data.component_class[
        np.asarray(mixture.responsibilities(data.mixture, data.heldout.x)).argmax(axis=1)
    ]
    # Classes touch in one point (branches), in two (dino) or nowhere.
    assert (owner == data.heldout.label).mean() > 0.99


def test_the_dinosaur_is_a_closed_outline():
    """Each piece begins where the one before it ends, and is as likely as it is long."""
    known = toy.MIXTURES["dino"]()
    values, vectors = np.linalg.eigh(known.covariances)
    assert (values[:, 1] > 3 * values[:, 0]).all()
    half = np.sqrt(values[:, 1:]) * vectors[:, :, 1]
    ends = np.stack([known.means - half, known.means + half], axis=1)
    gaps = np.linalg.norm(ends[:, :, None] - np.roll(ends, -1, axis=0)[:, None], axis=-1)
    np.testing.assert_allclose(gaps.min(axis=(1, 2)), 0, atol=1e-9)
    length = np.sqrt(values[:, 1])
    np.testing.assert_allclose(known.weights, length / length.sum(), atol=1e-12)
    assert (np.diff(known.component_class) == 1).sum() == 1


def test_sizes_types_and_streams():
    data = toy.load("ring", num_train=100, num_heldout=50, seed=3)
    assert data.train.x.shape == (100, 2)
    assert data.heldout.x.shape == (50, 2)
    assert (data.num_classes, data.class_names) == (4, ("0", "1", "2", "3"))
    assert not data.is_image
    again = toy.load("ring", num_train=20, num_heldout=50, seed=3)
    np.testing.assert_array_equal(data.heldout.x, again.heldout.x)
    assert not np.array_equal(data.train.x[:50], data.heldout.x)
    assert not np.array_equal(data.train.x, toy.load("ring", 100, 50, seed=4).train.x)


def test_default_is_large_enough_for_the_density_threshold():
    data = toy.load()
    assert (len(data.train), len(data.heldout)) == (65536, 8192)


def test_refuses():
    with pytest.raises(InputError, match="toy name is 'rings'; valid are ring, grid"):
        toy.load("rings")
    for field in ("num_train", "num_heldout"):
        with pytest.raises(InputError, match=f"{field} is 0; valid is 1 or more"):
            toy.load(**{field: 0})
    with pytest.raises(InputError, match="seed is -1"):
        toy.load(seed=-1)
