"""From a config to its parts."""

import collections
import dataclasses
import functools

import jax
import numpy as np
import pytest

from gmm_diffusion import assembly, conditioning
from gmm_diffusion.data import DATASETS, Dataset, Split, digits, faces, to_float
from gmm_diffusion.errors import InputError
from gmm_diffusion.model.fitted import to_arrays
from gmm_diffusion.sampling.parallel import picard
from gmm_diffusion.sampling.samplers import SAMPLERS


def same_statistics(left, right):
    (ours, our_settings), (theirs, their_settings) = to_arrays(left), to_arrays(right)
    assert our_settings == their_settings
    assert ours.keys() == theirs.keys()
    return all(np.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture
def toy(make_config):
    return make_config("toy")


@pytest.fixture
def tiny(make_config):
    return make_config("tiny")


def test_statistics_depend_on_the_seed_and_nothing_else(toy):
    data = assembly.dataset(toy)
    first = assembly.fit_statistics(toy, data)
    assert same_statistics(first, assembly.fit_statistics(toy, data))
    toy.training.seed = 1
    assert not same_statistics(first, assembly.fit_statistics(toy, data))


def test_parameters_depend_on_the_seed_and_nothing_else(toy):
    toy.conditioning.kind = "none"
    data = assembly.dataset(toy)
    fitted = assembly.fit_statistics(toy, data)
    first = assembly.init_params(toy, data.shape, fitted)
    assert first.keys() == {"network", "log_variance"}
    again = assembly.init_params(toy, data.shape, fitted)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, first, again)))
    toy.training.seed = 1
    other = assembly.init_params(toy, data.shape, fitted)
    weights = [
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True)
        if a.ndim
    ]
    assert weights
    assert not any(weights)


def test_sigma_data_is_measured_unless_given(tiny):
    tiny.conditioning.kind = "none"
    data = assembly.dataset(tiny)
    x = to_float(data.train.x).astype(np.float64)
    measured = assembly.fit_statistics(tiny, data)
    np.testing.assert_allclose(measured.transform.mean, x.mean(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(measured.sigma_data, x.std(), rtol=1e-5)
    assert measured.conditioner is None
    tiny.diffusion.sigma_data = 0.5
    assert assembly.fit_statistics(tiny, data).sigma_data == 0.5


def examples(*splits):
    """How often each example is there."""
    return collections.Counter(row.tobytes() for split in splits for row in split.x)


@pytest.mark.parametrize("name", DATASETS)
def test_no_example_is_in_two_splits(name, make_config, monkeypatch, tmp_path):
    config = make_config("toy" if name == "toy" else "tiny")
    if name not in ("digits", "toy", "faces"):
        # What needs files: how these are split is tested with them.
        monkeypatch.setitem(DATASETS, name, lambda **_: digits())
        place = tmp_path / "data"
        place.touch() if name == "cifar_archive" else place.mkdir()
        config.data.data_dir = str(place)
    if name == "faces":
        config.conditioning.kind = "attributes"
        config.data.resolution, config.data.num_train, config.data.num_heldout = 16, 400, 60
        config.data.held_out = ("Eyeglasses=1,Wearing_Hat=1",)
    config.data.name = name
    data = assembly.dataset(config)
    config.data.validation_fraction = 0.0
    before = assembly.dataset(config)
    assert before.validation is None
    # The test split stays as it was.
    np.testing.assert_array_equal(data.heldout.x, before.heldout.x)
    np.testing.assert_array_equal(data.heldout.label, before.heldout.label)
    if name in ("toy", "faces"):
        # Drawn, so that there are as many to train on as were asked for.
        np.testing.assert_array_equal(data.train.x, before.train.x)
        splits = (data.train, data.heldout, data.validation, data.unseen, data.judges_only)
        splits = [split for split in splits if split is not None]
        assert max(examples(*splits).values()) == 1
        assert len(data.validation) == config.data.num_heldout
    else:
        assert len(data.validation) == 144  # A tenth of 1,437, rounded up.
        assert examples(data.train, data.validation) == examples(before.train)
        shares = [np.bincount(s.label) / len(s) for s in (data.train, data.validation)]
        assert np.abs(shares[0] - shares[1]).max() < 0.01


def test_without_validation_digits_are_as_they_were(tiny):
    tiny.data.validation_fraction = 0.0
    data, source = assembly.dataset(tiny), digits()
    assert data.name == source.name == "digits"
    for ours, theirs in ((data.train, source.train), (data.heldout, source.heldout)):
        np.testing.assert_array_equal(ours.x, theirs.x)
        np.testing.assert_array_equal(ours.label, theirs.label)
    assert (len(data.train), len(data.heldout)) == (1437, 360)
    assert data.watched is data.heldout


def test_nothing_is_fitted_on_validation_or_test_data(tiny):
    data = assembly.dataset(tiny)
    made = assembly.fit_statistics(tiny, data)
    other = data.validation.take(np.arange(5))
    changed = dataclasses.replace(data, validation=other, heldout=other)
    assert same_statistics(made, assembly.fit_statistics(tiny, changed))


def test_components_of_a_class_lie_in_its_class(toy):
    toy.conditioning.num_components = 8
    toy.conditioning.covariance = "tied"
    data = assembly.dataset(toy)
    conditioner = assembly.fit_statistics(toy, data).conditioner
    np.testing.assert_array_equal(conditioner.component_class, np.repeat(np.arange(4), 2))
    # Tied within a class, so no longer tied when the classes are joined.
    assert conditioner.mixture.kind == "full"
    covariances = np.asarray(conditioner.mixture.covariances)
    np.testing.assert_array_equal(covariances[0], covariances[1])
    assert np.abs(covariances[1] - covariances[2]).max() > 1e-6
    share = np.bincount(data.train.label) / len(data.train)
    weights = np.asarray(conditioner.mixture.weights).reshape(4, 2).sum(axis=1)
    np.testing.assert_allclose(weights, share, atol=1e-3)
    # Every class of the ring has two clusters, opposite to each other.
    for c in range(4):
        assert np.linalg.norm(conditioner.mixture.means[2 * c : 2 * c + 2].sum(axis=0)) < 0.5


def test_mirror_images_count_where_training_mirrors(tiny):
    tiny.conditioning.kind = "class"
    data = assembly.dataset(tiny)
    fitted = assembly.fit_statistics(tiny, data)
    assert assembly.split_weights(tiny, fitted, data.heldout).shape == (1, len(data.heldout), 10)
    tiny.data.flip = True
    tiny.conditioning.bank_size = 10**6
    both = assembly.fit_statistics(tiny, data)
    assert len(both.conditioner.bank_labels) == 2 * len(data.train)
    weights = assembly.split_weights(tiny, both, data.heldout)
    assert weights.shape == (2, len(data.heldout), 10)
    for view in weights:
        np.testing.assert_array_equal(view, np.eye(10)[data.heldout.label])


def test_too_many_combinations_are_no_classes(make_config):
    config = make_config("tiny")
    config.conditioning.kind = "class"
    config.data.update(name="faces", num_train=60, num_heldout=5, resolution=16)
    shown = {tuple(row) for row in faces.draw_attributes(0, np.arange(60))}
    with pytest.raises(InputError, match=rf"60 training .* show {len(shown)} combinations of attr"):
        assembly.dataset(config)


def test_a_mixture_over_all_classes_needs_no_labels(toy, monkeypatch):
    labelled = assembly.dataset(toy)
    unlabelled = Dataset("points", Split(labelled.train.x), Split(labelled.heldout.x))
    monkeypatch.setitem(DATASETS, "toy", lambda **_: unlabelled)
    with pytest.raises(InputError, match=r"needs labels, and points.* has none"):
        assembly.dataset(toy)
    toy.conditioning.per_class = False
    conditioner = assembly.fit_statistics(toy, assembly.dataset(toy)).conditioner
    assert conditioner.num_classes == 0
    np.testing.assert_array_equal(conditioner.component_class, [-1] * 4)


def test_clusters_are_labels_within_a_class(toy):
    toy.conditioning.kind = "clusters"
    toy.conditioning.num_components = 8
    data = assembly.dataset(toy)
    made = assembly.fit_statistics(toy, data)
    conditioner = made.conditioner
    weights = assembly.split_weights(toy, made, data.heldout)[0]
    assert set(np.unique(weights)) == {0, 1}
    owner = np.asarray(conditioner.component_class)
    x = data.heldout.x - np.asarray(made.transform.mean)
    transform = conditioner.transform
    points = (x - np.asarray(transform.mean)) @ np.asarray(transform.directions)
    points = points * np.asarray(transform.scale)
    distances = np.linalg.norm(points[:, None] - np.asarray(conditioner.centers), axis=-1)
    distances[owner != data.heldout.label[:, None]] = np.inf
    np.testing.assert_array_equal(weights.argmax(axis=1), distances.argmin(axis=1))
    # Where a cluster lies stays unknown: the mixture is the one that classes have.
    laid = conditioning.lay_out(8)
    np.testing.assert_array_equal(conditioner.mixture.means, laid.means)


def test_the_sampler_gets_its_options(toy):
    toy.sample.churn, toy.sample.churn_min = 7.0, 0.1
    toy.sample.churn_max, toy.sample.churn_noise = 9.0, 1.01
    made = assembly.sampler(toy).sampler()
    assert isinstance(made, functools.partial)
    assert made.func is SAMPLERS["heun"]
    assert made.keywords == {
        "churn": 7.0,
        "churn_min": 0.1,
        "churn_max": 9.0,
        "churn_noise": 1.01,
    }
    toy.sample.sampler = "euler"
    assert assembly.sampler(toy).sampler().keywords == {}
    toy.sample.parallel_window, toy.sample.parallel_tolerance = 5, 0.2
    made = assembly.sampler(toy).sampler(0.7)
    assert made.func is picard
    expected = {"step": "euler", "window": 5, "tolerance": 0.2, "sigma_data": 0.7}
    assert made.keywords == expected | {"axis_name": None}


def test_the_optimiser_follows_the_schedule(toy):
    toy.optimizer.schedule, toy.optimizer.warmup_steps = "constant", 0
    toy.optimizer.learning_rate = 0.25
    for made in assembly.optimizer(toy).values():
        params = {"w": np.ones(3, np.float32)}
        updates, _ = made.update({"w": np.full(3, 1e-3, np.float32)}, made.init(params), params)
        # Adam's first step is the learning rate times the sign.
        np.testing.assert_allclose(updates["w"], -0.25, rtol=1e-4)


@pytest.mark.parametrize("name", ["tiny", "toy"])
def test_networks_compute_in_bfloat16_and_answer_in_float32(make_config, name):
    config = make_config(name)
    config.conditioning.kind = "class"
    config.network.dtype = "bfloat16"
    data = assembly.dataset(config)
    fitted = assembly.fit_statistics(config, data)
    params = jax.eval_shape(lambda: assembly.init_params(config, data.shape, fitted))
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))
    x = jax.ShapeDtypeStruct((3, *data.shape), np.float32)
    sigma = jax.ShapeDtypeStruct((3,), np.float32)
    weights = np.eye(data.num_classes, dtype=np.float32)[[0, 1, 1]]
    cond = jax.eval_shape(lambda: conditioning.encode(fitted.conditioner, weights))
    denoise = assembly.denoise(config, fitted)
    out = jax.eval_shape(denoise, params, x, sigma, cond)
    assert (out.shape, out.dtype) == (x.shape, np.float32)
    assert "bf16" in str(jax.make_jaxpr(denoise)(params, x, sigma, cond))
