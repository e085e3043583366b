"""What fits the mixture of `gmm` and what an example weighs in it, against other code."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
from scipy.special import softmax
from sklearn.cluster import KMeans

from gmm_diffusion import assembly
from gmm_diffusion.conditioning import KINDS, Fitted, features
from gmm_diffusion.conditioning.kinds import Examples
from gmm_diffusion.errors import InputError
from gmm_diffusion.model.fitted import from_arrays, other_mixture, to_arrays

GMM = KINDS["gmm"]
SETTINGS = Fitted(12, feature_dim=3, em_starts=2, em_iterations=30)
SEED = 5


def examples(num=900):
    """Three classes of four clouds each, which overlap."""
    rng = np.random.default_rng(1)
    label = (np.arange(num) % 3).astype(np.int32)
    place = rng.normal(size=(3, 4, 5))[label, rng.integers(0, 4, num)]
    x = place + 0.4 * rng.normal(size=(num, 5)) * np.linspace(0.5, 2, 5)
    return Examples(x.astype(np.float32), label, None, 3)


def made(**changes):
    settings = dataclasses.replace(SETTINGS, **changes)
    layout = GMM.fit(examples(), settings, SEED)
    return layout, GMM.weigh(layout, examples())


def points(layout):
    return np.asarray(features(layout.transform, examples().x), np.float64)


def their_k_means(z, per_class):
    """Centres, cluster of each point, and the mean square of an entry about its centre."""
    label = examples().label if per_class else np.zeros(len(z), int)
    each = 12 // (label.max() + 1)
    centers, cluster = [], np.empty(len(z), int)
    for c in range(label.max() + 1):
        own = z[label == c].astype(np.float32)
        fit = KMeans(each, n_init=2, random_state=SEED).fit(own)
        centers.append(fit.cluster_centers_)
        cluster[label == c] = c * each + fit.predict(own)
    centers = np.concatenate(centers)
    return centers, cluster, np.mean((z - centers[cluster]) ** 2)


@pytest.mark.parametrize("per_class", [True, False])
def test_k_means_is_a_mixture_of_equal_spheres(per_class):
    layout, soft = made(fit="k_means", per_class=per_class)
    z = points(layout)
    centers, cluster, variance = their_k_means(z, per_class)
    mix = layout.mixture
    assert mix.kind == "spherical"
    np.testing.assert_allclose(mix.means, centers, atol=1e-4)
    np.testing.assert_allclose(mix.weights, 1 / 12, rtol=1e-5)
    np.testing.assert_allclose(mix.variances, variance, rtol=1e-4)
    owner = np.repeat(np.arange(3), 4) if per_class else np.full(12, -1)
    np.testing.assert_array_equal(layout.component_class, owner)
    # Bayes' rule for equal spheres.
    squares = ((z[:, None] - centers) ** 2).sum(axis=2)
    if per_class:
        squares[owner != examples().label[:, None]] = np.inf
    np.testing.assert_allclose(soft, softmax(-squares / (2 * variance), axis=1), atol=2e-3)
    assert np.mean(soft.max(axis=1) < 0.9) > 0.1
    hard = made(fit="k_means", responsibilities="hard", per_class=per_class)[1]
    np.testing.assert_array_equal(hard, np.eye(12)[cluster])


def test_hard_k_means_are_the_labels_of_clusters():
    clusters = KINDS["clusters"]
    labels = clusters.weigh(clusters.fit(examples(), SETTINGS, SEED), examples())
    hard = made(fit="k_means", responsibilities="hard")[1]
    np.testing.assert_array_equal(hard, labels)


def test_the_variance_has_a_floor():
    # As many points as components, so that nothing is left about the centres.
    own = Examples(np.arange(24, dtype=np.float32).reshape(12, 2) ** 2)
    settings = dataclasses.replace(
        SETTINGS, fit="k_means", per_class=False, features="raw", covariance_floor=0.01
    )
    layout = GMM.fit(own, settings, 0)
    # Features have a variance of 1.
    np.testing.assert_allclose(layout.mixture.variances, 0.01, rtol=1e-4)
    with pytest.raises(InputError, match=r"num_components is 12, .* has 11 examples for its 12"):
        GMM.fit(Examples(own.x[:11]), settings, 0)
    by_em = dataclasses.replace(settings, fit="em")
    with pytest.raises(InputError, match="the data has 11 examples for its 12 components"):
        GMM.fit(Examples(own.x[:11]), by_em, 0)


def test_hard_is_one_hot_in_the_largest():
    layout, hard = made(responsibilities="hard")
    z, mix, label = points(layout), layout.mixture, examples().label
    logs = np.stack(
        [
            np.log(weight) + scipy.stats.norm(mean, np.sqrt(variance)).logpdf(z).sum(axis=1)
            for weight, mean, variance in zip(
                *(np.asarray(a, np.float64) for a in (mix.weights, mix.means, mix.variances)),
                strict=True,
            )
        ],
        axis=1,
    )
    logs[layout.component_class != label[:, None]] = -np.inf
    np.testing.assert_array_equal(hard, np.eye(12)[logs.argmax(axis=1)])
    soft = made()[1]
    np.testing.assert_allclose(soft, softmax(logs, axis=1), atol=2e-3)
    assert not np.array_equal(soft, hard)


@pytest.mark.parametrize("per_class", [True, False])
def test_a_random_partition_knows_the_class_and_nothing_else(per_class):
    layout, drawn = made(responsibilities="random", per_class=per_class)
    label, component = examples().label, drawn.argmax(axis=1)
    np.testing.assert_array_equal(drawn, np.eye(12)[component])
    each = 4 if per_class else 12
    if per_class:
        np.testing.assert_array_equal(component // 4, label)
    for c in range(12 // each):
        counts = np.bincount(component[component // each == c] - each * c, minlength=each)
        assert scipy.stats.chisquare(counts).pvalue > 1e-3
    # Of where an example lies the component says nothing; of k-means it says all.
    place = points(layout)[:, 0] > np.median(points(layout)[:, 0])
    own = component % each
    table = scipy.stats.contingency.crosstab(own, place).count
    assert scipy.stats.chi2_contingency(table).pvalue > 1e-3


def test_a_random_partition_is_of_the_example_and_the_seed():
    layout, drawn = made(responsibilities="random")
    own = examples()
    rows = np.random.default_rng(0).permutation(len(own.x))[:100]
    some = GMM.weigh(layout, Examples(own.x[rows], own.label[rows], None, 3))
    np.testing.assert_array_equal(some, drawn[rows])
    other = GMM.fit(own, dataclasses.replace(SETTINGS, responsibilities="random"), SEED + 1)
    # Equal by chance for one in four.
    same = np.mean(GMM.weigh(other, own).argmax(axis=1) == drawn.argmax(axis=1))
    assert same == pytest.approx(0.25, abs=0.06)


CORNERS = [
    (fit, how, embedding)
    for fit in ("em", "k_means")
    for how in ("soft", "hard", "random")
    for embedding in ("table", "mean_embedding")
]


@pytest.mark.parametrize(("fit", "how", "embedding"), CORNERS)
def test_every_corner_is_stored_and_asked(fit, how, embedding, make_config):
    config = make_config("toy")
    config.conditioning.update(fit=fit, responsibilities=how, embedding=embedding)
    config.conditioning.update(num_components=16, em_starts=1)
    config.training.seed = 3
    data = assembly.dataset(config)
    fitted, weights = assembly.conditioners.fit_with_weights(config, data)
    again = from_arrays(*to_arrays(fitted))
    assert again.conditioner.responsibilities == how
    # As a resumed run makes them.
    np.testing.assert_array_equal(assembly.split_weights(config, again, data.train), weights)
    one_hot = set(np.unique(weights)) == {0, 1}
    assert one_hot == (how != "soft")
    model = assembly.model(config, data.shape, again, {})
    asked = model.request("class:2", 40)
    owner = np.asarray(again.conditioner.component_class)
    np.testing.assert_allclose(asked.weights[:, owner == 2].sum(axis=1), 1, atol=1e-5)
    features = np.asarray(model.condition("class:2", 40).features)
    assert np.isfinite(features).all()
    if how == "soft":
        return
    # A class asks for no more than its components, and each is one condition.
    assert 1 < len(np.unique(features.round(4), axis=0)) <= 4
    if how == "random":
        with pytest.raises(InputError, match="responsibilities is 'random', so that weights say"):
            model.weights(data.heldout.x[:3])
        return
    found = model.weights(data.heldout.x[:50])
    np.testing.assert_array_equal(found, np.eye(16)[found.argmax(axis=1)])


def test_models_that_mean_other_things_by_a_weight(make_config):
    def conditioner(how, seed=0):
        config = make_config("toy")
        config.conditioning.update(responsibilities=how, em_starts=1)
        config.training.seed = seed
        return assembly.fit_statistics(config, assembly.dataset(config)).conditioner

    soft, hard, drawn = map(conditioner, ("soft", "hard", "random"))
    assert other_mixture(soft, hard) == "hard responsibilities where this run has soft"
    at_random = "examples in other components, drawn at random"
    assert other_mixture(soft, drawn, reads=False) == at_random
    assert other_mixture(drawn, drawn.replace(partition_seed=1)) == at_random
    assert other_mixture(drawn, conditioner("random")) == ""
