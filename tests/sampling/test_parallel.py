"""Parallel sampling against the sequential samplers and closed forms of Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion import mixture
from gmm_diffusion.diffusion.noise_levels import karras
from gmm_diffusion.diffusion.preconditioning import expand_like
from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture import GaussianMixture
from gmm_diffusion.sampling import guidance
from gmm_diffusion.sampling.parallel import STEPS, picard, rounds
from gmm_diffusion.sampling.samplers import SAMPLERS, initial_noise
from gmm_diffusion.types import Condition

MIX = GaussianMixture.create(
    np.array([0.5, 0.3, 0.2]),
    np.array([[1.0, 0.0], [-0.8, 0.9], [-0.6, -1.1]]),
    np.array([[0.1, 0.4], [0.3, 0.15], [0.2, 0.2]]) ** 2,
    "diag",
)
OPTIONS = {"heun": {"churn": 6.0}, "euler": {}, "ancestral": {}}


def exact(x, sigma, cond):
    shift = 0.0 if cond is None else cond
    return mixture.denoise(MIX, x - shift, sigma) + shift


def keys(n):
    return jax.random.split(jax.random.key(0), n)


def both(name, n, sigmas, cond=None, denoise_fn=exact, **settings):
    """Sequential samples, parallel ones and what these took."""
    options = settings.pop("options", {})

    @jax.jit
    def go(x, cond):
        sequential, _ = SAMPLERS[name](denoise_fn, keys(n), x, sigmas, cond, **options)
        parallel, info = picard(
            denoise_fn, keys(n), x, sigmas, cond, step=name, **settings, **options
        )
        return sequential, parallel, info

    return jax.device_get(go(initial_noise(keys(n), (2,), sigmas[0]), cond))


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize(("window", "sigma_data"), [(1, 0.8), (5, None), (100, 0.8)])
def test_tolerance_zero_is_the_sequential_sampler(name, window, sigma_data):
    sequential, parallel, info = both(
        name, 8, karras(18, 0.01, 80.0), window=window, tolerance=0.0, sigma_data=sigma_data
    )
    np.testing.assert_allclose(parallel, sequential, atol=1e-5)
    assert (info.rounds <= 18).all()
    assert (info.bad_step == -1).all()
    if window == 1:
        assert (info.rounds == 18).all()
        assert (info.evaluations == 18 * SAMPLERS[name].step_evaluations).all()
    # The samples differ, so the comparison means something.
    assert sequential.std(0).min() > 0.3


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("num_steps", [1, 5])
def test_few_steps_with_options_and_a_condition(name, num_steps):
    cond = jnp.asarray([[3.0], [-3.0], [0.0]])
    sequential, parallel, _ = both(
        name,
        3,
        karras(num_steps, 0.05, 10.0),
        cond,
        window=4,
        tolerance=0.0,
        options=OPTIONS[name],
    )
    np.testing.assert_allclose(parallel, sequential, atol=2e-5)


def test_guidance_of_any_kind():
    """With an interval, where the noise levels of one call differ."""
    cond = Condition(jnp.asarray([[0.5, 0.0], [-0.5, 0.3], [0.1, 0.1]]), jnp.ones(3))

    def conditional(x, sigma, cond):
        return exact(x, sigma, cond.features * cond.keep[:, None])

    guided = guidance.classifier_free(conditional, 2.0, interval=(0.1, 3.0), limit=0.5)
    pulled = guidance.energy_guided(
        guided, lambda x, sigma, cond: 0.1 * jnp.sum(jnp.square(x), axis=1), 1.0
    )
    for denoise_fn in (guided, pulled):
        sequential, parallel, _ = both(
            "euler", 3, karras(12, 0.02, 20.0), cond, denoise_fn, window=6, tolerance=0.0
        )
        np.testing.assert_allclose(parallel, sequential, atol=2e-5)


def test_images_keep_their_shape_and_type():
    def shrink(x, sigma, cond):
        return x / (1 + jnp.square(expand_like(sigma, x)))

    x = initial_noise(keys(3), (4, 4, 2), 5.0)
    drawn, _ = picard(shrink, keys(3), x, karras(6, 0.1, 5.0), window=3, tolerance=0.0)
    assert (drawn.shape, drawn.dtype) == ((3, 4, 4, 2), jnp.float32)


@pytest.mark.parametrize("name", STEPS)
def test_white_data_take_one_round_a_window(name):
    """Their guesses are exact without noise, and their corrections always."""

    def white(x, sigma, cond):
        return x * (0.5**2 / (0.5**2 + jnp.square(expand_like(sigma, x))))

    # One round finds the noise of all steps, another one sees that nothing moves.
    noisy = SAMPLERS[name].stochastic
    for window, expected in ((20, 2 if noisy else 1), (1, 20)):
        sequential, parallel, info = both(
            name,
            4,
            karras(20, 0.01, 40.0),
            None,
            white,
            window=window,
            tolerance=1e-3,
            sigma_data=0.5,
        )
        np.testing.assert_allclose(parallel, sequential, atol=1e-4)
        assert (info.rounds == expected).all()


def test_fewer_rounds_than_steps_and_an_error_of_the_tolerance():
    sigmas = karras(64, 0.01, 40.0)
    errors, rounds = [], []
    for tolerance in (0.3, 0.03, 0.0):
        sequential, parallel, info = both(
            "euler", 64, sigmas, window=64, tolerance=tolerance, sigma_data=0.8
        )
        errors.append(np.median(np.abs(parallel - sequential)))
        rounds.append(info.rounds.mean())
    assert errors[0] > errors[1] > errors[2]
    assert errors[1] < 1e-3
    assert rounds[0] < rounds[1] < rounds[2] < 40
    assert rounds[1] < 12


@pytest.mark.parametrize(("name", "share"), [("euler", 1.05), ("ancestral", 0.75)])
def test_rounds_beside_those_of_published_corrections(name, share):
    sigmas = karras(32, 0.01, 40.0)
    rounds = [
        both(name, 32, sigmas, window=32, tolerance=0.1, sigma_data=data)[2].rounds.mean()
        for data in (0.8, None)
    ]
    assert rounds[0] < share * rounds[1]


def test_a_sample_does_not_depend_on_its_batch():
    sigmas = karras(18, 0.02, 20.0)

    @jax.jit
    def draw(keys, x):
        return picard(exact, keys, x, sigmas, window=6, tolerance=0.2)

    own = keys(9)
    x = initial_noise(own, (2,), sigmas[0])
    whole, info = draw(own, x)
    order = np.array([7, 2, 4])
    part, part_info = draw(own[order], x[order])
    np.testing.assert_allclose(part, whole[order], atol=1e-5)
    np.testing.assert_array_equal(part_info.rounds, info.rounds[order])
    # They take different numbers of rounds, so one window for all would have shown.
    assert len(np.unique(info.rounds)) > 1


@pytest.mark.parametrize("name", STEPS)
def test_evaluations_are_those_that_happen(name):
    rows, traced = [], []

    def counting(x, sigma, cond):
        traced.append(len(x))
        jax.debug.callback(lambda level: rows.append(float(level)), sigma)
        return exact(x, sigma, cond)

    x = initial_noise(keys(1), (2,), 20.0)
    sigmas, calls = karras(6, 0.1, 20.0), SAMPLERS[name].step_evaluations
    _, info = picard(
        counting, keys(1), x, sigmas, step=name, window=3, tolerance=0.1, **OPTIONS[name]
    )
    jax.effects_barrier()
    assert len(traced) == calls
    # Rows of a window that reaches past the end are computed, and not counted.
    assert len(rows) == 3 * info.rounds[0] * calls
    assert 6 * calls <= info.evaluations[0] <= len(rows)


def test_guesses_that_are_not_finite_do_no_harm():
    """This denoiser breaks far from where each sample ends, as guesses are and no true points."""
    sigmas = karras(18, 0.01, 80.0)
    ends, _, _ = both("euler", 8, sigmas, window=1, tolerance=0.0)

    def brittle(x, sigma, cond):
        far = (sigma < 0.05) & (jnp.max(jnp.abs(x - cond), axis=1) > 0.3)
        return jnp.where(far, jnp.nan, 1.0)[:, None] * exact(x, sigma, None)

    guesses = initial_noise(keys(8), (2,), sigmas[0]) / np.sqrt(1 + 80.0**2)
    assert np.abs(guesses - ends).max(axis=1).max() > 0.5
    sequential, parallel, info = both(
        "euler", 8, sigmas, ends, brittle, window=18, tolerance=0.0, sigma_data=None
    )
    assert np.isfinite(sequential).all()
    np.testing.assert_allclose(parallel, sequential, atol=1e-5)
    assert (info.bad_step == -1).all()


def test_a_trajectory_that_is_not_finite_is_named_and_alone():
    sigmas = karras(10, 0.01, 20.0)
    limit = float(sigmas[6])
    cond = jnp.asarray([[0.0], [1.0], [0.0]])

    def breaks(x, sigma, cond):
        bad = (cond[:, 0] > 0) & (sigma <= limit)
        return jnp.where(bad, jnp.inf, 1.0)[:, None] * exact(x, sigma, None)

    sequential, parallel, info = both("euler", 3, sigmas, cond, breaks, window=4, tolerance=0.0)
    np.testing.assert_array_equal(info.bad_step, [-1, 6, -1])
    assert np.isnan(parallel[1]).all()
    np.testing.assert_allclose(parallel[[0, 2]], sequential[[0, 2]], atol=1e-5)


@pytest.mark.parametrize("window", [2, 6])
def test_devices_share_a_window(window):
    """Of a few samples: the same samples and counts, and no step is taken on two devices."""
    sigmas, counted = karras(9, 0.05, 20.0), []
    x = initial_noise(keys(2), (2,), sigmas[0])
    options = {"step": "ancestral", "window": window, "tolerance": 0.05}

    def counting(x, sigma, cond):
        jax.debug.callback(lambda _: counted.append(1), sigma)
        return exact(x, sigma, cond)

    def spread(_, x):
        return picard(counting, keys(2), x, sigmas, axis_name="devices", **options)

    drawn, info = jax.pmap(spread, "devices", in_axes=(0, None))(np.zeros(4), x)
    jax.effects_barrier()
    alone, expected = jax.jit(lambda x: picard(exact, keys(2), x, sigmas, **options))(x)
    for device in range(4):
        np.testing.assert_allclose(drawn[device], alone, atol=1e-5)
        np.testing.assert_array_equal(info.rounds[device], expected.rounds)
        np.testing.assert_array_equal(info.evaluations[device], expected.evaluations)
    share = -(-min(window, 9) // 4)
    assert len(counted) == 4 * share * 2 * expected.rounds.max()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 0}, "window is 0; it must be at least 1"),
        ({"tolerance": -0.1}, r"tolerance is -0\.1; it must be at least 0"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
        ({"step": "dpmpp_2m"}, "step is 'dpmpp_2m'; valid are the single-step samplers heun, eu"),
        ({"step": "ddim"}, "step is 'ddim'"),
    ],
)
def test_bad_input_is_named(settings, message):
    with pytest.raises(InputError, match=message):
        picard(exact, keys(2), jnp.ones((2, 2)), karras(3, 0.1, 5.0), **settings)


@pytest.mark.float64
def test_in_double_precision():
    sigmas = karras(6, 0.05, 10.0).astype(jnp.float64)
    sequential, parallel, info = both("euler", 3, sigmas, window=4, tolerance=0.0)
    assert sequential.dtype == parallel.dtype == np.float64
    np.testing.assert_allclose(parallel, sequential, atol=1e-12)
    assert info.rounds.dtype == info.evaluations.dtype == np.int32


def test_round_by_round_it_is_picard_and_what_is_found_is_the_sequential_path():
    sigmas, n = karras(12, 0.01, 20.0), 5
    x = initial_noise(keys(n), (2,), sigmas[0])
    path, step = [x], SAMPLERS["ancestral"]
    for i in range(12):
        own = jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys(n))
        path.append(step.step(exact, own, path[-1], sigmas[i], sigmas[i + 1], None, num_steps=12))
    path = np.stack(path)
    settings = {"step": "ancestral", "window": 4, "tolerance": 0.0}
    state, one_round = rounds(exact, keys(n), x, sigmas, **settings)
    advance, seen = jax.jit(one_round), [np.asarray(state.first)]
    while (np.asarray(state.first) < 12).any():
        inside = np.asarray(state.numbers) < 12
        assert (np.asarray(state.numbers[0]) == np.minimum(seen[-1], 12)).all()
        state = advance(state)
        seen.append(np.asarray(state.first))
        assert ((seen[-1] > seen[-2]) | (seen[-2] == 12)).all()
        found = path[seen[-1], np.arange(n)]
        np.testing.assert_allclose(state.points[0], found, atol=1e-5)
        assert inside.sum() > 0
    ends, info = picard(exact, keys(n), x, sigmas, **settings)
    np.testing.assert_allclose(ends, state.points[0], atol=1e-6)
    np.testing.assert_array_equal(info.rounds, state.info.rounds)
    np.testing.assert_array_equal(info.evaluations, state.info.evaluations)
