"""The law of noise that is fitted to data, and who uses it."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion import assembly, mixture
from gmm_diffusion import config as config_lib
from gmm_diffusion.assembly import initialisation, noise
from gmm_diffusion.data import toy as toys
from gmm_diffusion.diffusion import noise_levels
from gmm_diffusion.errors import InputError
from gmm_diffusion.evaluation import heldout
from gmm_diffusion.model import fitted as fitted_lib
from gmm_diffusion.model.guidance import ClassifierFree
from gmm_diffusion.model.model import Model
from gmm_diffusion.sampling.samplers import SAMPLERS

# One number of points, so that one compiled fit serves all tests.
NUM = 2000


@pytest.fixture
def toy(make_config):
    config = make_config("toy")
    config.conditioning.kind = "none"
    config.diffusion.law = "auto"
    config.data.num_train = NUM
    return config


def tau_of(law, rms):
    return float(jnp.exp(2 * law.mean)) / rms


def points(std, scale=1.0):
    """Eight well separated Gaussians, one thinner than the others."""
    rng = np.random.default_rng(0)
    k = np.arange(NUM) % 8
    angle = k * np.pi / 4
    width = np.where(k == 3, std, 3 * std)[:, None]
    return scale * (
        np.stack([np.cos(angle), np.sin(angle)], -1) + width * rng.normal(size=(NUM, 2))
    ).astype(np.float32)


@pytest.mark.parametrize(("std", "scale"), [(0.02, 1.0), (0.02, 50.0), (0.05, 1.0)])
def test_tau_is_the_smallest_standard_deviation(toy, std, scale):
    x = points(std, scale=scale)
    rms = np.sqrt(np.mean((x - x.mean(axis=0)) ** 2))
    law = noise.fit(toy, x)
    # 250 points: the smaller of two standard deviations is a few percent low.
    assert tau_of(law, rms) == pytest.approx(std * scale, rel=0.1)
    assert float(law.std) == pytest.approx(np.log(rms / tau_of(law, rms)) / 3, abs=1e-3)
    assert float(law.highest) == pytest.approx(20 * x.std(axis=0).max(), rel=0.03)


@pytest.mark.parametrize(
    "x",
    [
        np.random.default_rng(0).integers(0, 3, (NUM, 2)),
        np.random.default_rng(0).normal(size=(40, 2))[np.arange(NUM) % 40],
        np.random.default_rng(0).normal(size=(NUM, 2)) + 1e4,
        np.random.default_rng(0).normal(size=(NUM, 2)) * [1, 0],
    ],
    ids=["discrete", "copies", "far", "constant"],
)
def test_degenerate_data_have_a_law_within_bounds(toy, x):
    law = noise.fit(toy, np.asarray(x, np.float32))
    assert np.log(3) / 3 - 1e-5 <= float(law.std) <= np.log(1000) / 3 + 1e-5
    assert np.isfinite([law.mean, law.highest]).all()


def test_a_few_thin_points_are_no_detail(toy):
    x = points(0.05)
    rms = np.sqrt(np.mean((x - x.mean(axis=0)) ** 2))
    x[:20] = [3.0, 3.0]
    assert tau_of(noise.fit(toy, x), rms) > 0.04


def test_the_formula_is_the_published_law_of_the_tree():
    law = noise_levels.between(0.01, 1.0, 1.0)
    np.testing.assert_allclose([law.mean, law.std], [-2.3, 1.5], atol=0.04)
    # Tau and RMS lie 1.5 standard deviations out, in any unit.
    law = noise_levels.between(0.6, 30.0, 40.0)
    ends = np.exp(float(law.mean) + np.array([-1.5, 1.5]) * float(law.std))
    np.testing.assert_allclose(ends, [0.6, 30.0], rtol=1e-4)
    for tau, ratio in ((0.0, 1000.0), (5.0, 3.0)):
        law = noise_levels.between(tau, 2.0, 2.0)
        assert float(law.std) == pytest.approx(np.log(ratio) / 3, abs=1e-5)
        assert float(law.mean) == pytest.approx(np.log(2.0 / np.sqrt(ratio)), abs=1e-5)


def test_sampling_starts_where_a_gaussian_is_lost_in_noise():
    spread = 1.7
    highest = float(noise_levels.between(0.1, 1.0, spread).highest)
    mix = mixture.GaussianMixture.create([1.0], [[0.0, 0.0]], [[spread**2] * 2], "diag")
    sigmas = noise_levels.karras(80, 0.002, highest)
    x = highest * jnp.ones((1, 2))
    ends, _ = SAMPLERS["heun"](
        lambda x, sigma, cond: mixture.denoise(mix, x, sigma),
        jax.random.split(jax.random.key(0), 1),
        x,
        sigmas,
    )
    # A point one standard deviation out ends one standard deviation out.
    np.testing.assert_allclose(np.asarray(ends) / spread, 1.0, atol=0.003)


def test_the_law_is_one_for_all_seeds_and_conditionings(toy):
    data = assembly.dataset(toy)
    first = assembly.fit_statistics(toy, data)
    toy.conditioning.kind, toy.training.seed = "class", 5
    other = assembly.fit_statistics(toy, data)
    assert jax.tree.leaves(first.noise_law) == jax.tree.leaves(other.noise_law)


def test_the_law_is_stored_and_old_checkpoints_have_none(toy):
    made = assembly.fit_statistics(toy, assembly.dataset(toy))
    arrays, settings = fitted_lib.to_arrays(made)
    back = fitted_lib.from_arrays(arrays, json.loads(json.dumps(settings)))
    assert assembly.noise_law(toy, back) == assembly.noise_law(toy, made)
    old = {name: a for name, a in arrays.items() if not name.startswith("noise_law")}
    toy.diffusion.law = "given"
    assert assembly.noise_law(toy, fitted_lib.from_arrays(old, settings)) == (-1.2, 1.2)


def test_everything_uses_the_law(toy, monkeypatch):
    data = assembly.dataset(toy)
    made = assembly.fit_statistics(toy, data)
    mean, std = assembly.noise_law(toy, made)
    assert mean != -1.2
    quantiles = {}
    monkeypatch.setattr(heldout, "ndtri", lambda q: quantiles.setdefault("z", 0 * q + 1))
    losses = heldout.make_heldout_losses(toy, data, made)
    params = assembly.init_params(toy, data.shape, made)
    assert f"heldout_loss/sigma_{np.exp(mean + std):.3g}" in losses(params)
    asked = []
    monkeypatch.setattr(
        "gmm_diffusion.training.loss.noise_levels.log_normal",
        lambda keys, *law: asked.append(law) or jnp.ones(len(keys)),
    )
    batch = types.SimpleNamespace(x=jnp.zeros((4, 2)), weights=None)
    assembly.loss_fn(toy, made)(params, batch, jax.random.split(jax.random.key(0), 4))
    assert asked == [(mean, std)]
    toy.sample.sampler, toy.sample.steps = "euler", 4
    highest = float(made.noise_law.highest)
    guidance = ClassifierFree(2.0, interval=(0.99 * highest, 1.01 * highest))
    calls = assembly.evaluations(assembly.model(toy, data.shape, made, params), [guidance])
    assert (calls["evaluations"], calls["guide_evaluations"]) == (4, 1)


def test_levels_that_share_a_name_count_each(toy, monkeypatch):
    data = assembly.dataset(toy)
    made = assembly.fit_statistics(toy, data)
    toy.evaluation.loss_levels = 3
    monkeypatch.setattr(heldout, "ndtri", lambda q: np.array([1.0, 1.0, -1.0]))
    losses = heldout.make_heldout_losses(toy, data, made)(
        assembly.init_params(toy, data.shape, made)
    )
    mean, std = assembly.noise_law(toy, made)
    high, low = (losses[f"heldout_loss/sigma_{np.exp(mean + z * std):.3g}"] for z in (1, -1))
    assert high != pytest.approx(low)
    assert losses["heldout_loss/mean"] == pytest.approx((2 * high + low) / 3)


def test_a_run_that_starts_from_another_fits_its_own(toy, monkeypatch):
    data = assembly.dataset(toy)
    toy.training.init_from = "other"
    given = assembly.fit_statistics(config_of(toy, law="given"), data)
    monkeypatch.setattr(initialisation, "_run", lambda config: types.SimpleNamespace(fitted=given))
    assert given.noise_law is None
    assert initialisation.fit_statistics(toy, data).noise_law is not None


def config_of(config, law):
    config = config.copy_and_resolve_references()
    config.diffusion.law = law
    return config


def test_refusals(toy, make_config):
    config_lib.validate(toy)
    toy.diffusion.sigma_log_mean = -2.0
    with pytest.raises(InputError, match=r"diffusion\.sigma_log_mean is -2\.0; diffusion\.law"):
        config_lib.validate(toy)
    images = make_config("tiny")
    images.diffusion.law = "auto"
    with pytest.raises(InputError, match=r"diffusion\.law is 'auto'; the images of data\.name"):
        config_lib.validate(images)


def test_zeta_must_lie_within_the_fitted_law(toy):
    toy.contrastive.weight, toy.contrastive.zeta = 1.0, (0.1, 9.0)
    with pytest.raises(InputError, match=r"contrastive\.zeta is \(0\.1, 9\.0\)"):
        assembly.fit_statistics(toy, assembly.dataset(toy))


@pytest.mark.parametrize("name", ["ring", "moons"])
def test_the_law_sees_the_width_of_known_mixtures(toy, name):
    mix, _ = toys.density(name)
    law = noise.fit(toy, toys.load(name, NUM, 10).train.x)
    assert tau_of(law, 1.0) == pytest.approx(mixture.smallest_std(mix), rel=0.2)


def test_where_sampling_starts(toy):
    """The law's own level, EDM's 80 without one, and what the config says before both."""
    law = noise_levels.between(0.1, 1.0, 1.0)
    fitted = fitted_lib.FittedStatistics(None, None, None, noise_law=law)

    def highest(config, fitted):
        model = Model({}, fitted, None, (2,))
        return float(assembly.sampler(config).grid(4, model.sigma_max)[0])

    assert highest(toy, fitted) == pytest.approx(20.0)
    given = config_of(toy, "given")
    plain = fitted_lib.FittedStatistics(None, None, None)
    assert config_lib.SIGMA_MAX == Model({}, plain, None, (2,)).sigma_max == 80.0
    assert highest(given, plain) == pytest.approx(80.0)
    for config in (toy, given):
        config.sample.sigma_max = 7.0
        assert highest(config, fitted) == pytest.approx(7.0)
    given.sample.sigma_max, given.sample.sigma_min = 0.0, 80.0
    with pytest.raises(InputError, match=r"sample\.sigma_min is 80\.0; it must be below"):
        config_lib.validate(given)


def test_few_points_are_no_detail(toy):
    x = np.random.default_rng(0).normal(size=(300, 20)).astype(np.float32)
    # One Gaussian has none: tau is as near to the RMS as the law allows. Eight components of 38
    # points each would be thin by chance.
    assert tau_of(noise.fit(toy, x), 1.0) == pytest.approx(1 / 3, rel=0.05)
