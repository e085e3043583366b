"""Samplers over the table: contract, measured order, churn, and the law of what they draw."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from gmm_diffusion import mixture
from gmm_diffusion.diffusion.noise_levels import karras
from gmm_diffusion.mixture import GaussianMixture
from gmm_diffusion.sampling.samplers import SAMPLERS, add_churn, initial_noise

NAMES = tuple(SAMPLERS)
DETERMINISTIC = tuple(name for name in NAMES if not SAMPLERS[name].stochastic)
STOCHASTIC = tuple(name for name in NAMES if SAMPLERS[name].stochastic)
CHURNING = tuple(
    name for name in NAMES if "churn" in inspect.signature(SAMPLERS[name].step).parameters
)

WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[1.0, 0.0], [-0.8, 0.9], [-0.6, -1.1]])
STDS = np.array([[0.1, 0.4], [0.3, 0.15], [0.2, 0.2]])


def toy():
    return GaussianMixture.create(WEIGHTS, MEANS, STDS**2, "diag")


def exact(x, sigma, cond):
    """The exact denoiser; a condition shifts the whole mixture."""
    shift = 0.0 if cond is None else cond
    return mixture.denoise(toy(), x - shift, sigma) + shift


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def run(name, batch_keys, sigmas, cond=None, shape=(2,), denoise_fn=exact, **options):
    """One jitted run from the keys' own initial noise."""
    sampler = functools.partial(SAMPLERS[name], **options)

    @jax.jit
    def go(batch_keys, sigmas, cond):
        x = initial_noise(batch_keys, shape, sigmas[0])
        return sampler(denoise_fn, batch_keys, x, sigmas, cond)[0]

    return np.asarray(go(batch_keys, sigmas, cond))


# ---- the contract, for every member of the table


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(2,), (4, 4, 3)])
@pytest.mark.parametrize("num_steps", [1, 5])
def test_shape_and_type_are_kept_under_jit(name, shape, num_steps):
    def shrink(x, sigma, cond):
        return x / (1 + jnp.square(sigma))

    x = run(name, keys(3), karras(num_steps, 0.1, 5.0), shape=shape, denoise_fn=shrink)
    assert x.shape == (3, *shape)
    assert x.dtype == np.float32
    assert np.isfinite(x).all()


@pytest.mark.float64
@pytest.mark.parametrize("name", NAMES)
def test_double_precision_is_kept(name):
    x, _ = SAMPLERS[name](
        lambda x, sigma, cond: x / (1 + sigma**2), keys(2), jnp.ones((2, 2)), karras(3, 0.1, 5.0)
    )
    assert x.dtype == jnp.float64


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_evaluations_are_those_that_happen(name, num_steps):
    calls = []

    def counting(x, sigma, cond):
        jax.debug.callback(lambda level: calls.append(float(level)), sigma)
        return x * 0.5

    run(name, keys(2), karras(num_steps, 0.1, 5.0), denoise_fn=counting)
    jax.effects_barrier()
    assert len(calls) == SAMPLERS[name].evaluations(num_steps)
    levels = SAMPLERS[name].levels(np.asarray(karras(num_steps, 0.1, 5.0)))
    np.testing.assert_allclose(sorted(calls), sorted(levels), rtol=1e-6)
    # Never at noise level 0, where a denoiser is undefined.
    assert min(calls) > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_is_the_same_in_any_batch(name):
    options = {"churn": 10.0} if name in CHURNING else {}
    cond = jnp.asarray(np.random.default_rng(0).normal(size=(6, 1)), jnp.float32)
    sigmas = karras(8, 0.02, 10.0)
    whole = run(name, keys(6), sigmas, cond, **options)
    order = np.array([4, 1, 0])
    part = run(name, keys(6)[order], sigmas, cond[order], **options)
    np.testing.assert_allclose(part, whole[order], atol=2e-4)
    # The samples themselves differ, so the comparison means something.
    assert np.abs(whole[:, None] - whole[None]).sum(-1)[~np.eye(6, dtype=bool)].min() > 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_last_step_returns_the_denoised_data_exactly(name):
    """At noise level 0 nothing of the noisy point may be left."""
    constant = jnp.asarray([[0.1, -7.3], [1e-3, 42.0]])
    x = run(name, keys(2), karras(6, 0.002, 80.0), denoise_fn=lambda x, sigma, cond: constant)
    assert np.array_equal(x, np.asarray(constant))


@pytest.mark.parametrize("name", NAMES)
def test_a_single_step_is_the_denoised_noise(name):
    sigmas = karras(1, 0.002, 20.0)
    x = run(name, keys(5), sigmas)
    expected = exact(initial_noise(keys(5), (2,), 20.0), jnp.float32(20.0), None)
    np.testing.assert_allclose(x, expected, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_condition_reaches_the_denoiser(name):
    cond = jnp.asarray([[5.0], [-5.0], [5.0], [-5.0]])
    x = run(name, keys(4), karras(16, 0.02, 20.0), cond)
    assert np.array_equal(np.sign(x[:, 0]), np.sign(cond[:, 0]))


def test_noise_level_is_a_scalar_or_one_an_example():
    shapes = []

    def record(x, sigma, cond):
        shapes.append(jnp.shape(sigma))
        return x

    for name in NAMES:
        SAMPLERS[name](record, keys(3), jnp.ones((3, 2)), karras(4, 0.1, 5.0))
    assert set(shapes) <= {(), (3,)}


def test_initial_noise_belongs_to_the_key_and_has_the_given_scale():
    x = np.asarray(initial_noise(keys(20_000), (2,), 7.0))
    assert stats.kstest(x.ravel() / 7.0, "norm").pvalue > 1e-3
    np.testing.assert_array_equal(x[5:8], np.asarray(initial_noise(keys(20_000)[5:8], (2,), 7.0)))
    # Not the noise that any step draws from the same key.
    step_noise = jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, 0), (2,)))(keys(100))
    assert np.abs(np.corrcoef(x[:100].ravel(), np.asarray(step_noise).ravel())[0, 1]) < 0.3


# ---- the order, in double precision


def slope(name, x_init, truth, denoise_fn, steps, low, high):
    """Least-squares slope of log error against log of the number of intervals."""
    errors = []
    for num_steps in steps:
        x = jax.jit(lambda x, s: SAMPLERS[name](denoise_fn, keys(len(x_init)), x, s)[0])(
            x_init, karras(num_steps, low, high)
        )
        errors.append(np.sqrt(np.mean(np.square(np.asarray(x) - truth))))
    # The last interval of the grid ends at sigma_min, before the step to 0.
    intervals = np.array(steps) - 1
    return -np.polyfit(np.log(intervals), np.log(errors), 1)[0], errors


@pytest.mark.float64
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_against_the_closed_form_of_a_gaussian(name):
    deviations, mean = np.array([2.0, 0.5, 0.1]), np.array([0.3, -1.0, 0.5])
    rng, low, high = np.random.default_rng(0), 0.02, 10.0
    basis, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    mix = GaussianMixture.create(
        np.ones(1), mean[None], (basis * deviations**2 @ basis.T)[None], "full"
    )
    x = mean + high * rng.normal(size=(16, 3))
    # Along each eigenvector x - mean shrinks as the total standard deviation does.
    scale = np.sqrt((deviations**2 + low**2) / (deviations**2 + high**2))
    at_low = mean + ((x - mean) @ basis * scale) @ basis.T
    last = deviations**2 / (deviations**2 + low**2)
    truth = mean + ((at_low - mean) @ basis * last) @ basis.T
    measured, errors = slope(
        name,
        jnp.asarray(x),
        truth,
        lambda x, sigma, cond: mixture.denoise(mix, x, sigma),
        (33, 65, 129),
        low,
        high,
    )
    assert measured == pytest.approx(SAMPLERS[name].order, abs=0.3), errors
    assert errors[-1] < 0.05


@pytest.mark.float64
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_against_a_fine_solution_for_a_mixture(name):
    """SciPy's own integration of a denoiser written out in NumPy is the truth."""
    low, high = 0.05, 5.0
    x = MEANS.mean(0) + high * np.random.default_rng(1).normal(size=(8, 2))

    def denoise(x, sigma):
        total = STDS**2 + sigma**2
        log_joint = np.log(WEIGHTS) + stats.norm.logpdf(x[:, None], MEANS, np.sqrt(total)).sum(-1)
        r = np.exp(log_joint - log_joint.max(1, keepdims=True))
        r = r / r.sum(1, keepdims=True)
        posterior = (STDS**2 * x[:, None] + sigma**2 * MEANS) / total
        return (r[..., None] * posterior).sum(1)

    def slope_of(sigma, flat):
        points = flat.reshape(-1, 2)
        return ((points - denoise(points, sigma)) / sigma).ravel()

    solution = integrate.solve_ivp(
        slope_of, (high, low), x.ravel(), method="DOP853", rtol=1e-9, atol=1e-10
    )
    truth = denoise(solution.y[:, -1].reshape(-1, 2), low)
    mix = toy()
    measured, errors = slope(
        name,
        jnp.asarray(x),
        truth,
        lambda x, sigma, cond: mixture.denoise(mix, x, sigma),
        (65, 129, 257),
        low,
        high,
    )
    assert measured == pytest.approx(SAMPLERS[name].order, abs=0.3), errors
    assert errors[-1] < 0.02


def shrunk(deviation):
    """The exact denoiser of a centred Gaussian."""
    return lambda x, sigma, cond: deviation**2 / (deviation**2 + sigma**2) * x


@pytest.mark.parametrize("name", STOCHASTIC)
def test_weak_order_of_the_variance_of_a_gaussian(name):
    """The error of the second moment against the number of steps, for many samples."""
    deviation, n, errors, steps = 0.5, 200_000, [], (17, 33, 65)
    for num_steps in steps:
        sigmas = karras(num_steps, 0.02, 20.0)
        x = run(name, keys(n), sigmas, shape=(1,), denoise_fn=shrunk(deviation))
        assert abs(x.mean()) < 5 * x.std() / np.sqrt(n)
        errors.append(abs(np.log(x.var() / deviation**2)))
    measured = -np.polyfit(np.log(np.array(steps) - 1), np.log(errors), 1)[0]
    assert measured == pytest.approx(SAMPLERS[name].order, abs=0.3), errors
    assert errors[-1] < 0.2


def test_ancestral_steps_have_the_variance_of_the_posterior():
    """In law each step is linear with independent noise, so its variance is a recursion."""
    deviation, n, high = 0.5, 100_000, 20.0
    sigmas = karras(20, 0.02, high)
    x = run("ancestral", keys(n), sigmas, shape=(1,), denoise_fn=shrunk(deviation))
    variance = high**2
    for sigma, sigma_next in itertools.pairwise(np.asarray(sigmas, np.float64)):
        kept = sigma_next**2 / sigma**2
        posterior = sigma_next**2 * (1 - kept)
        factor = kept + (1 - kept) * deviation**2 / (deviation**2 + sigma**2)
        variance = factor**2 * variance + posterior
    assert x.var() == pytest.approx(variance, rel=5 * np.sqrt(2 / n))


def test_ancestral_without_noise_is_euler():
    sigmas = karras(12, 0.02, 10.0)
    quiet = run("ancestral", keys(16), sigmas, eta=0.0)
    np.testing.assert_allclose(quiet, run("euler", keys(16), sigmas), atol=2e-4)
    assert np.abs(run("ancestral", keys(16), sigmas) - quiet).max() > 0.1


# ---- churn


@pytest.mark.parametrize("name", CHURNING)
def test_no_churn_is_bit_identical_to_churn_of_zero_and_churn_elsewhere(name):
    sigmas = karras(8, 0.02, 10.0)
    plain = run(name, keys(8), sigmas)
    assert np.array_equal(plain, run(name, keys(8), sigmas, churn=0.0))
    outside = run(name, keys(8), sigmas, churn=20.0, churn_min=11.0)
    np.testing.assert_allclose(outside, plain, atol=1e-3)
    outside = run(name, keys(8), sigmas, churn=20.0, churn_max=0.01)
    np.testing.assert_allclose(outside, plain, atol=1e-3)
    assert np.abs(run(name, keys(8), sigmas, churn=20.0) - plain).max() > 0.1


@pytest.mark.parametrize("name", CHURNING)
@pytest.mark.parametrize("churn", [10.0, 1000.0])
def test_churn_keeps_the_distribution(name, churn):
    """The variance of a Gaussian, with 1000 beyond the largest gamma that is used."""
    deviation, n, num_steps = np.array([1.5, 0.3]), 20_000, 96

    def gaussian(x, sigma, cond):
        return jnp.asarray(deviation**2)[None] / (jnp.asarray(deviation**2) + sigma**2)[None] * x

    x = run(name, keys(n), karras(num_steps, 0.01, 30.0), denoise_fn=gaussian, churn=churn)
    np.testing.assert_allclose(x.mean(0) / deviation, 0, atol=5 / np.sqrt(n))
    np.testing.assert_allclose(x.std(0), deviation, rtol=0.02 if churn < 100 else 0.03)
    assert stats.kstest(x[:, 0] / x[:, 0].std(), "norm").pvalue > 1e-3
    plain = run(name, keys(n), karras(num_steps, 0.01, 30.0), denoise_fn=gaussian)
    # Almost nothing of the start is left in a churned sample.
    assert abs(np.corrcoef(plain[:, 1], x[:, 1])[0, 1]) < 0.9


def test_churn_raises_the_noise_level_as_published():
    """Lines 4 to 6 of algorithm 2: `sigma_hat = (1 + gamma) sigma` within the interval."""
    x, sigma = jnp.zeros((40_000, 1)), jnp.float32(2.0)
    for amount, noise, gamma in ((0.1, 1.0, 0.1), (5.0, 1.0, np.sqrt(2) - 1), (0.2, 1.01, 0.2)):
        y, raised = add_churn(keys(40_000), x, sigma, amount, 0.0, np.inf, noise)
        assert float(raised) == pytest.approx(2.0 * (1 + gamma), rel=1e-5)
        expected = noise * 2.0 * np.sqrt((1 + gamma) ** 2 - 1)
        assert float(jnp.std(y)) == pytest.approx(expected, rel=0.015)
    for low, high, inside in ((2.0, 2.0, True), (2.1, np.inf, False), (0.0, 1.9, False)):
        y, raised = add_churn(keys(3), x[:3], sigma, 0.1, low, high, 1.0)
        assert (float(raised) > 2.0) == inside
        assert (np.abs(np.asarray(y)).max() > 0) == inside


# ---- the law of the samples


@pytest.mark.parametrize("name", NAMES)
def test_samples_of_a_mixture_follow_its_law(name):
    """Projections in several directions against the mixture's own distribution function."""
    n = 4000
    num_steps = 40 if SAMPLERS[name].order > 1 else 400
    x = run(name, keys(n, seed=3), karras(num_steps, 0.005, 40.0))
    for angle in np.linspace(0, np.pi, 6, endpoint=False):
        direction = np.array([np.cos(angle), np.sin(angle)])
        centers, stds = MEANS @ direction, np.sqrt(STDS**2 @ direction**2)

        def law(value, centers=centers, stds=stds):
            return stats.norm.cdf(value[:, None], centers, stds) @ WEIGHTS

        assert stats.kstest(x @ direction, law).pvalue > 1e-3
    nearest = np.argmin(((x[:, None] - MEANS) ** 2 / STDS**2).sum(-1), 1)
    counts = np.bincount(nearest, minlength=3) / n
    np.testing.assert_allclose(counts, WEIGHTS, atol=5 * np.sqrt(0.25 / n))
