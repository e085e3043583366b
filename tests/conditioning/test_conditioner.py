"""The conditioner: what is kept of the training split, and the way from weights to a condition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion import conditioning
from gmm_diffusion.conditioning import EMBEDDINGS, SEMANTICS
from gmm_diffusion.conditioning.features import fit_raw
from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture import GaussianMixture

OWNER = np.array([0, 0, 1, 2, 2])
MEANS = np.array([[-4.0, 0.0], [-2.0, 0.0], [0.0, 3.0], [2.0, 0.0], [4.0, 0.0]])


def mix():
    return GaussianMixture.create(np.full(5, 0.2), MEANS, np.full((5, 2), 0.25), "diag")


def examples(n=300, seed=0):
    """Features and their classes; components unequally frequent."""
    rng = np.random.default_rng(seed)
    k = rng.choice(5, size=n, p=[0.1, 0.3, 0.2, 0.15, 0.25])
    return (MEANS[k] + 0.5 * rng.normal(size=(n, 2))).astype(np.float32), OWNER[k]


def identity():
    """A transform that leaves features as they are."""
    return fit_raw(np.array([[-1.0, -1.0], [1.0, 1.0]]))


@functools.cache
def conditioner(embedding="table", semantics="example", classes=True, bank_size=10_000):
    """A conditioner and the training weights `[300, 5]` that it was made of."""
    x, label = examples()
    owner = OWNER if classes else np.full(5, -1)
    label = label if classes else None
    weights = conditioning.example_weights(mix(), identity(), owner, x, label)
    return conditioning.create(
        mix(),
        identity(),
        owner,
        weights,
        label,
        3 if classes else 0,
        embedding_name=embedding,
        semantics=semantics,
        bank_size=bank_size,
        num_features=32,
        num_draws=6,
    ), weights


def bayes(x, allowed):
    """Responsibilities among the allowed components, in float64."""
    squared = ((np.asarray(x, np.float64)[:, None] - MEANS) ** 2).sum(-1) / 0.25
    joint = np.exp(-0.5 * (squared - squared.min(1, keepdims=True, where=allowed, initial=1e9)))
    joint = joint * allowed
    return joint / joint.sum(1, keepdims=True)


def test_example_weights_are_restricted_to_the_own_class():
    x, label = examples()
    actual = conditioning.example_weights(mix(), identity(), OWNER, x, label)
    np.testing.assert_allclose(actual, bayes(x, OWNER[None] == label[:, None]), atol=1e-4)


def test_example_weights_without_classes_are_plain_responsibilities():
    x, label = examples()
    actual = conditioning.example_weights(mix(), identity(), np.full(5, -1), x, None)
    expected = bayes(x, np.ones((len(x), 5), bool))
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    # Labels that no component belongs to change nothing.
    same = conditioning.example_weights(mix(), identity(), np.full(5, -1), x, label)
    np.testing.assert_array_equal(same, actual)


@pytest.mark.parametrize("block", [7, 300, 4096])
def test_example_weights_do_not_depend_on_the_block(block):
    x, label = examples()
    actual = conditioning.example_weights(mix(), identity(), OWNER, x, label, block=block)
    np.testing.assert_allclose(actual, bayes(x, OWNER[None] == label[:, None]), atol=1e-4)


@pytest.mark.parametrize("num_classes", [2, 10])
def test_laid_out_components_are_evenly_spread_and_apart(num_classes):
    laid = conditioning.lay_out(num_classes)
    means = np.asarray(laid.means)
    distance = np.linalg.norm(means[:, None] - means[None], axis=-1)
    off = distance[~np.eye(num_classes, dtype=bool)]
    np.testing.assert_allclose(off, off[0], rtol=1e-5)
    np.testing.assert_allclose(means.mean(0), 0, atol=1e-6)
    assert off[0] > 4 * np.sqrt(np.asarray(laid.covariances).max())


def test_base_and_classes_are_means_over_the_training_split():
    made, weights = conditioner()
    _, label = examples()
    np.testing.assert_allclose(made.base, weights.mean(0), atol=1e-6)
    for c in range(3):
        np.testing.assert_allclose(made.class_weights[c], weights[label == c].mean(0), atol=1e-6)
    # Restricted responsibilities: a class has weight on its own components only, and the classes
    # in their frequencies give the base back.
    assert np.all(np.asarray(made.class_weights)[OWNER[None] != np.arange(3)[:, None]] == 0)
    share = np.bincount(label) / len(label)
    np.testing.assert_allclose(share @ np.asarray(made.class_weights), made.base, atol=1e-5)
    assert (made.num_components, made.num_classes) == (5, 3)


def test_without_labels_there_are_no_classes():
    made, weights = conditioner(classes=False)
    assert made.num_classes == 0
    assert made.class_weights.shape == (0, 5)
    assert np.all(np.asarray(made.bank_labels) == -1)
    np.testing.assert_allclose(made.bank_weights, weights, atol=1e-6)


def test_a_component_that_no_example_uses_can_be_asked_for():
    weights = np.eye(5, dtype=np.float32)[np.arange(200) % 4]
    made = conditioning.create(
        mix(), identity(), np.full(5, -1), weights, None, 0,
        embedding_name="mean_embedding", semantics="example",
    )  # fmt: skip
    assert np.all(np.asarray(made.base) > 0)
    cond = conditioning.encode(made, jnp.eye(5))
    assert np.isfinite(np.asarray(cond.features)).all()


def test_bank_keeps_training_weights_with_their_labels():
    made, weights = conditioner(bank_size=40)
    _, label = examples()
    assert made.bank_weights.shape == (40, 5)
    rows = {(*row.tolist(), c) for row, c in zip(weights, label, strict=True)}
    kept = zip(np.asarray(made.bank_weights), np.asarray(made.bank_labels), strict=True)
    assert all((*row.tolist(), c) in rows for row, c in kept)


def test_a_small_bank_still_knows_every_class():
    """A class of few examples would otherwise be impossible to ask for."""
    label = np.zeros(1000, np.int32)
    label[[17, 423]], label[804] = 1, 2
    weights = np.eye(3, dtype=np.float32)[label]
    for bank_size in (1, 5):
        made = conditioning.create(
            conditioning.lay_out(3), None, np.arange(3), weights, label, 3,
            embedding_name="table", semantics="example", bank_size=bank_size,
        )  # fmt: skip
        assert set(np.asarray(made.bank_labels).tolist()) == {0, 1, 2}
        assert len(made.bank_labels) == max(bank_size, 3)


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_from_weights_to_a_condition_under_jit(embedding):
    made, weights = conditioner(embedding)
    own, keys = jnp.asarray(weights[:8]), jax.random.split(jax.random.key(0), 8)
    run = jax.jit(conditioning.encode)
    cond = run(made, own, keys)
    assert cond.features.shape == {
        "mean_embedding": (8, 32), "draws": (8, 6, 2), "table": (8, 5),
    }[embedding]  # fmt: skip
    assert cond.features.dtype == cond.keep.dtype == jnp.float32
    assert np.all(np.asarray(cond.keep) == 1)
    # The example owns its randomness.
    part = run(made, own[5:], keys[5:])
    np.testing.assert_allclose(part.features, cond.features[5:], atol=1e-3)


@functools.cache
def trained_on(semantics, classes=True):
    """A jitted draw of training weights: keys, example weights, options -> `[900, 5]`."""
    made, weights = conditioner(semantics=semantics, classes=classes)
    own = jnp.asarray(weights[np.arange(900) % 300])
    keys = jax.random.split(jax.random.key(9), 900)
    run = jax.jit(lambda *arrays, **options: conditioning.training_weights(*arrays, **options))
    return keys, own, functools.partial(run, made)


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_training_weights_are_drawn_for_each_example(semantics):
    keys, own, run = trained_on(semantics)
    w = np.asarray(run(keys, own))
    assert w.shape == own.shape
    np.testing.assert_allclose(w.sum(1), 1, atol=1e-5)
    # The example owns its randomness.
    np.testing.assert_allclose(run(keys[::-1], own[::-1]), w[::-1], atol=1e-6)
    assert (semantics == "example") == np.array_equal(w, np.asarray(own))


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_embedding_has_unit_rms_over_what_the_network_will_see(semantics):
    made, _ = conditioner("mean_embedding", semantics)
    keys, own, run = trained_on(semantics)
    features = np.asarray(conditioning.encode(made, run(keys, own)).features, np.float64)
    assert np.sqrt(np.mean(features**2)) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("classes", [True, False])
def test_groups_are_classes_or_single_components(classes):
    """The within-group family spreads over a class, and over nothing where there are none."""
    keys, own, run = trained_on("mixture", classes)
    w = np.asarray(run(keys, own, shares=(0.0, 1.0), one_hot_share=0.0))
    first = np.asarray(own)[:, :2].sum(1) > 0.999  # of class 0
    assert first.sum() > 200
    if classes:
        assert np.all(w[first][:, 2:] == 0)
        assert (w[first].max(1) > 0.9999).mean() < 0.7
    else:
        np.testing.assert_array_equal(np.sort(w, 1), np.tile([[0, 0, 0, 0, 1]], (900, 1)))


def test_made_again_it_is_the_same():
    """Nothing is refitted on resume, and nothing depends on anything but its arguments."""
    one, two = (conditioner.__wrapped__("mean_embedding")[0] for _ in range(2))
    assert jax.tree.all(jax.tree.map(np.array_equal, one, two))


def test_blurred_weights_lie_between_the_request_and_the_average():
    made, weights = conditioner("mean_embedding")
    w = jnp.asarray(weights[:4])
    np.testing.assert_array_equal(conditioning.blur_weights(made, w, 0.0), w)
    everything = np.asarray(conditioning.blur_weights(made, w, 1.0))
    np.testing.assert_allclose(everything, np.tile(weights.mean(0), (4, 1)), atol=1e-5)
    half = np.asarray(conditioning.blur_weights(made, w, 0.5))
    np.testing.assert_allclose(half, (np.asarray(w) + everything) / 2, atol=1e-6)
    np.testing.assert_allclose(half.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("embedding", ["mean_embedding", "draws"])
def test_blurred_covariances_change_what_the_network_reads(embedding):
    made, weights = conditioner(embedding)
    w, keys = jnp.asarray(weights[:8]), jax.random.split(jax.random.key(0), 8)
    sharp = conditioning.encode(made, w, keys).features
    wide = conditioning.encode(conditioning.blur_covariances(made, 1.0), w, keys).features
    assert wide.shape == sharp.shape
    assert np.abs(np.asarray(wide - sharp)).max() > 0.05


@pytest.mark.parametrize(
    ("scale", "columns", "message"),
    [
        (2.0, 5, "each row must add to 1"),
        (-1.0, 5, "must not be negative"),
        (1.0, 4, r"shape \(2, 4\); they must be \[B, 5\]"),
    ],
)
def test_only_mixture_weights_are_encoded(scale, columns, message):
    weights = scale * jnp.full((2, columns), 1 / columns)
    with pytest.raises(InputError, match=message):
        conditioning.encode(conditioner()[0], weights)
    if columns != 5:
        with pytest.raises(InputError, match=message):
            jax.jit(lambda w: conditioning.encode(conditioner()[0], w))(weights)
