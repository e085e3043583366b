"""Weights of examples and classes, and the semantics of the weights in training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gmm_diffusion.conditioning.weights import (
    SEMANTICS,
    label_restricted,
    mean_by_class,
    mixture_semantics,
    one_hot,
)
from gmm_diffusion.mixture import GaussianMixture

BASE = np.array([0.1, 0.25, 0.15, 0.05, 0.3, 0.15])
GROUP = np.array([0, 0, 1, 1, 1, 2])
# Each of the three spread families alone, and together, without and with single components; groups
# of several components, and of one.
FAMILIES = {
    "all": ((1.0, 0.0), GROUP, 0.0),
    "within": ((0.0, 1.0), GROUP, 0.0),
    "blend": ((0.0, 0.0), GROUP, 0.0),
    "together": ((0.4, 0.3), GROUP, 0.0),
    "singletons": ((0.4, 0.3), -1 - np.arange(6), 0.0),
    "blend_of_singletons": ((0.0, 0.0), -1 - np.arange(6), 0.0),
    "with_one_hot": ((0.4, 0.3), GROUP, 0.5),
    "singletons_with_one_hot": ((0.4, 0.3), -1 - np.arange(6), 0.5),
}
N = 40_000


@jax.jit
def _draw(keys, own, base, group, shares, one_hot_share):
    # Shares are traced, so that one compiled program serves every family.
    return mixture_semantics(keys, own, base, group, shares=shares, one_hot_share=one_hot_share)


def draw(own, shares, group, one_hot_share, *, base=BASE, **options):
    keys = jax.random.split(jax.random.key(1), len(own))
    own, base = jnp.asarray(own, jnp.float32), jnp.asarray(base, jnp.float32)
    run = jax.jit(functools.partial(mixture_semantics, **options)) if options else _draw
    shares = {"shares": shares, "one_hot_share": one_hot_share}
    return np.asarray(run(keys, own, base, jnp.asarray(group), **shares), np.float64)


@functools.cache
def drawn(family):
    """Components `k ~ base`, `[N]`, and the weights `[N, K]` drawn for them."""
    k = np.random.default_rng(list(family.encode())).choice(6, size=N, p=BASE)
    return k, draw(np.eye(6)[k], *FAMILIES[family])


def largest_z(residual, tests):
    """Largest |z| of the mean of `residual [N, K]` times each test function `[N, T]`."""
    products = (residual[:, :, None] * tests[:, None]).reshape(len(residual), -1)
    deviation = products.std(0)
    # A product that never varies must be zero throughout.
    assert np.all(np.abs(products.mean(0)[deviation < 1e-9]) < 1e-9)
    root = np.sqrt(len(products))
    # A sum that a few rare events make up is far from normal, so that its z says nothing.
    normal = np.abs(products).max(0) < 0.1 * root * deviation
    assert normal.sum() > 50
    return np.max(np.abs(products.mean(0)[normal]) / deviation[normal]) * root


def functions_of(w):
    """Functions that tell apart any dependence of the component on the weights."""
    return np.concatenate(
        [np.ones((len(w), 1)), w, w**2, (w > 0.2), (w > 0.5), (w > 0.8), w * w[:, ::-1]], axis=1
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_component_given_the_weights_has_those_probabilities(family):
    """`p(k | w) = w_k`: `1_k - w_k` is uncorrelated with every function of `w`."""
    k, w = drawn(family)
    np.testing.assert_allclose(w.sum(1), 1, atol=1e-5)
    assert w.min() >= 0
    assert largest_z(np.eye(6)[k] - w, functions_of(w)) < 5


@pytest.mark.parametrize("family", ["all", "blend"])
def test_calibration_by_frequencies(family):
    """The same, seen directly: among draws with `w_k` near p, component k has frequency p."""
    k, w = drawn(family)
    for j in (1, 4):
        for low in (0.1, 0.3, 0.5, 0.7, 0.9):
            inside = np.abs(w[:, j] - low) < 0.05
            count = inside.sum()
            assert count > 80
            hits = (k[inside] == j).mean()
            assert hits == pytest.approx(w[inside, j].mean(), abs=5 * np.sqrt(0.25 / count))


@pytest.mark.parametrize("family", FAMILIES)
def test_mean_of_the_weights_is_the_base(family):
    _, w = drawn(family)
    error = np.abs(w.mean(0) - BASE) / w.std(0) * np.sqrt(N)
    # The weights given k, averaged over k, are one draw of k and one of w: both are in the spread.
    assert error.max() < 5


@pytest.mark.parametrize("a", [3.0, 40.0])
def test_all_components_family_has_the_dirichlet_marginal(a):
    """With one concentration `w ~ Dirichlet(a base)`, whose margins are known betas."""
    k = drawn("all")[0][:20_000]
    w = draw(np.eye(6)[k], *FAMILIES["all"], concentration=(a, a))
    for j in range(6):
        law = stats.beta(a * BASE[j], a * (1 - BASE[j]))
        assert stats.kstest(w[:, j], law.cdf).pvalue > 1e-4


def test_single_components_come_in_their_share():
    """`w = e_k`, with the base as the prior of k; the rest is spread as without them."""
    k = drawn("all")[0]
    shares, group, _ = FAMILIES["all"]
    # So concentrated that no spread draw comes near a corner.
    w = draw(np.eye(6)[k], shares, group, 0.7, concentration=(60.0, 60.0))
    single = w.max(1) == 1
    assert single.mean() == pytest.approx(0.7, abs=5 * np.sqrt(0.7 * 0.3 / N))
    np.testing.assert_array_equal(w[single], np.eye(6)[k[single]])
    corners = w[single].sum(0)
    assert stats.chisquare(corners, BASE * single.sum()).pvalue > 1e-4
    for j in range(6):
        law = stats.beta(60 * BASE[j], 60 * (1 - BASE[j]))
        assert stats.kstest(w[~single, j], law.cdf).pvalue > 1e-4


def test_all_weights_may_be_single_components():
    k = drawn("all")[0][:2000]
    shares, group, _ = FAMILIES["together"]
    np.testing.assert_array_equal(draw(np.eye(6)[k], shares, group, 1.0), np.eye(6)[k])


def test_within_a_group_only_its_components_have_weight():
    k, w = drawn("within")
    outside = GROUP[None] != GROUP[k][:, None]
    assert np.all(w[outside] == 0)
    # A group of one component leaves nothing to draw.
    assert np.all(w[k == 5, 5] == 1)


def test_blend_covers_two_groups_in_every_proportion():
    _, w = drawn("blend")
    total = w @ np.eye(3)[GROUP]
    assert np.all((total > 1e-6).sum(1) <= 2)
    two = (total > 1e-6).sum(1) == 2
    # Groups of base 0.35, 0.5 and 0.15 meet another group with probability 1 - sum of squares.
    assert two.mean() == pytest.approx(1 - 0.35**2 - 0.5**2 - 0.15**2, abs=0.01)
    # A priori the share of either side is uniform.
    both = two & (total[:, 0] > 0) & (total[:, 1] > 0)
    assert stats.kstest(total[both, 0], "uniform").pvalue > 1e-4


def test_both_nearly_one_hot_and_spread_weights_are_drawn():
    largest = drawn("all")[1].max(1)
    assert (largest > 0.99).mean() > 0.1
    assert (largest < 0.5).mean() > 0.2


@pytest.mark.parametrize("concentration", [(1e-30, 1e-3), (1e6, 1e6)])
def test_extreme_concentrations_are_finite(concentration):
    k = drawn("all")[0][:2000]
    w = draw(np.eye(6)[k], *FAMILIES["all"], concentration=concentration)
    assert np.isfinite(w).all()
    np.testing.assert_allclose(w.sum(1), 1, atol=1e-5)
    if concentration[0] > 1:
        np.testing.assert_allclose(w, np.broadcast_to(BASE, w.shape), atol=0.01)
    else:
        assert np.mean(w[np.arange(2000), k] > 0.999) > 0.98


def test_a_base_that_is_hardly_there_is_finite():
    base = np.array([1e-8, 0.5, 0.1, 0.1, 0.1, 0.2])
    w = draw(np.eye(6)[np.arange(N) % 6], *FAMILIES["together"], base=base)
    assert np.isfinite(w).all()
    np.testing.assert_allclose(w.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("one_hot_share", [0.0, 0.5, 1.0])
def test_components_are_drawn_from_soft_responsibilities(one_hot_share):
    """`E[r_k | w] = sum_j w_j E[r_k | j]`, and for `r ~ Dirichlet(3 base)` the last is known."""
    r = np.random.default_rng(0).dirichlet(3.0 * BASE, N)
    shares, group, _ = FAMILIES["together"]
    w = draw(r, shares, group, one_hot_share)
    expected = (3.0 * BASE + w) / 4.0
    assert largest_z(r - expected, functions_of(w)) < 5
    # It is a component that is drawn: weights drawn around r itself would follow r more closely.
    assert largest_z(r - w, functions_of(w)) > 20


@pytest.mark.parametrize("name", SEMANTICS)
def test_semantics_belong_to_the_example(name):
    """A member of the table works under jit and gives an example the same at any place."""
    rng = np.random.default_rng(0)
    own = jnp.asarray(rng.dirichlet(np.ones(6), 8), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 8)
    run = jax.jit(SEMANTICS[name])
    base, group = jnp.asarray(BASE, jnp.float32), jnp.asarray(GROUP)
    whole = np.asarray(run(keys, own, base, group))
    assert whole.shape == (8, 6)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(run(keys[::-1], own[::-1], base, group), whole[::-1], atol=1e-6)
    np.testing.assert_allclose(whole.sum(1), 1, atol=1e-5)
    # A key decides, not a place in the batch.
    others = run(keys.at[0].set(keys[1]), own, base, group)
    np.testing.assert_allclose(others[1:], whole[1:], atol=1e-6)


def test_example_semantics_return_the_examples_own_weights():
    own = jnp.asarray(np.random.default_rng(0).dirichlet(np.ones(6), 8), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 8)
    np.testing.assert_array_equal(SEMANTICS["example"](keys, own, None, None), own)


def test_label_restricted_responsibilities():
    """Against SciPy in float64: Bayes' rule among the components of the own class."""
    rng = np.random.default_rng(0)
    weights, means = rng.dirichlet(np.ones(5)), rng.normal(size=(5, 3))
    variances = rng.uniform(0.3, 1.5, size=(5, 3))
    owner, x, labels = np.array([0, 1, 0, 1, 1]), rng.normal(size=(40, 3)), np.arange(40) % 2
    density = np.stack(
        [
            stats.multivariate_normal(m, np.diag(v)).pdf(x)
            for m, v in zip(means, variances, strict=True)
        ],
        axis=1,
    )
    joint = weights * density * (owner[None] == labels[:, None])
    expected = joint / joint.sum(1, keepdims=True)
    mix = GaussianMixture.create(weights, means, variances, "diag")
    actual = np.asarray(
        label_restricted(mix, jnp.asarray(x, jnp.float32), jnp.asarray(owner), jnp.asarray(labels))
    )
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    assert np.all(actual[owner[None] != labels[:, None]] == 0)


def test_label_restricted_far_from_its_own_class():
    """The restriction comes before the normalisation, so nothing underflows."""
    mix = GaussianMixture.create(
        np.full(3, 1 / 3), np.array([[0.0], [1000.0], [1001.0]]), np.full(3, 0.01), "spherical"
    )
    r = np.asarray(
        label_restricted(
            mix, jnp.asarray([[0.0], [0.0]]), jnp.asarray([0, 1, 1]), jnp.asarray([0, 1])
        )
    )
    assert r[0].tolist() == [1, 0, 0]
    np.testing.assert_allclose(r[1], [0, 1, 0], atol=1e-6)


def test_mean_by_class():
    weights = np.array([[1, 0, 0], [0, 1, 0], [0, 0.5, 0.5], [0.2, 0, 0.8]], np.float32)
    means = mean_by_class(weights, np.array([0, 1, 1, 2]), 3)
    np.testing.assert_allclose(means, [[1, 0, 0], [0, 0.75, 0.25], [0.2, 0, 0.8]], atol=1e-6)
    assert means.dtype == np.float32


def test_one_hot():
    rows = np.asarray(one_hot(jnp.asarray([2, 0]), 4))
    assert rows.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
