"""The train step: one law on any number of devices, whatever is masked, skipped or switched off."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from gmm_diffusion import assembly, devices
from gmm_diffusion.data import batches
from gmm_diffusion.errors import InputError
from gmm_diffusion.training import state, step
from gmm_diffusion.types import Batch

KEY = jax.random.key(5)


class Parts:
    """What a step needs, from a config."""

    def __init__(self, config):
        self.config = config
        self.data = assembly.dataset(config)
        self.fitted = assembly.fit_statistics(config, self.data)
        self.step = assembly.train_step_fn(config, self.fitted)
        self.weights = assembly.split_weights(config, self.fitted, self.data.train)

    def state(self):
        config = self.config
        params = assembly.init_params(config, self.data.shape, self.fitted)
        widths = config.training.ema_widths
        return state.create(params, assembly.optimizer(config), len(widths))

    def batch(self, number, size=16, padding=0):
        """The data of one step, the last `padding` examples of it masked."""
        total, flip = len(self.data.train), self.config.data.flip
        index, flipped = batches.indices(0, number, size, total, flip)
        return Batch(
            x=batches.make_batch(self.data.train.x, index, flipped, self.fitted.transform),
            index=np.arange(size, dtype=np.int32),
            mask=(np.arange(size) < size - padding).astype(np.float32),
            weights=None if self.weights is None else self.weights[flipped.astype(int), index],
        )


def toy_config(make_config):
    """Mixture conditioning with every use of randomness switched on."""
    config = make_config("toy")
    config.conditioning.dropout = 0.3
    config.network.dropout = 0.2
    return config


def image_config(make_config):
    """Mirrored images under class conditioning."""
    config = make_config("tiny")
    config.data.flip = True
    config.conditioning.kind = "class"
    config.conditioning.embedding = "table"
    config.network.dropout = 0.2
    return config


@pytest.fixture(scope="module")
def toy(make_config):
    return Parts(toy_config(make_config))


@pytest.fixture(scope="module")
def toy_step(toy):
    return jax.jit(toy.step)


@pytest.fixture(scope="module")
def image(make_config):
    return Parts(image_config(make_config))


def same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def largest_difference(left, right):
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return max(float(np.max(np.abs(np.asarray(a, np.float64) - b))) for a, b in pairs)


@pytest.fixture(scope="module", params=["toy", "image"])
def five_steps(request):
    """The start, and what one and four devices make of it: `[(state, metrics), ...]`."""
    parts = request.getfixturevalue(request.param)
    # The padding falls on the last of four devices, which then counts less than the others.
    stacked = jax.tree.map(
        lambda *leaves: np.stack(leaves), *[parts.batch(i, padding=3) for i in range(5)]
    )
    sparing = parts.config.copy_and_resolve_references()
    # Of the 8 examples of the second device, the last 3 are padding.
    sparing.training.microbatch = 4
    sparing.training.rematerialize = True
    sparing_step = assembly.train_step_fn(sparing, parts.fitted)
    start = parts.state()
    ends = []
    for train_step, count in ((parts.step, 1), (parts.step, 4), (sparing_step, 2)):
        run = devices.make_train_steps(train_step, count)
        end, metrics = run(devices.replicate(start, count), stacked, KEY)
        ends.append((end, jax.device_get(metrics)))
    return jax.device_get(start), ends


def test_numbers_of_devices_and_ways_to_save_memory_agree(five_steps):
    start, ends = five_steps
    (one, one_metrics), *others = [(devices.unreplicate(end), metrics) for end, metrics in ends]
    for other, metrics in others:
        assert one.step == other.step == 5
        assert one.nonfinite == other.nonfinite == 0
        assert largest_difference(one.params, other.params) < 1e-5
        assert largest_difference(one.ema, other.ema) < 1e-5
        assert metrics.keys() == one_metrics.keys()
        for name in metrics:
            np.testing.assert_allclose(metrics[name], one_metrics[name], rtol=1e-5, atol=1e-5)
    # They agree because they learn the same, not because nothing is learned.
    assert largest_difference(one.params, start.params) > 1e-3


def test_replicas_are_equal(five_steps):
    _, ((_, _), (four, _), _) = five_steps
    for leaf in jax.tree.leaves((four.params, four.ema, four.opt_state)):
        copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(copies) == 4
        for copy in copies[1:]:
            np.testing.assert_array_equal(copy, copies[0])


def test_weights_keep_unit_rms(five_steps):
    _, ((one, _), *_) = five_steps
    checked = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(devices.unreplicate(one.params)):
        if path[-1].key == "weight":
            rms = np.sqrt(np.mean(leaf.astype(np.float64) ** 2, axis=tuple(range(leaf.ndim - 1))))
            np.testing.assert_allclose(rms, 1.0, atol=5e-4)
            checked += 1
    assert checked >= 6


def norm(tree):
    return np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in jax.tree.leaves(tree)))


def test_norms_are_those_of_the_gradient_by_module_and_of_the_parameters(toy, toy_step):
    # The first step moves the gains that are zero at the start; weights keep their norms.
    start, _ = toy_step(toy.state(), toy.batch(0), KEY)
    network = start.params["network"] | {"out_gain": jnp.float32(3)}
    start = start.replace(params=start.params | {"network": network})
    batch = toy.batch(1)
    after, metrics = toy_step(start, batch, KEY)
    loss_fn = assembly.loss_fn(toy.config, toy.fitted)
    step_key = jax.random.fold_in(KEY, 1)
    keys = jax.vmap(lambda i: jax.random.fold_in(step_key, i))(batch.index)
    mean_gradient = jax.jit(jax.grad(lambda params: loss_fn(params, batch, keys)[0].mean()))
    gradient = jax.device_get(mean_gradient(start.params))
    by_module = {
        f"gradient_norm/{part}/{module}": norm(leaves)
        for part, modules in gradient.items()
        for module, leaves in modules.items()
    }
    found = {name: value for name, value in metrics.items() if name.startswith("gradient_norm/")}
    assert found == pytest.approx(by_module, rel=1e-4)
    assert {f"gradient_norm/network/{name}" for name in ("embed", "linear_in", "block_0")} < set(
        found
    )
    assert metrics["gradient_norm"] == pytest.approx(norm(gradient), rel=1e-4)
    assert metrics["parameter_norm"] == pytest.approx(norm(after.params), rel=1e-6)
    assert metrics["parameter_norm"] != pytest.approx(norm(start.params), rel=1e-6)


def test_a_microbatch_that_does_not_divide_the_batch_is_refused(toy):
    sparing = functools.partial(toy.step, microbatch=5)
    message = r"training\.microbatch is 5; it must divide the 16 examples of a device\."
    with pytest.raises(InputError, match=message):
        jax.eval_shape(sparing, toy.state(), toy.batch(0), KEY)


def test_a_masked_example_has_no_influence(toy, toy_step):
    start = toy.state()
    # Two steps: the first moves the gain that is zero at the start.
    start, _ = toy_step(start, toy.batch(0), KEY)
    padded = toy.batch(1, padding=5)
    garbage = padded.replace(x=np.where(padded.mask[:, None] > 0, padded.x, 100.0))
    shorter = jax.tree.map(lambda leaf: leaf[:11], padded)
    with_zeros, zeros_metrics = toy_step(start, padded, KEY)
    with_garbage, garbage_metrics = toy_step(start, garbage, KEY)
    same((with_zeros, zeros_metrics), (with_garbage, garbage_metrics))
    without, metrics = toy_step(start, shorter, KEY)
    assert largest_difference(with_zeros.params, without.params) < 1e-6
    np.testing.assert_allclose(zeros_metrics["loss"], metrics["loss"], rtol=1e-5)
    whole, _ = toy_step(start, toy.batch(1), KEY)
    assert largest_difference(with_zeros.params, whole.params) > 1e-4


def test_an_example_keeps_its_randomness_wherever_it_stands(toy, toy_step):
    start, _ = toy_step(toy.state(), toy.batch(0), KEY)
    batch = toy.batch(1)
    shuffled = jax.tree.map(lambda leaf: leaf[::-1], batch)
    there, _ = toy_step(start, batch, KEY)
    back, _ = toy_step(start, shuffled, KEY)
    assert largest_difference(there.params, back.params) < 1e-6
    renumbered, _ = toy_step(start, batch.replace(index=batch.index + 1), KEY)
    assert largest_difference(there.params, renumbered.params) > 1e-4


@pytest.mark.parametrize(
    "change",
    [
        {"conditioning.dropout": 0.0},
        {"network.dropout": 0.0},
        {"conditioning.kind": "none"},
        {"conditioning.semantics": "example"},
        {"conditioning.embedding": "draws"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_feature_switched_off_leaves_the_noise_as_it_was(make_config, toy, change):
    # The network's output is zero at the start, so that the loss shows noise and sigma alone.
    config = toy_config(make_config)
    config.update_from_flattened_dict(change)
    other = Parts(config)
    batch = toy.batch(0)
    _, ours = jax.jit(toy.step)(toy.state(), batch, KEY)
    _, theirs = jax.jit(other.step)(other.state(), other.batch(0), KEY)
    assert ours["denoising_loss"] == theirs["denoising_loss"]
    _, later = jax.jit(toy.step)(toy.state().replace(step=jnp.int32(1)), batch, KEY)
    assert ours["denoising_loss"] != later["denoising_loss"]


def test_a_batch_that_is_not_finite_changes_nothing(toy, toy_step):
    start, _ = toy_step(toy.state(), toy.batch(0), KEY)
    broken = toy.batch(1)
    broken.x[3, 0] = np.nan
    after, metrics = toy_step(start, broken, KEY)
    same((after.params, after.ema, after.opt_state), (start.params, start.ema, start.opt_state))
    assert (after.step, after.nonfinite, after.nonfinite_in_a_row) == (2, 1, 1)
    assert (metrics["nonfinite"], metrics["nonfinite_in_a_row"]) == (1, 1)
    again, _ = toy_step(after, broken, KEY)
    assert (again.nonfinite, again.nonfinite_in_a_row) == (2, 2)
    recovered, metrics = toy_step(again, toy.batch(3), KEY)
    assert (recovered.step, recovered.nonfinite, recovered.nonfinite_in_a_row) == (4, 2, 0)
    assert np.isfinite(metrics["loss"])
    assert largest_difference(recovered.params, start.params) > 1e-4


def test_a_gradient_that_is_not_finite_counts_though_the_loss_is(toy):
    def loss_fn(params, batch, keys):
        # The derivative of a root at 0 is infinite.
        return jnp.sqrt(params["network"]["w"] * jnp.ones(len(batch.x))), {}

    params = {"network": {"w": jnp.zeros(())}}
    optimizer = {"network": assembly.optimizer(toy.config)["network"]}
    start = state.create(params, optimizer, 2)
    after, metrics = step.train_step(start, toy.batch(0), KEY, loss_fn=loss_fn, optimizer=optimizer)
    assert metrics["loss"] == 0
    assert (after.nonfinite, after.params["network"]["w"]) == (1, 0)


def test_averages_follow_the_power_function(toy, toy_step):
    now, history = toy.state(), []
    for i in range(6):
        now, _ = toy_step(now, toy.batch(i), KEY)
        history.append(jax.device_get(now.params))
    for width, average in zip(toy.config.training.ema_widths, now.ema, strict=True):
        # Karras et al. 2023, eq. 126 and 127: the width in terms of the exponent, inverted.
        gamma = scipy.optimize.brentq(
            lambda g, width=width: (g + 1) / ((g + 2) ** 2 * (g + 3)) - width**2, 0.5, 1e4
        )
        expected = jax.tree.map(lambda leaf: np.zeros(leaf.shape), history[0])
        for t, params in enumerate(history, start=1):
            decay = (1 - 1 / t) ** (gamma + 1)
            expected = jax.tree.map(lambda e, p, d=decay: d * e + (1 - d) * p, expected, params)
        assert largest_difference(average, expected) < 1e-6
        assert largest_difference(average, now.params) > 1e-5


def test_every_convolution_in_a_loop_has_the_forward_layout(image):
    # XLA on CPU runs others tens of times slower inside a loop, so a step of several updates would
    # be slower than the updates one by one (jax-ml/jax#12868).
    if jax.default_backend() != "cpu":
        pytest.skip("other platforms keep XLA's own gradients")

    loss_fn = assembly.loss_fn(image.config, image.fitted)
    batch, keys = image.batch(0), jax.random.split(KEY, 16)

    def steps(params):
        def body(params, _):
            gradient = jax.grad(lambda p: loss_fn(p, batch, keys)[0].sum())(params)
            return jax.tree.map(jnp.subtract, params, gradient), None

        return jax.lax.scan(body, params, length=2)

    # What XLA runs, since it may fold transpositions into a convolution that was written well.
    text = jax.jit(steps).lower(image.state().params).compile().as_text()
    layouts = re.findall(r" convolution\(.*dim_labels=(\S+?)[,\s]", text)
    assert len(layouts) > 10
    assert set(layouts) == {"b01f_01io->b01f"}
