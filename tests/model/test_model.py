"""A model as an object: it draws what the command draws, and compiles once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from gmm_diffusion import assembly
from gmm_diffusion.assembly import load as load_lib
from gmm_diffusion.errors import InputError
from gmm_diffusion.model.guidance import MixtureGuidance
from gmm_diffusion.sampling.samplers import initial_noise
from gmm_diffusion.sampling.settings import SamplerSettings


@pytest.fixture(scope="module")
def toy(make_config):
    config = make_config("toy")
    data = assembly.dataset(config)
    fitted = assembly.fit_statistics(config, data)
    params = assembly.init_params(config, data.shape, fitted)
    params = jax.tree.map(lambda x: x + 0.1 if x.ndim == 0 else x, params)
    return assembly.model(config, data.shape, fitted, params)


def test_a_model_draws_what_the_command_draws(tiny_run, run_main, tmp_path):
    run = tiny_run[0]
    status, _, err = run_main(
        "--mode=sample",
        f"--workdir={run}",
        "--config.sample.num=5",
        "--config.sample.seed=3",
        "--config.sample.condition=0.5*class:3+0.5*class:8",
        "--config.sample.steps=6",
        "--config.sample.churn=4.0",
        "--config.guidance.kind=mixture",
        "--config.guidance.scale=1.5",
    )
    assert status == 0, err
    with np.load(run / "samples" / "0.5-class-3-0.5-class-8_mixture-1.5.npz") as file:
        theirs = dict(file)
    model = load_lib.load_run(run)
    ours = model.sample(
        5,
        "0.5*class:3+0.5*class:8",
        3,
        sampler=SamplerSettings("heun", churn=4.0),
        steps=6,
        guidance=MixtureGuidance(1.5, interval=(0.0, 1000.0)),
        batch_size=model.config.sample.batch_size,
    )
    assert (ours.x.dtype, ours.x.shape) == (np.float32, (5, 8, 8, 1))
    np.testing.assert_array_equal(ours.images(), theirs["x"])
    np.testing.assert_array_equal(ours.weights, theirs["weights"])
    np.testing.assert_array_equal(ours.label, theirs["label"])
    assert ours.attributes is None


@dataclasses.dataclass(frozen=True)
class Counted:
    """A denoiser that notes when it is traced."""

    denoiser: object
    traces: list = dataclasses.field(compare=False)

    @property
    def sigma_data(self):
        return self.denoiser.sigma_data

    def __call__(self, *arguments):
        self.traces.append(1)
        return self.denoiser(*arguments)


def test_it_compiles_once_for_a_setting_and_not_for_parameters(toy):
    traces = []
    model = dataclasses.replace(toy, denoiser=Counted(toy.denoiser, traces))
    settings = {"steps": 3, "batch_size": 8, "sampler": "euler"}
    first = model.sample(8, **settings).x
    traced = len(traces)
    assert traced > 0
    np.testing.assert_array_equal(model.sample(8, **settings).x, first)
    moved = jax.tree.map(lambda leaf: leaf * 1.1, model.params)
    # Another object of an equal network, too.
    other = dataclasses.replace(model, params=moved, denoiser=Counted(toy.denoiser, traces))
    assert np.abs(other.sample(8, "class:1", 5, **settings).x - first).max() > 1e-3
    assert len(traces) == traced
    guided = {"guidance": MixtureGuidance(2.0), **settings}
    model.sample(8, **guided)
    again = len(traces)
    assert again > traced
    other.sample(8, **guided)
    assert len(traces) == again
    model.denoise(jnp.zeros((2, 2)), jnp.float32(1), model.condition("0", 2))
    once = len(traces)
    other.denoise(jnp.ones((2, 2)), jnp.float32(2), model.condition("1", 2))
    assert len(traces) == once == again + 1


def test_denoising_under_a_condition_is_what_sampling_does(toy):
    """One Euler step to noise level 0 returns the denoised noise itself."""
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(7), i))(jnp.arange(6))
    noise = initial_noise(keys, toy.shape, 5.0)
    for condition in ("class:2", "train", np.float32([0.5, 0.5, 0, 0])):
        clean = toy.denoise(noise, jnp.float32(5.0), toy.condition(condition, 6, 7))
        settings = SamplerSettings("euler", sigma_max=5.0)
        drawn = toy.sample(6, condition, 7, sampler=settings, steps=1)
        np.testing.assert_allclose(toy.restore(clean), drawn.x, atol=1e-4)
    np.testing.assert_allclose(toy.restore(toy.center(drawn.x)), drawn.x, atol=1e-6)


def test_later_samples_of_a_seed(toy):
    whole = toy.sample(9, "train", 1, steps=3)
    later = toy.sample(4, "train", 1, steps=3, first=5)
    np.testing.assert_array_equal(later.label, whole.label[5:])
    np.testing.assert_allclose(later.x, whole.x[5:], atol=1e-4)


def test_whole_numbers_may_be_of_numpy(toy):
    plain = toy.sample(3, seed=1, steps=2, batch_size=2)
    drawn = toy.sample(np.int64(3), seed=np.uint8(1), steps=np.int32(2), batch_size=np.int16(2))
    np.testing.assert_array_equal(drawn.x, plain.x)


@pytest.mark.parametrize("responsibilities", ["soft", "hard"])
@pytest.mark.parametrize("value", [1e20, 1e38, -1e30])
def test_examples_too_far_for_float32_have_no_weights(
    make_config, responsibilities, value, tmp_path
):
    config = make_config("toy")
    config.conditioning.responsibilities = responsibilities
    data = assembly.dataset(config)
    fitted = assembly.fit_statistics(config, data)
    model = assembly.model(config, data.shape, fitted, {"network": {}})
    x = np.array(data.heldout.x[:3])
    assert np.isfinite(model.weights(1e3 * x)).all()
    x[1] = value
    with pytest.raises(InputError, match=r"^x: example 1 lies too far from the mixture"):
        model.weights(x)
    np.save(tmp_path / "far.npy", x)
    path = tmp_path / "far.npy"
    with pytest.raises(InputError, match=r"^sample\.condition features:.*far\.npy: example 1 lies"):
        model.request(f"features:{path}", 2)


def test_what_cannot_be_asked_is_refused(toy):
    refusals = [
        ({"num": 0}, "num is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"num": 2.5}, r"num is 2\.5; it must be a whole number, at least 1"),
        ({"seed": True}, "seed is True; it must be a whole number"),
        ({"sampler": "rk4"}, "sampler is 'rk4'; it must be one of heun"),
        ({"condition": "class:99"}, "a class must be from 0"),
        ({"condition": np.ones((3, 4), np.float32) / 4}, r"must be of shape \(4, 4\)"),
        ({"condition": np.float32([2, -1, 0, 0])}, "must not be negative"),
        ({"condition": np.float32([np.nan, 1, 0, 0])}, "must not be negative"),
    ]
    for arguments, text in refusals:
        with pytest.raises(InputError, match=text):
            toy.sample(**{"num": 4} | arguments)
    with pytest.raises(InputError, match="has no classifier"):
        toy.classify(jnp.zeros((2, 2)))
    with pytest.raises(InputError, match="a classifier alone"):
        dataclasses.replace(toy, params={"classifier": {}}).sample(4)
    with pytest.raises(InputError, match="are no images"):
        toy.sample(2, steps=1).images()
    bare = dataclasses.replace(toy, fitted=toy.fitted.replace(conditioner=None))
    for condition in ("class:1", np.ones((4, 4), np.float32) / 4):
        with pytest.raises(InputError, match=r"absent|without a condition"):
            bare.request(condition, 4)
    assert bare.condition("train", 4) is None


def test_a_classifier_says_whose_component_it_sees(make_config):
    config = make_config("toy")
    config.ngmg.weight, config.classifier.name, config.classifier.width = 0.5, "mlp", 8
    data = assembly.dataset(config)
    fitted = assembly.fit_statistics(config, data)
    params = assembly.init_params(config, data.shape, fitted)
    model = assembly.model(config, data.shape, fitted, params)
    shares = np.asarray(model.classify(model.center(data.heldout.x[:20])))
    assert shares.shape == (20, 4)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    # By hand: the components' shares at the point that the network says.
    point = np.asarray(
        assembly.classify(config, fitted)(params["classifier"], model.center(data.heldout.x))[0]
    )[:20]
    mix = fitted.conditioner.mixture
    scale = min(assembly.objective(config, fitted).scale)
    square = ((point[:, None] - np.asarray(mix.means, np.float64)) ** 2).sum(axis=-1) / scale**2
    expected = special.softmax(np.log(np.asarray(mix.weights)) - square / 2, axis=1)
    np.testing.assert_allclose(shares, expected, rtol=2e-3, atol=1e-4)
