"""The U-Net: magnitudes at initialisation, independence of examples, what a condition does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion.networks import MLP, UNet
from gmm_diffusion.networks.initialisation import initialise
from gmm_diffusion.networks.unet import Block, SelfAttention, downsample, upsample
from gmm_diffusion.types import Condition

SMALL = UNet(8, (1, 2), 1, attention_resolutions=(4,), head_channels=8)
SHAPE = (8, 8, 2)
# One batch size, so that each form of condition is compiled once.
BATCH = 6
ORDER = np.array([3, 0, 5, 1, 4, 2])
# Without a second resolution, where a gradient or a generator is compiled for every block.
FLAT = UNet(8, (1,), 1, attention_resolutions=(8,), head_channels=8)


def rms(x):
    return float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64)))))


def unit_normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def with_gains(params, value):
    """Every zero-initialised gain set to `value`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if path[-1].key == "weight" else jnp.full_like(leaf, value), params
    )


def condition(batch, form, seed=0):
    """Features of each shape that `conditioning.encode` makes, `keep` mixed."""
    features = {
        "vector": unit_normal(batch, 12, seed=seed),
        "draws": unit_normal(batch, 5, 3, seed=seed),
        "weights": jnp.asarray(
            2.0 * np.random.default_rng(seed).dirichlet(np.ones(4), batch), jnp.float32
        ),
    }[form]
    return Condition(features, jnp.asarray(np.arange(batch) % 3 != 2, jnp.float32))


FORMS = ("vector", "draws", "weights")


@functools.cache
def small(form):
    """Parameters and a jitted apply for one form of condition (None for no condition)."""
    cond = None if form is None else condition(1, form)
    params = initialise(lambda key: SMALL.init(key, jnp.zeros((1, *SHAPE)), jnp.zeros(1), cond), 0)
    return params, jax.jit(lambda params, *args: SMALL.apply({"params": params}, *args))


def inputs(batch=BATCH):
    return unit_normal(batch, *SHAPE, seed=1), jnp.linspace(-1.5, 1.0, batch)


BLOCKS = {
    "encoder": Block(64, "encoder"),
    "encoder_wider": Block(96, "encoder"),
    "encoder_down": Block(64, "encoder", "down"),
    "decoder": Block(64, "decoder"),
    "decoder_narrower": Block(32, "decoder"),
    "decoder_up": Block(64, "decoder", "up"),
    "encoder_attention": Block(64, "encoder", attention=True),
    "decoder_attention": Block(64, "decoder", attention=True),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_block_keeps_unit_magnitude(name):
    block = BLOCKS[name]
    x, embedding = unit_normal(4, 16, 16, 64), unit_normal(4, 48, seed=1)

    @jax.jit
    def run(key):
        return block.init_with_output(key, x, embedding)[0]

    tolerance = 0.15 if block.attention else 0.10
    for seed in range(3):
        y = run(jax.random.key(seed))
        assert y.shape[-1] == block.features
        assert rms(y) == pytest.approx(1, abs=tolerance)


def test_attention_keeps_magnitude_and_equals_the_written_out_formula():
    layer, x = SelfAttention(head_channels=8), unit_normal(2, 3, 3, 16)
    y, variables = jax.jit(layer.init_with_output)(jax.random.key(0), x)
    assert rms(y) == pytest.approx(1, abs=0.15)
    qkv, projection = (
        np.asarray(variables["params"][name]["weight"], np.float64)[0, 0]
        for name in ("qkv", "projection")
    )
    qkv, projection = (
        qkv / np.linalg.norm(qkv, axis=0),
        projection / np.linalg.norm(projection, axis=0),
    )
    flat = np.asarray(x, np.float64).reshape(2, 9, 16)
    attended = np.zeros_like(flat)
    for head in range(2):
        columns = [np.arange(8) + 16 * part + 8 * head for part in range(3)]
        q, k, v = (flat @ qkv[:, c] for c in columns)
        q, k, v = (a / np.sqrt(np.mean(a**2, -1, keepdims=True)) for a in (q, k, v))
        scores = np.exp(np.einsum("bqc,bkc->bqk", q, k) / np.sqrt(8))
        scores = scores / scores.sum(-1, keepdims=True)
        attended[:, :, 8 * head : 8 * head + 8] = scores @ v
    expected = (0.7 * flat + 0.3 * attended @ projection) / np.sqrt(0.7**2 + 0.3**2)
    np.testing.assert_allclose(np.asarray(y).reshape(2, 9, 16), expected, atol=3e-3)


def test_activations_of_the_whole_network_have_unit_magnitude():
    model = UNet(64, (1, 2), 1, attention_resolutions=(8,))
    x, c_noise = unit_normal(2, 16, 16, 3), jnp.asarray([-0.5, 0.5])
    cond = Condition(unit_normal(2, 12), jnp.ones(2))

    @jax.jit
    def run():
        params = initialise(lambda key: model.init(key, x, c_noise, cond), 0)
        return model.apply(
            {"params": params},
            x,
            c_noise,
            cond,
            capture_intermediates=lambda module, _: isinstance(module, Block),
        )[1]["intermediates"]

    captured = {name: rms(value["__call__"][0]) for name, value in run().items()}
    # Two encoder blocks and one down; two middle, one up, and two decoder blocks a resolution.
    assert len(captured) == 2 + 1 + 2 + 1 + 4
    for name, value in captured.items():
        attends = name in ("encoder_1_0", "middle_0", "decoder_1_0", "decoder_1_1")
        assert value == pytest.approx(1, abs=0.15 if attends else 0.10), name


def test_resampling():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    # Means of 2x2 windows of 0 .. 15 by hand.
    assert downsample(x)[0, :, :, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    up = np.asarray(upsample(x))[0, :, :, 0]
    assert np.array_equal(up, np.kron(np.asarray(x)[0, :, :, 0], np.ones((2, 2))))


@pytest.mark.parametrize("form", [None, "vector"])
def test_output_is_zero_at_the_start(form):
    params, apply = small(form)
    x, c_noise = inputs()
    y = np.asarray(apply(params, x, c_noise, None if form is None else condition(6, form)))
    assert y.shape == x.shape
    assert np.all(y == 0)


@pytest.mark.parametrize("form", FORMS)
def test_examples_do_not_mix(form):
    """A permuted batch gives a permuted output, and an example does not see the others."""
    params, apply = small(form)
    x, c_noise = inputs()
    for gain in (0.0, 1.0):
        gained, cond = with_gains(params, gain), condition(6, form)
        whole = np.asarray(apply(gained, x, c_noise, cond))
        assert (rms(whole) > 0.3) == (gain == 1.0)
        permuted = jax.tree.map(lambda leaf: leaf[ORDER], (x, c_noise, cond))
        np.testing.assert_allclose(apply(gained, *permuted), whole[ORDER], atol=2e-4)
        # All but example 2 replaced.
        others = (unit_normal(*x.shape, seed=9), c_noise[::-1], condition(6, form, seed=9))
        replaced = jax.tree.map(lambda a, b: a.at[2].set(b[2]), others, (x, c_noise, cond))
        changed = np.asarray(apply(gained, *replaced))
        np.testing.assert_allclose(changed[2], whole[2], atol=2e-4)
        assert gain == 0.0 or np.abs(changed - whole)[[0, 1, 3, 4, 5]].max() > 0.1


@pytest.mark.parametrize("form", FORMS)
def test_condition_acts_only_through_the_gains(form):
    params, apply = small(form)
    # The same example everywhere, so that only the condition can differ.
    x, c_noise = jnp.tile(inputs(1)[0], (BATCH, 1, 1, 1)), jnp.zeros(BATCH)
    cond = Condition(condition(BATCH, form).features, jnp.ones(BATCH))
    swapped = jax.tree.map(lambda leaf: leaf[::-1], cond)
    open_output = {**params, "out_gain": jnp.ones(())}
    same = np.asarray(apply(open_output, x, c_noise, cond))
    assert rms(same) > 0.3
    np.testing.assert_allclose(same, np.broadcast_to(same[:1], same.shape), atol=1e-5)
    gained = with_gains(params, 1.0)
    one, two = (np.asarray(apply(gained, x, c_noise, c)) for c in (cond, swapped))
    np.testing.assert_allclose(one, two[::-1], atol=2e-4)
    assert rms(one[0] - one[1]) > 0.05


@pytest.mark.parametrize("form", FORMS)
def test_null_condition_ignores_the_features(form):
    params, apply = small(form)
    gained, (x, c_noise) = with_gains(params, 1.0), inputs()
    nulls = [Condition(condition(6, form, seed=s).features, jnp.zeros(6)) for s in (0, 1)]
    one, two = (np.asarray(apply(gained, x, c_noise, cond)) for cond in nulls)
    assert np.array_equal(one, two)
    kept = np.asarray(apply(gained, x, c_noise, nulls[0].replace(keep=jnp.ones(6))))
    assert rms(kept - one) > 0.05


def test_noise_level_acts():
    params, apply = small(None)
    x = jnp.tile(inputs(1)[0], (BATCH, 1, 1, 1))
    y = np.asarray(apply(with_gains(params, 1.0), x, jnp.linspace(-1.0, 1.0, BATCH), None))
    assert rms(y[0] - y[-1]) > 0.05


def test_dropout_belongs_to_the_example():
    model = FLAT.clone(dropout_rate=0.3)
    x, c_noise = inputs()
    params = initialise(lambda key: model.init(key, x, c_noise), 0)
    apply = jax.jit(lambda *args: model.apply({"params": with_gains(params, 1.0)}, *args))
    keys = jax.random.split(jax.random.key(0), BATCH)
    whole = np.asarray(apply(x, c_noise, None, keys))
    # All but examples 0 and 1 replaced, keys included.
    order = np.array([0, 1, 5, 4, 3, 2])
    part = np.asarray(apply(x[order], c_noise[order], None, keys[order]))
    np.testing.assert_allclose(part[:2], whole[:2], atol=2e-4)
    # The same example under another key is another result.
    other = np.asarray(apply(x, c_noise, None, keys[::-1]))
    assert min(rms(whole[b] - other[b]) for b in range(BATCH)) > 0.05


def test_bfloat16_compute_keeps_float32_parameters_and_output():
    model = SMALL.clone(dtype=jnp.bfloat16)
    x, c_noise = inputs()
    cond = condition(BATCH, "vector")
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, c_noise, cond)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    params = with_gains(small("vector")[0], 1.0)

    @jax.jit
    def run(x, c_noise, cond):
        is_block = lambda module, _: isinstance(module, Block)  # noqa: E731
        return model.apply({"params": params}, x, c_noise, cond, capture_intermediates=is_block)

    y, state = run(x, c_noise, cond)
    assert y.dtype == jnp.float32
    # All activations between blocks are half as large, or nothing is gained.
    blocks = [v["__call__"][0] for k, v in state["intermediates"].items() if k != "__call__"]
    assert len(blocks) == 10
    assert {leaf.dtype for leaf in blocks} == {jnp.dtype("bfloat16")}
    exact = small("vector")[1](params, x, c_noise, cond)
    assert rms(np.asarray(y) - np.asarray(exact)) < 0.05 * rms(exact)


@pytest.mark.parametrize("model", [SMALL, MLP(16, 2)], ids=["unet", "mlp"])
def test_rematerialisation_keeps_names_and_few_activations(model):
    x = inputs()[0] if isinstance(model, UNet) else jnp.zeros((64, 3))
    c_noise = jnp.zeros(len(x))
    sparing = model.clone(rematerialize=True)
    params = jax.eval_shape(model.init, jax.random.key(0), x, c_noise)["params"]
    assert params == jax.eval_shape(sparing.init, jax.random.key(0), x, c_noise)["params"]

    def waiting(model):
        """Bytes between the output and its gradient."""

        def pullback(params):
            return jax.vjp(lambda params: model.apply({"params": params}, x, c_noise), params)[1]

        leaves = jax.tree.leaves(jax.eval_shape(pullback, params))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    assert waiting(sparing) < waiting(model) / 3


def test_number_of_parameters_of_the_default():
    """Channels 32 and 64, one block a resolution, attention at height 4; counted by hand."""
    width = 64

    def block(c_in, c_out, attention=False, encoder=False):
        first = c_out if encoder else c_in
        skip = c_in * c_out if c_in != c_out else 0
        attends = 4 * c_out**2 if attention else 0
        return 9 * first * c_out + 9 * c_out**2 + width * c_out + 1 + skip + attends

    expected = 32 * width + 256 * width + width  # noise, features, null
    expected += 9 * (1 + 1) * 32  # one channel and a constant one
    expected += block(32, 32, encoder=True)
    expected += block(32, 32, encoder=True)  # down
    expected += block(32, 64, attention=True, encoder=True)
    expected += block(64, 64, attention=True) + block(64, 64)  # middle
    # Skips, last first: 64 and 32 at height 4, then 32 and 32 at height 8.
    expected += block(64 + 64, 64, attention=True) + block(64 + 32, 64, attention=True)
    expected += block(64, 64)  # up
    expected += block(64 + 32, 32) + block(32 + 32, 32)
    expected += 9 * 32 * 1 + 1
    model = UNet(32, (1, 2), 1, attention_resolutions=(4,))
    cond = Condition(jnp.zeros((1, 256)), jnp.ones(1))
    shapes = jax.eval_shape(
        model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1), cond
    )
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == expected


@pytest.mark.parametrize(
    ("heights", "middle", "attending"),
    [
        ((), True, {"middle_0"}),
        ((), False, set()),
        ((8,), True, {"encoder_0_0", "middle_0", "decoder_0_0", "decoder_0_1"}),
        ((8,), False, {"encoder_0_0", "decoder_0_0", "decoder_0_1"}),
        ((4,), True, {"encoder_1_0", "middle_0", "decoder_1_0", "decoder_1_1"}),
        ((4,), False, {"encoder_1_0", "middle_0", "decoder_1_0", "decoder_1_1"}),
    ],
)
def test_which_blocks_attend(heights, middle, attending):
    """Config G's `in0` always does and its `in1` never; the rest where their height is listed."""
    model = SMALL.clone(attention_resolutions=heights, attention_middle=middle)
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs())["params"]
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    assert {p[0].key for p in paths if len(p) > 1 and p[1].key == "attention"} == attending


def test_every_parameter_receives_a_gradient():
    x, c_noise = inputs()
    cond = condition(BATCH, "vector")
    params = initialise(lambda key: FLAT.init(key, x, c_noise, cond), 0)

    @jax.jit
    def gradient(params):
        return jax.grad(
            lambda p: jnp.sum(jnp.square(FLAT.apply({"params": p}, x, c_noise, cond) - x))
        )(params)

    # While the output is closed only its gain learns, so it must.
    assert abs(float(gradient(params)["out_gain"])) > 1
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(with_gains(params, 0.5))):
        assert np.isfinite(np.asarray(leaf)).all()
        assert np.abs(np.asarray(leaf)).max() > 1e-3, jax.tree_util.keystr(path)


def test_blocks_outputs_are_clipped():
    block = Block(4, "decoder")
    x = jnp.full((1, 2, 2, 4), 1e6)
    y = jax.jit(block.init_with_output)(jax.random.key(0), x, jnp.zeros((1, 3)))[0]
    assert np.abs(np.asarray(y)).max() == 256
