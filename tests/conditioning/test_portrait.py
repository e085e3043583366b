"""What is said of a fitted mixture, against SciPy and scikit-learn."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.mixture import GaussianMixture as Sklearn

from gmm_diffusion.conditioning import FEATURES, KINDS, Fitted, features, portrait
from gmm_diffusion.conditioning.features import to_data
from gmm_diffusion.conditioning.kinds import Examples, Layout
from gmm_diffusion.mixture import GaussianMixture

SETTINGS = Fitted(4, features="raw", em_starts=2, per_class=False)


def clouds(num, seed=0):
    """`[num, 2]` of four round clouds, and `[num]` which half of the plane each is in."""
    rng = np.random.default_rng(seed)
    which = rng.integers(0, 4, num)
    x = 3 * np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)])[which] + rng.normal(size=(num, 2))
    return Examples(x.astype(np.float32), (which // 2).astype(np.int32), None, 2)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_nearest_is_by_mahalanobis_distance(kind, monkeypatch):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(101, 3)).astype(np.float32) * (1, 2, 3)
    transform = FEATURES["raw"](x)
    means, root = rng.normal(size=(5, 3)), rng.normal(size=(5, 3, 3))
    full = root @ np.swapaxes(root, 1, 2) + 0.1 * np.eye(3)
    covariances = {
        "full": full,
        "tied": full[0],
        "diag": rng.uniform(0.1, 4, (5, 3)),
        "spherical": rng.uniform(0.1, 4, 5),
    }[kind]
    mix = GaussianMixture.create(np.full(5, 0.2), means, covariances, kind)
    # Blocks that do not divide 101.
    monkeypatch.setattr(portrait, "_BLOCK_VALUES", 15 * 7)
    layout = Layout(mix, np.full(5, -1), transform)
    rows = portrait.nearest(layout, Examples(x), 101, 6)
    z = np.asarray(features(transform, x))
    for k in range(5):
        own = {
            "full": lambda k=k: full[k],
            "tied": lambda: full[0],
            "diag": lambda k=k: np.diag(covariances[k]),
            "spherical": lambda k=k: covariances[k] * np.eye(3),
        }[kind]()
        distance = cdist(z, means[k : k + 1], "mahalanobis", VI=np.linalg.inv(own))[:, 0]
        np.testing.assert_array_equal(rows[k], np.argsort(distance)[:6])


def test_nearest_of_a_class_and_of_clusters():
    examples = clouds(40)
    settings = dataclasses.replace(SETTINGS, per_class=True)
    layout = KINDS["gmm"].fit(examples, settings, 0)
    few = int(np.sum(examples.label == 0))
    rows = portrait.nearest(layout, examples, 40, few + 2)
    assert rows[layout.component_class == 0].min(axis=1).tolist() == [-1, -1]
    for own, owner in zip(rows, layout.component_class, strict=True):
        real = own[own >= 0]
        assert np.all(examples.label[real] == owner)
        assert len(np.unique(real)) == len(real)
    clusters = KINDS["clusters"].fit(examples, SETTINGS, 0)
    z = np.asarray(features(clusters.transform, examples.x))
    expected = np.argsort(cdist(clusters.centers, z), axis=1)[:, :3]
    np.testing.assert_array_equal(portrait.nearest(clusters, examples, 40, 3), expected)


def test_entropy_is_that_of_scipy():
    weights = np.random.default_rng(0).dirichlet(np.full(5, 0.2), 50).astype(np.float32)
    weights[0], weights[1] = np.eye(5)[2], 0.2
    found = portrait.entropies(weights)
    np.testing.assert_allclose(found, stats.entropy(weights, axis=1), atol=1e-5)
    np.testing.assert_allclose(found[:2], [0, np.log(5)], atol=1e-6)


def test_the_curve_is_that_of_scikit_learn_and_finds_the_true_number():
    ticks = []
    train, unseen = clouds(800), clouds(300, seed=1)
    curve = portrait.likelihood_curve(
        train, unseen, SETTINGS, 0, [8, 1, 4], lambda: ticks.append(1)
    )
    assert curve.num_components == (1, 4, 8)
    assert len(ticks) == 3
    mean, std = train.x.mean(axis=0), train.x.std(axis=0)
    z, others = (train.x - mean) / std, (unseen.x - mean) / std
    for i, num in enumerate((1, 4)):
        fit = Sklearn(num, covariance_type="diag", n_init=3, random_state=0).fit(z)
        assert curve.fitted[i] == pytest.approx(fit.score(z), abs=0.01)
        assert curve.unseen[i] == pytest.approx(fit.score(others), abs=0.01)
        if num == 1:
            one = fit.score_samples(others)
        else:
            four = fit.score_samples(others)
    assert curve.smallest == 4
    best = curve.num_components.index(curve.best)
    assert (curve.behind[best], curve.error[best]) == (0, 0)
    lower = four - one
    assert curve.behind[0] - curve.behind[1] == pytest.approx(lower.mean(), abs=0.02)
    if curve.best == 4:
        assert curve.error[0] == pytest.approx(lower.std(ddof=1) / np.sqrt(300), rel=0.05)


def test_the_curve_of_classes_is_given_the_class():
    train, unseen = clouds(800), clouds(300, seed=1)
    settings = dataclasses.replace(SETTINGS, per_class=True)
    curve = portrait.likelihood_curve(train, unseen, settings, 0, [2], lambda: None)
    mean, std = train.x.mean(axis=0), train.x.std(axis=0)
    found = np.zeros(300)
    for label in (0, 1):
        own = Sklearn(1, covariance_type="diag").fit(((train.x - mean) / std)[train.label == label])
        rows = unseen.label == label
        found[rows] = own.score_samples(((unseen.x - mean) / std)[rows])
    assert curve.unseen[0] == pytest.approx(found.mean(), abs=0.01)
    assert (curve.best, curve.smallest) == (2, 2)


@pytest.mark.parametrize("name", ["pca", "raw"])
def test_features_lead_back_to_data(name):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(200, 2)) @ rng.normal(size=(2, 6)) + 3).astype(np.float32)
    x[:, 4] = 1.5
    transform = FEATURES[name](x, 2)
    np.testing.assert_allclose(to_data(transform, features(transform, x)), x, atol=1e-4)
    with pytest.raises(ValueError, match="only features of 'data' have an inverse"):
        to_data(FEATURES["own"](x), np.zeros((1, 6)))
