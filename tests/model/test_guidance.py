"""Guidance as values: what a tuple of them computes, and what it is said to cost."""

import collections
import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion.data.batches import Transform
from gmm_diffusion.errors import InputError
from gmm_diffusion.model import guidance as guidances
from gmm_diffusion.model.fitted import FittedStatistics
from gmm_diffusion.model.guidance import (
    Autoguidance,
    ClassifierFree,
    ClassifierGuidance,
    MixtureGuidance,
)
from gmm_diffusion.model.model import Model
from gmm_diffusion.sampling.settings import SamplerSettings

ROWS = collections.Counter()
BASE = np.array([0.25, 0.75], np.float32)
ALL = [(0.0, 100.0), (0.3, 5.0)]


@dataclasses.dataclass(frozen=True)
class Linear:
    """`D(x; c) = a x + b c`, c one feature of the condition, 0 for the null; it is counted."""

    name: str
    a: float
    b: float
    sigma_data: float = 1.0

    def __call__(self, params, x, sigma, cond=None, keys=None):
        jax.debug.callback(functools.partial(_count, self.name, x.shape[0]))
        told = cond.features[:, 1:2] * cond.keep[:, None]
        return self.a * x + self.b * told


@dataclasses.dataclass(frozen=True)
class Squares:
    """`|b x - w_1|^2 / 2`, counted."""

    def cost(self, params, x, weights):
        jax.debug.callback(functools.partial(_count, "classifier", x.shape[0]))
        return jnp.sum((params * x - weights[:, 1:]) ** 2, axis=1) / 2


def _count(name, rows):
    ROWS[name] += rows


@pytest.fixture(scope="module")
def conditioner(make_conditioner):
    made = make_conditioner(np.repeat([0, 1], [1, 3]))
    np.testing.assert_allclose(made.base, BASE)
    return made


def model(conditioner, denoiser):
    fitted = FittedStatistics(Transform(np.zeros(1, np.float32)), np.float32(1), conditioner)
    parts = {"network": {}, "classifier": jnp.float32(1.5)}
    return Model(parts, fitted, denoiser, (1,), Squares())


@pytest.fixture(scope="module")
def parts(conditioner):
    main = model(conditioner, Linear("main", 0.6, 1.0))
    return main, model(conditioner, Linear("worse", 0.3, 0.5))


def one_step(main, guidance, sigma=2.0):
    """An Euler step from `sigma` to 0: what the guided denoiser says, and of what."""
    settings = SamplerSettings("euler", sigma_max=sigma)
    weights = np.eye(2, dtype=np.float32)[[0, 1, 1, 0]]
    options = {"sampler": settings, "steps": 1, "batch_size": 4}
    nothing = model(main.conditioner, Linear("copy", 1.0, 0.0))
    x = nothing.sample(4, weights, **options).x.astype(np.float64)
    return x, weights, main.sample(4, weights, guidance=guidance, **options).x


def test_they_compose_in_one_order(parts):
    """By hand: the condition first, then the worse model, then the pull; whatever their order."""
    main, worse = parts
    values = [
        ClassifierFree(2.0),
        Autoguidance(worse, 1.5),
        ClassifierGuidance(strength=0.1),
    ]
    told = np.asarray(main.condition(np.eye(2, dtype=np.float32)[[0, 1, 1, 0]], 4).features)
    c = told[:, 1:2].astype(np.float64)
    for given in itertools.permutations(values):
        x, weights, ours = one_step(main, given)

        def guided(x):
            free = (0.6 * x) + 2.0 * ((0.6 * x + c) - (0.6 * x))
            return 0.3 * x + 0.5 * c + 1.5 * (free - (0.3 * x + 0.5 * c))

        slope_of_guided = 0.3 + 1.5 * (0.6 - 0.3)
        slope = (1.5 * guided(x) - weights[:, 1:]) * 1.5 * slope_of_guided
        expected = guided(x) - 0.1 * 2.0**2 * slope
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_a_blurred_mixture_by_hand(parts):
    main, _ = parts
    x, weights, ours = one_step(main, MixtureGuidance(3.0, "weights", 0.5))
    told = [
        np.asarray(main.condition(w, 4).features)[:, 1:2]
        for w in (weights, 0.5 * weights + 0.5 * BASE)
    ]
    sharp, blurred = (0.6 * x + c for c in told)
    np.testing.assert_allclose(ours, blurred + 3.0 * (sharp - blurred), rtol=1e-4, atol=1e-4)


def test_scale_one_is_no_guidance_bit_for_bit(parts):
    main, worse = parts
    _, _, plain = one_step(main, ())
    nothing = [
        Autoguidance(worse, 1.0),
        ClassifierFree(1.0),
        MixtureGuidance(1.0, "weights"),
        ClassifierGuidance(strength=0.0),
    ]
    assert guidances.ordered(nothing) == ()
    for one in nothing:
        np.testing.assert_array_equal(one_step(main, one)[2], plain)
    np.testing.assert_array_equal(one_step(main, nothing)[2], plain)


def options(worse, interval):
    pull = ClassifierGuidance(strength=0.01, interval=interval)
    free = ClassifierFree(1.1, interval)
    auto = Autoguidance(worse, 1.1, interval)
    blurred = MixtureGuidance(1.1, "weights", 0.5, interval)
    return [(), (free,), (auto,), (blurred, pull), (free, auto), (free, auto, pull), (pull, pull)]


@pytest.mark.parametrize("interval", ALL)
@pytest.mark.parametrize("number", range(7))
def test_the_cost_is_what_is_called(parts, interval, number):
    main, worse = parts
    guidance = options(worse, interval)[number]
    settings, steps, num = SamplerSettings("heun", sigma_max=20.0), 4, 4
    weights = np.tile(BASE, (num, 1))
    jax.effects_barrier()
    ROWS.clear()
    main.sample(num, weights, sampler=settings, steps=steps, guidance=guidance, batch_size=num)
    jax.effects_barrier()
    found = guidances.calls(guidance, settings.levels(steps, main.sigma_max))
    assert found.all.sum() * num == sum(ROWS.values())
    assert found.model.sum() == 7
    if not guidance:
        assert found.all.sum() == 7


def test_what_does_not_fit_is_refused(parts, conditioner):
    main, worse = parts
    with pytest.raises(InputError, match="more than one of ClassifierFree and MixtureGuidance"):
        main.sample(4, guidance=(ClassifierFree(2.0), MixtureGuidance(2.0, "weights")))
    with pytest.raises(InputError, match="the embedding table has none: blur weights"):
        main.sample(4, guidance=MixtureGuidance(2.0))
    with pytest.raises(InputError, match=r"MixtureGuidance\.blur is 'means'"):
        MixtureGuidance(2.0, "means")
    alone = dataclasses.replace(worse, classifier=None)
    with pytest.raises(InputError, match="a model without a classifier"):
        main.sample(4, guidance=ClassifierGuidance(alone))
    # A classifier of another semantics sees the same components; a guide is asked otherwise.
    other = dataclasses.replace(
        worse, fitted=worse.fitted.replace(conditioner=conditioner.replace(semantics="mixture"))
    )
    with pytest.raises(InputError, match="semantics mixture where this run has example"):
        main.sample(4, guidance=Autoguidance(other, 2.0))
    assert np.isfinite(main.sample(4, guidance=ClassifierGuidance(other, 0.01)).x).all()
    none = dataclasses.replace(main, fitted=main.fitted.replace(conditioner=None))
    for value in (ClassifierFree(2.0), MixtureGuidance(2.0), ClassifierGuidance()):
        with pytest.raises(InputError, match="needs a condition"):
            none.sample(4, guidance=value)
