"""The order covers the data, depends on (seed, step) only, and the transform undoes itself."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmm_diffusion.data import batches, dataset
from gmm_diffusion.errors import InputError


@given(
    num=st.integers(1, 40),
    batch=st.integers(1, 60),
    seed=st.integers(0, 2**31),
    flip=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_every_epoch_holds_every_example_once(num, batch, seed, flip):
    steps = -(-3 * num // batch)
    index = np.concatenate([batches.indices(seed, s, batch, num, flip)[0] for s in range(steps)])
    for epoch in index[: 3 * num].reshape(3, num):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(num))


def test_order_depends_on_seed_and_epoch_not_on_batch_size():
    def stream(seed, batch, steps):
        parts = [batches.indices(seed, s, batch, 50, True) for s in range(steps)]
        return tuple(np.concatenate(p) for p in zip(*parts, strict=True))

    a, b = stream(0, 7, 20), stream(0, 20, 7)
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[1], b[1])
    assert not np.array_equal(a[0], stream(1, 7, 20)[0])
    assert not np.array_equal(a[0][:50], a[0][50:100])


def test_a_step_is_the_same_whatever_came_before():
    fresh = batches.indices(3, 11, 16, 100, True)
    for step in (0, 50, 2, 11):
        again = batches.indices(3, step, 16, 100, True)
    np.testing.assert_array_equal(fresh[0], again[0])
    np.testing.assert_array_equal(fresh[1], again[1])


def test_flips_leave_the_order_alone_and_are_fair():
    plain = batches.indices(0, 0, 4000, 4000)
    mirrored = batches.indices(0, 0, 4000, 4000, flip=True)
    np.testing.assert_array_equal(plain[0], mirrored[0])
    assert not plain[1].any()
    assert abs(mirrored[1].mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
    # Independent of the order: 4 standard errors of a correlation of nothing.
    assert abs(np.corrcoef(mirrored[0], mirrored[1])[0, 1]) < 4 / np.sqrt(4000)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((-1, 0, 4, 10), "seed is -1"),
        ((0, -1, 4, 10), "step is -1"),
        ((0, 0, 0, 10), "batch_size is 0"),
        ((0, 0, 4, 0), "num_examples is 0"),
    ],
)
def test_indices_refuses(args, message):
    with pytest.raises(InputError, match=message):
        batches.indices(*args)


def test_statistics_of_known_images(monkeypatch):
    monkeypatch.setattr(batches, "_CHUNK_VALUES", 100)  # several chunks
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (37, 4, 5, 3), dtype=np.uint8)
    transform, sigma_data = batches.fit_transform_stats(x)
    exact = x.astype(np.float64) / 127.5 - 1
    np.testing.assert_allclose(transform.mean, exact.mean(axis=(0, 1, 2)), atol=1e-6)
    assert transform.mean.dtype == np.float32
    centred = exact - exact.mean(axis=(0, 1, 2))
    assert abs(sigma_data - np.sqrt((centred**2).mean())) < 1e-6


def test_statistics_survive_a_large_offset():
    x = np.array([[1000.0], [1000.5]], np.float32)
    transform, sigma_data = batches.fit_transform_stats(x)
    assert transform.mean.item() == 1000.25
    assert sigma_data == 0.25


def test_statistics_refuse():
    with pytest.raises(InputError, match="standard deviation of 0"):
        batches.fit_transform_stats(np.full((5, 2), 3, np.float32))
    with pytest.raises(InputError, match="not finite"):
        batches.fit_transform_stats(np.array([[1.0], [np.inf]], np.float32))


@pytest.mark.parametrize("shape", [(6, 3), (6, 4, 4, 3)])
def test_transform_inverts_and_runs_under_jit(shape):
    x = np.random.default_rng(1).normal(2, 3, shape).astype(np.float32)
    transform = batches.Transform(mean=np.array([1.0, 2.0, -3.0], np.float32))
    centred = jax.jit(batches.apply)(transform, x)
    np.testing.assert_allclose(centred, x - transform.mean, atol=1e-6)
    np.testing.assert_allclose(batches.invert(transform, centred), x, atol=1e-5)


def test_make_batch_gathers_mirrors_and_centres():
    x = np.arange(3 * 2 * 2, dtype=np.uint8).reshape(3, 2, 2, 1) * 20
    transform = batches.Transform(mean=np.array([0.25], np.float32))
    batch = batches.make_batch(x, np.array([2, 0]), np.array([True, False]), transform)
    assert batch.dtype == np.float32
    expected = np.array([[[180, 160], [220, 200]], [[0, 20], [40, 60]]]) / 127.5 - 1 - 0.25
    np.testing.assert_allclose(batch[..., 0], expected, atol=1e-6)
    assert x[2, 0, 0, 0] == 160  # the data are not mirrored in place


def test_make_batch_of_digits_is_centred_with_sigma_data():
    from gmm_diffusion.data import digits

    train = digits().train
    transform, sigma_data = batches.fit_transform_stats(train.x)
    index, flipped = batches.indices(0, 0, len(train), len(train))
    batch = batches.make_batch(train.x, index, flipped, transform)
    assert abs(batch.mean()) < 1e-5
    assert abs(batch.std() - sigma_data) < 1e-5
    np.testing.assert_array_equal(
        dataset.to_uint8(batches.invert(transform, batch)), train.x[index]
    )


def test_make_batch_refuses_mirrored_vectors():
    transform = batches.Transform(mean=np.zeros(2, np.float32))
    with pytest.raises(InputError, match="flip is True"):
        batches.make_batch(np.zeros((3, 2), np.float32), np.array([0]), np.array([True]), transform)


@pytest.mark.parametrize("flip", [False, True])
def test_views_are_the_examples_and_behind_them_their_mirror_images(flip):
    x = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 3)).astype(np.uint8)
    transform = batches.Transform(np.array([0.1, -0.2, 0.3], np.float32))
    views = batches.Views(x, transform, flip)
    whole = x.astype(np.float64) / 127.5 - 1 - transform.mean
    if flip:
        whole = np.concatenate([whole, whole[:, :, ::-1]])
    assert views.shape == whole.shape
    assert len(views) == len(whole)
    rows = np.random.default_rng(1).permutation(len(whole))
    np.testing.assert_allclose(views[rows], whole[rows], atol=1e-6)
    assert views[rows].dtype == np.float32
