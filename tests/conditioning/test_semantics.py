"""Under `mixture` semantics the optimal denoiser given `w` is that of the re-weighted mixture.

Shown three times: by quadrature over the published densities, by Monte-Carlo over the weights that
the code draws, and by networks trained on them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gmm_diffusion import conditioning, mixture
from gmm_diffusion.conditioning import requests
from gmm_diffusion.conditioning.features import fit_raw
from gmm_diffusion.conditioning.weights import mixture_semantics
from gmm_diffusion.diffusion import noise_levels
from gmm_diffusion.mixture import GaussianMixture
from gmm_diffusion.model import denoiser as denoiser_lib
from gmm_diffusion.networks import MLP, LogVariance
from gmm_diffusion.networks.initialisation import initialise
from gmm_diffusion.sampling.samplers import SAMPLERS, initial_noise
from gmm_diffusion.training import loss as loss_lib
from gmm_diffusion.training import optimizer as optimizer_lib
from gmm_diffusion.training import state as state_lib
from gmm_diffusion.training.step import train_step
from gmm_diffusion.types import Batch

BASE = np.array([0.4, 0.3, 0.2, 0.1])
GROUP = np.array([0, 0, 1, 1])
MEANS = {
    1: np.array([[-1.2], [-0.2], [0.5], [1.6]]),
    2: np.array([[0.8, 0.6], [-0.9, 0.5], [0.1, -0.9], [-0.2, 0.1]]),
}
# Wide enough that components overlap and a point does not give its own away.
STD = 0.3
# Shares of the spread families, and of single components.
FAMILIES = {
    "all": (1.0, 0.0, 0.0),
    "within": (0.0, 1.0, 0.0),
    "blend": (0.0, 0.0, 0.0),
    "together": (0.4, 0.3, 0.0),
    "with_one_hot": (0.4, 0.3, 0.5),
}


def mix(dim):
    means = MEANS[dim] - BASE @ MEANS[dim]
    return GaussianMixture.create(BASE, means, np.full(4, STD**2), "spherical")


@functools.partial(jax.jit, static_argnames=("dim", "n"))
def pairs(dim, n, shares, key):
    """`n` pairs of data and training weights, the weights drawn from responsibilities alone."""
    toy = mix(dim)
    x = mixture.sample(toy, jax.random.fold_in(key, 0), n)
    keys = jax.random.split(jax.random.fold_in(key, 1), n)
    base, group = jnp.asarray(BASE, jnp.float32), jnp.asarray(GROUP)
    own = mixture.responsibilities(toy, x)
    *shares, one_hot_share = shares
    return x, mixture_semantics(keys, own, base, group, shares=shares, one_hot_share=one_hot_share)


def largest_z(residual, tests):
    """Largest |z| of the mean of `residual [N, D]` times each test function `[N, T]`."""
    products = (residual[:, :, None] * tests[:, None]).reshape(len(residual), -1)
    return np.max(np.abs(products.mean(0)) / (products.std(0) + 1e-12)) * np.sqrt(len(products))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dim", [1, 2])
def test_denoiser_of_the_reweighted_mixture_is_optimal(family, dim):
    """The one function of `(y, w)` whose error is uncorrelated with every other function of it."""
    n = 60_000
    x, w = pairs(dim, n, FAMILIES[family], jax.random.key(dim))
    for sigma in (0.2, 0.8):
        y = x + sigma * jax.random.normal(jax.random.key(7), x.shape)
        given = mixture.denoise(mix(dim), y, sigma, weights=w)
        ignored = mixture.denoise(mix(dim), y, sigma)
        w64, y64 = np.asarray(w, np.float64), np.asarray(y, np.float64)
        functions = np.concatenate(
            [np.ones((n, 1)), w64, w64**2, w64 > 0.5, y64, np.cos(2 * y64), w64 * y64[:, :1]], 1
        )
        assert largest_z(np.asarray(x - given, np.float64), functions) < 5
        # Of another denoiser the same test says that it is not.
        assert largest_z(np.asarray(x - ignored, np.float64), functions) > 10


def test_estimate_at_given_weights():
    """`E[x | y, w]` from the drawn pairs with `w` near a target, weighted by the noise's law."""
    sigma, keys = 0.4, jax.random.split(jax.random.key(5), 3)
    parts = [pairs(1, 60_000, FAMILIES["within"], key) for key in keys]
    x, w = (np.concatenate(column).astype(np.float64) for column in zip(*parts, strict=True))
    centers = np.asarray(mix(1).means, np.float64)
    for target in (0.25, 0.75):
        # Within the first group: weights `(t, 1 - t, 0, 0)`.
        near = (np.abs(w[:, 0] - target) < 0.03) & (w[:, 2] + w[:, 3] == 0)
        own, mean_w = x[near, 0], w[near].mean(0)
        assert len(own) > 2000
        for y in (-1.5, -0.6, 0.2):
            kernel = np.exp(-0.5 * ((y - own) / sigma) ** 2)
            estimate = np.sum(kernel * own) / np.sum(kernel)
            error = np.sqrt(np.sum((kernel * (own - estimate)) ** 2)) / np.sum(kernel)
            claim = mixture.denoise(
                mix(1), jnp.asarray([[y]]), sigma, weights=jnp.asarray(mean_w, jnp.float32)
            )
            assert float(claim[0, 0]) == pytest.approx(estimate, abs=5 * error)
            ignored = float(mixture.denoise(mix(1), jnp.asarray([[y]]), sigma)[0, 0])
            by_hand = mean_w * stats.norm.pdf(y, centers[:, 0], np.hypot(STD, sigma))
            posterior = (STD**2 * y + sigma**2 * centers[:, 0]) / (STD**2 + sigma**2)
            assert float(claim[0, 0]) == pytest.approx(
                by_hand @ posterior / by_hand.sum(), abs=1e-4
            )
            # The precision suffices to see whether w was used.
            assert y != 0.2 or abs(ignored - estimate) > 5 * error


def test_conjugacy_by_quadrature():
    """Two components and SciPy's Beta densities: `p(x | w)` is the mixture with weights `w`."""
    base, means = np.array([0.7, 0.3]), np.array([-0.5, 0.8])
    x = np.linspace(-6, 6, 20_001)
    components = stats.norm.pdf(x[:, None], means, STD)
    density = components @ base
    r = components * base / density[:, None]
    two = GaussianMixture.create(base, means[:, None], np.full(2, STD**2), "spherical")
    concentrations = np.exp(np.linspace(np.log(0.1), np.log(30.0), 41))
    for w in (0.02, 0.4, 0.9):
        # p(w | k), averaged over the concentration.
        given = [
            np.mean([
                stats.beta(a * base[0] + (k == 0), a * base[1] + (k == 1)).pdf(w)
                for a in concentrations
            ])
            for k in range(2)
        ]  # fmt: skip
        joint = density * (r @ np.array(given))
        for y, sigma in ((-1.0, 0.3), (0.2, 0.7)):
            posterior = joint * stats.norm.pdf(y, x, sigma)
            expected = np.sum(x * posterior) / np.sum(posterior)
            actual = mixture.denoise(
                two, jnp.asarray([[y]]), sigma, weights=jnp.asarray([w, 1 - w])
            )
            assert float(actual[0, 0]) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("text", ["class:0", "0.25*class:0+0.75*class:1", "train"])
def test_drawn_components_sample_the_law_of_the_weights(text):
    """With the exact denoiser: modes as often as `w` says, and the density `sum_k w_k p(x | k)`."""
    n, std, means = 4000, 0.1, MEANS[2]
    p = np.array([[4 / 7, 3 / 7, 0, 0], [0, 0, 2 / 3, 1 / 3]])
    # Classes take turns in `train`.
    shares = {"class:0": [1, 0], "0.25*class:0+0.75*class:1": [0.25, 0.75], "train": [0.5, 0.5]}
    w, k = shares[text] @ p, np.repeat(np.arange(4), [40, 30, 20, 10])
    toy = GaussianMixture.create(BASE, means, np.full(4, std**2), "spherical")
    identity = fit_raw(np.array([[-1.0, -1.0], [1.0, 1.0]]))
    conditioner = conditioning.create(
        toy, identity, GROUP, np.eye(4, dtype=np.float32)[k], GROUP[k], 2,
        embedding_name="table", semantics="mixture",
    )  # fmt: skip
    asked = requests.weights(conditioner, text, n, 0)
    keys = jax.random.split(jax.random.key(0), n)
    sigmas = noise_levels.karras(40, 0.002, 20.0, 7.0)

    @jax.jit
    def draw(keys, weights):
        def denoise_fn(x, sigma, cond):
            return mixture.denoise(toy, x, sigma, weights=cond)

        start = initial_noise(keys, (2,), sigmas[0])
        return SAMPLERS["heun"](denoise_fn, keys, start, sigmas, weights)[0]

    x = np.asarray(draw(keys, jnp.asarray(asked.weights)), np.float64)
    # Modes are at least four standard deviations apart from their middles.
    nearest = np.argmin(np.sum((x[:, None] - means) ** 2, axis=-1), axis=1)
    counts = np.bincount(nearest, minlength=4)
    assert np.all(counts[w == 0] == 0)
    assert stats.chisquare(counts[w > 0], n * w[w > 0]).pvalue > 1e-4
    for direction in ([1.0, 0.0], [0.0, 1.0], [0.6, 0.8]):
        centers = means @ direction

        def cdf(t, centers=centers):
            return stats.norm.cdf(t[:, None], centers, std) @ w

        assert stats.kstest(x @ direction, cdf).pvalue > 1e-4


TARGETS = np.array(
    [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [0.1, 0.9, 0, 0],
        [0.3, 0, 0.7, 0],
        [0.1, 0.2, 0.3, 0.4],
    ],
    np.float32,
)


@pytest.mark.parametrize("embedding", ["mean_embedding", "table"])
def test_a_small_network_learns_the_reweighted_mixture(embedding):
    toy, batch_size, options = mix(2), 256, {"shares": (0.4, 0.3), "one_hot_share": 0.0}
    pool = np.asarray(mixture.sample(toy, jax.random.key(0), 20_000))
    identity = fit_raw(np.array([[-1.0, -1.0], [1.0, 1.0]]))
    weights = conditioning.example_weights(toy, identity, np.full(4, -1), pool, None)
    conditioner = conditioning.create(
        toy,
        identity,
        np.full(4, -1),
        weights,
        None,
        0,
        embedding_name=embedding,
        semantics="mixture",
        num_features=64,
        semantics_options=options,
    )
    np.testing.assert_allclose(conditioner.base, BASE, atol=0.02)
    sd = float(np.sqrt(np.mean(np.square(pool))))
    network, log_variance = MLP(64, 2), LogVariance(16)
    cond = conditioning.encode(conditioner, conditioner.base[None])
    params = {
        "network": initialise(
            lambda key: network.init(key, jnp.zeros((1, 2)), jnp.zeros(1), cond), 0
        ),
        "log_variance": initialise(lambda key: log_variance.init(key, jnp.zeros(1)), 0),
    }
    denoise = denoiser_lib.Denoiser(network, sd)
    loss_fn = loss_lib.make_loss_fn(
        denoise,
        denoiser_lib.make_log_variance(log_variance),
        conditioner,
        sigma_data=sd,
        sigma_log_mean=-1.0,
        sigma_log_std=0.9,
        semantics_options=options,
    )
    made = optimizer_lib.make_optimizer(optimizer_lib.learning_rate("edm2", 0.01, 20, 200, 10_000))
    optimizer = {"network": made, "log_variance": made}

    @jax.jit
    def train(state, pool, weights):
        def body(state, _):
            key = jax.random.fold_in(jax.random.key(1), state.step)
            rows = jax.random.randint(key, (batch_size,), 0, len(pool))
            batch = Batch(pool[rows], jnp.arange(batch_size), jnp.ones(batch_size), weights[rows])
            return train_step(state, batch, jax.random.key(2), loss_fn=loss_fn, optimizer=optimizer)

        return jax.lax.scan(body, state, length=1000)[0]

    state = state_lib.create(params, optimizer, 2)
    # The longer of the two averages, as a model is used.
    params = train(state, jnp.asarray(pool), jnp.asarray(weights)).ema[1]

    @jax.jit
    def errors(params, w, sigma):
        n = 2000
        own = toy.replace(log_weights=jnp.log(w))
        y = mixture.sample(own, jax.random.key(3), n)
        y = y + sigma * jax.random.normal(jax.random.key(4), y.shape)
        cond = conditioning.encode(conditioner, jnp.broadcast_to(w, (n, 4)))
        learned, exact = denoise(params, y, sigma, cond), mixture.denoise(toy, y, sigma, weights=w)
        ignoring, linear = mixture.denoise(toy, y, sigma), sd**2 / (sd**2 + sigma**2) * y
        return [jnp.mean(jnp.square(d - exact)) for d in (learned, ignoring, linear)]

    for sigma in (0.25, 0.6):
        measured = np.array([errors(params, jnp.asarray(w), sigma) for w in TARGETS])
        learned, ignoring, _ = measured.T
        assert np.all(learned < 0.5 * ignoring), measured
        # The more noise, the more the weights matter.
        assert learned.mean() < {0.25: 0.15, 0.6: 0.06}[sigma] * ignoring.mean(), measured
        assert np.all(learned[:3] < 0.1 * ignoring[:3]), measured  # one-hot
        # At the base, to ignore the weights is right: compare with what a linear denoiser misses.
        learned, ignoring, linear = errors(params, jnp.asarray(BASE, jnp.float32), sigma)
        assert float(ignoring) == pytest.approx(0, abs=1e-8)
        assert float(learned) < 0.1 * float(linear)
