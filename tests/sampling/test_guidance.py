"""Guidance against closed forms of Gaussians and exact mixtures."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion import mixture
from gmm_diffusion.diffusion.noise_levels import karras
from gmm_diffusion.mixture import GaussianMixture
from gmm_diffusion.sampling import guidance
from gmm_diffusion.sampling.guidance import ConditionPair
from gmm_diffusion.sampling.samplers import SAMPLERS
from gmm_diffusion.types import Condition

MIX = GaussianMixture.create(
    np.array([0.6, 0.4]), np.array([[1.0, 0.0], [-1.0, 0.5]]), np.array([0.04, 0.09]), "spherical"
)
WIDE = mixture.smooth(MIX, 0.5)


def keys(n):
    return jax.random.split(jax.random.key(0), n)


def points(n=6, scale=1.0):
    return jnp.asarray(scale * np.random.default_rng(0).normal(size=(n, 2)), jnp.float32)


def main_fn(x, sigma, cond=None):
    return mixture.denoise(MIX, x, sigma)


def guide_fn(x, sigma, cond=None):
    return mixture.denoise(WIDE, x, sigma)


def conditional(x, sigma, cond):
    """Moves towards the condition; the null is 0."""
    target = cond.features * cond.keep[:, None]
    return (x + jnp.square(jnp.broadcast_to(sigma, x.shape[:1]))[:, None] * target) / 2


def condition(n=6):
    features = np.random.default_rng(1).normal(size=(n, 2))
    return Condition(jnp.asarray(features, jnp.float32), jnp.ones(n))


def pair(n=6):
    cond = condition(n)
    return ConditionPair(cond, cond.replace(features=0.5 * cond.features))


# name -> (constructor given scale and options, condition, its guide's prediction)
KINDS = {
    "autoguided": (
        lambda *a, **k: guidance.autoguided(main_fn, guide_fn, *a, **k),
        None,
        main_fn,
        guide_fn,
    ),
    "classifier_free": (
        lambda *a, **k: guidance.classifier_free(conditional, *a, **k),
        condition(),
        conditional,
        lambda x, sigma, cond: conditional(x, sigma, cond.replace(keep=0 * cond.keep)),
    ),
    "mixture_guided": (
        lambda *a, **k: guidance.mixture_guided(conditional, *a, **k),
        pair(),
        lambda x, sigma, cond: conditional(x, sigma, cond.main),
        lambda x, sigma, cond: conditional(x, sigma, cond.guide),
    ),
}
SIGMAS = (0.7, np.full(6, 0.7, np.float32), np.linspace(0.1, 2, 6, dtype=np.float32))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("sigma", SIGMAS, ids=["scalar", "equal", "different"])
def test_the_formula(name, sigma):
    make, cond, main, worse = KINDS[name]
    x = points()
    ours = np.asarray(make(2.5)(x, jnp.asarray(sigma), cond))
    a, b = (np.asarray(fn(x, jnp.asarray(sigma), cond), np.float64) for fn in (main, worse))
    np.testing.assert_allclose(ours, b + 2.5 * (a - b), atol=1e-5)
    assert np.abs(a - b).max() > 0.05


@pytest.mark.parametrize("name", KINDS)
def test_scale_one_is_the_main_model_bit_for_bit_and_scale_zero_the_guide(name):
    make, cond, main, worse = KINDS[name]
    x, sigma = points(), jnp.float32(0.7)
    plain = np.asarray(jax.jit(main)(x, sigma, cond))
    assert np.array_equal(jax.jit(make(1))(x, sigma, cond), plain)
    traced = jax.jit(lambda scale: make(scale)(x, sigma, cond))
    np.testing.assert_array_equal(traced(1.0), traced(1.0))
    np.testing.assert_allclose(traced(1.0), plain, atol=1e-6)
    np.testing.assert_allclose(traced(0.0), worse(x, sigma, cond), atol=1e-6)


def test_scale_one_does_not_touch_the_guide():
    def fail(x, sigma, cond):
        raise AssertionError("the guide was evaluated")

    assert guidance.autoguided(main_fn, fail, 1.0) is main_fn
    with pytest.raises(AssertionError, match="evaluated"):
        guidance.autoguided(main_fn, fail, 1.01)(points(), 1.0, None)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("sigma", SIGMAS, ids=["scalar", "equal", "different"])
def test_outside_the_interval_nothing_is_guided(name, sigma):
    make, cond, main, _ = KINDS[name]
    x, sigma = points(), jnp.asarray(sigma)
    plain, everywhere = main(x, sigma, cond), make(3.0)(x, sigma, cond)
    for low, high in ((0.0, 0.5), (0.5, 1.0), (1.0, 5.0), (0.7, 0.8)):
        found = np.asarray(make(3.0, interval=(low, high))(x, sigma, cond))
        low, high = np.float32(low), np.float32(high)
        inside = np.broadcast_to((np.asarray(sigma) >= low) & (np.asarray(sigma) <= high), 6)
        expected = np.where(inside[:, None], everywhere, plain)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_guide_is_not_evaluated_outside_the_interval():
    calls = []

    def counting(x, sigma, cond):
        jax.debug.callback(lambda level: calls.append(float(level)), sigma)
        return guide_fn(x, sigma, cond)

    denoise_fn = guidance.autoguided(main_fn, counting, 2.0, interval=(0.1, 1.0))
    sigmas = karras(12, 0.02, 10.0)
    jax.jit(lambda x: SAMPLERS["euler"](denoise_fn, keys(6), x, sigmas))(points(scale=10.0))
    jax.effects_barrier()
    levels = np.asarray(sigmas)[:-1]
    inside = levels[(levels >= 0.1) & (levels <= 1.0)]
    np.testing.assert_allclose(sorted(calls), sorted(inside), rtol=1e-6)


@pytest.mark.float64
@pytest.mark.parametrize("scale", [0.5, 2.0, 3.0])
def test_gaussians_end_at_the_closed_form(scale):
    """Main and guide of widths t and t_g: the guided flow ends at width `t^w t_g^(1-w)`."""
    t, worse = 0.5, 0.8
    high = 200.0

    def gaussian(deviation):
        return lambda x, sigma, cond: deviation**2 / (deviation**2 + sigma**2) * x

    denoise_fn = guidance.autoguided(gaussian(t), gaussian(worse), scale)
    x, _ = SAMPLERS["heun"](
        denoise_fn, keys(1), jnp.full((1, 1), high), karras(400, 1e-4, high).astype(jnp.float64)
    )
    # The start is one standard deviation out, so the end is, too.
    assert float(x[0, 0]) == pytest.approx(t**scale * worse ** (1 - scale), rel=2e-3)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_evaluation_of_a_sampler_is_guided(name):
    """A linear denoiser, for which guiding at every evaluation is another linear denoiser."""

    def linear(rate):
        return lambda x, sigma, cond: rate * x / (1 + jnp.square(sigma))

    x, sigmas = points(scale=5.0), karras(7, 0.05, 5.0)
    guided = guidance.autoguided(linear(0.9), linear(0.5), 1.5)
    ours, _ = SAMPLERS[name](guided, keys(6), x, sigmas)
    expected, _ = SAMPLERS[name](linear(0.5 + 1.5 * 0.4), keys(6), x, sigmas)
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_the_limit_bounds_what_is_added():
    x = jnp.asarray([[0.1, 0.2], [30.0, -40.0]])
    sigma, limit = jnp.float32(0.2), 0.5
    main, worse = np.asarray(main_fn(x, sigma)), np.asarray(guide_fn(x, sigma))
    free = guidance.autoguided(main_fn, guide_fn, 3.0)(x, sigma, None) - main
    bound = guidance.autoguided(main_fn, guide_fn, 3.0, limit=limit)(x, sigma, None) - main
    rms = np.sqrt(np.mean(np.square(np.asarray(bound)), axis=1))
    assert rms.max() <= limit * 0.2 * (1 + 1e-5)
    free_rms = np.sqrt(np.mean(np.square(2 * (main - worse)), axis=1))
    shrink = np.minimum(1, limit * 0.2 / free_rms)
    assert shrink.min() < 1
    np.testing.assert_allclose(bound, free * shrink[:, None], atol=1e-5)
    generous = guidance.autoguided(main_fn, guide_fn, 3.0, limit=1e6)(x, sigma, None) - main
    np.testing.assert_allclose(generous, free, atol=1e-6)


def test_the_limit_holds_for_images_with_a_level_each():
    x, sigma = jnp.ones((2, 4, 4, 3)), jnp.asarray([0.1, 1.0])
    guided = guidance.autoguided(
        lambda x, sigma, cond: x, lambda x, sigma, cond: 5 * x, 2.0, limit=0.3
    )
    added = np.asarray(guided(x, sigma, None) - x)
    rms = np.sqrt((added**2).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(rms, [0.03, 0.3], rtol=1e-5)


def test_kinds_compose():
    """Autoguidance of two models that each have classifier-free guidance."""
    x, sigma, cond = points(), jnp.float32(0.5), condition()

    def worse(x, sigma, cond):
        return 0.8 * conditional(x, sigma, cond)

    composed = guidance.autoguided(
        guidance.classifier_free(conditional, 2.0), guidance.classifier_free(worse, 2.0), 1.5
    )
    null = cond.replace(keep=0 * cond.keep)
    free = 2 * conditional(x, sigma, cond) - conditional(x, sigma, null)
    np.testing.assert_allclose(composed(x, sigma, cond), 0.8 * free + 1.5 * 0.2 * free, rtol=1e-4)


def test_the_energy_pushes_downhill():
    """Of a quadratic energy the guided denoiser is known: `D - g sigma^2 (x - a) / s^2`."""
    x, target, s = points(), jnp.asarray([[2.0, -1.0]]), 0.7

    def energy(x, sigma, cond):
        return jnp.sum(jnp.square(x - target), axis=1) / (2 * s**2)

    for sigma in (jnp.float32(0.4), jnp.linspace(0.1, 1, 6)):
        guided = guidance.energy_guided(main_fn, energy, 1.5)(x, sigma, None)
        square = np.square(np.broadcast_to(sigma, 6))[:, None]
        expected = main_fn(x, sigma) - 1.5 * square * (x - target) / s**2
        np.testing.assert_allclose(guided, expected, atol=1e-5)
    assert guidance.energy_guided(main_fn, energy, 0.0) is main_fn
    outside = guidance.energy_guided(main_fn, energy, 1.5, interval=(1.0, 2.0))
    np.testing.assert_allclose(outside(x, 0.5, None), main_fn(x, 0.5), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((float("nan"),), "scale is nan; it must be finite"),
        ((float("inf"),), "scale is inf; it must be finite"),
        ((2.0, (1.0, 1.0)), "interval is .*lower one first"),
        ((2.0, (-1.0, 1.0)), "interval is .*not negative"),
        ((2.0, None, 0.0), "limit is 0.0; it must be positive"),
    ],
)
@pytest.mark.parametrize("name", KINDS)
def test_bad_input_is_named(name, arguments, text):
    with pytest.raises(ValueError, match=text):
        KINDS[name][0](*arguments)


def test_classifier_free_needs_a_null():
    with pytest.raises(ValueError, match=r"needs a types\.Condition"):
        guidance.classifier_free(main_fn, 2.0)(points(), 1.0, jnp.ones((6, 3)))


def test_gradients_and_a_traced_scale_pass():
    x = points()

    def loss(scale, interval):
        guided = guidance.autoguided(main_fn, guide_fn, scale, interval=interval)
        return jnp.sum(guided(x, jnp.float32(0.5), None))

    for interval in (None, (0.1, 1.0)):
        slope = jax.jit(jax.grad(loss), static_argnums=1)(2.0, interval)
        expected = np.sum(np.asarray(main_fn(x, 0.5) - guide_fn(x, 0.5), np.float64))
        assert float(slope) == pytest.approx(expected, rel=1e-3)
    assert len({float(loss(s, i)) for s, i in itertools.product((1.5, 2.0), (None,))}) == 2
