"""What a classifier costs, how a class is read, and whose parameters which gradient reaches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from gmm_diffusion.diffusion.denoising_loss import denoising_loss
from gmm_diffusion.mixture import GaussianMixture
from gmm_diffusion.model import classifier as classifier_lib
from gmm_diffusion.random_keys import Training, fold_in
from gmm_diffusion.training import classifier_loss, loss
from gmm_diffusion.types import Batch

K, DIM, SIZE, SIGMA_DATA = 4, 3, 12, 0.5
RNG = np.random.default_rng(0)
MIXTURE = GaussianMixture.create(
    [0.1, 0.2, 0.3, 0.4], 2 * RNG.normal(size=(K, DIM)), np.full((K, DIM), 0.5), "diag"
)


@pytest.fixture
def batch():
    rng = np.random.default_rng(1)
    return Batch(
        x=rng.normal(size=(SIZE, DIM)).astype(np.float32),
        index=np.arange(SIZE, dtype=np.int32),
        mask=np.ones(SIZE, np.float32),
        weights=rng.dirichlet(np.ones(K), size=SIZE).astype(np.float32),
    )


def squared(points):
    means = np.asarray(MIXTURE.means, float)
    return ((np.asarray(points, float)[:, None] - means) ** 2).sum(axis=-1)


def test_what_an_output_costs(batch):
    out = RNG.normal(size=(SIZE, K)).astype(np.float32)
    objective = classifier_lib.Objective("cross_entropy", MIXTURE)
    assert objective.out_dim == K
    expected = -(batch.weights * log_softmax(out.astype(float), axis=1)).sum(axis=1)
    np.testing.assert_allclose(objective(out, batch.weights), expected, rtol=1e-5)
    out = out[:, :DIM]
    for scale, parts in (((0.7, 2.0), (0.7, 2.0)), (MIXTURE, (np.sqrt(0.5),))):
        peaks = [(batch.weights * np.exp(-squared(out) / (2 * s**2))).sum(axis=1) for s in parts]
        density = classifier_lib.Objective("ngmg", MIXTURE, scale)
        assert density.out_dim == DIM
        np.testing.assert_allclose(
            density(out, batch.weights), -np.mean(peaks, axis=0), rtol=1e-4, atol=1e-7
        )
        log = classifier_lib.Objective("ngmg", MIXTURE, scale, "log")
        expected = -np.mean(np.log(peaks), axis=0)
        np.testing.assert_allclose(log(out, batch.weights), expected, rtol=1e-4)


def test_a_point_is_read_as_its_nearest_centre():
    points = RNG.normal(size=(50, DIM)).astype(np.float32) * 3
    nearest = squared(points).argmin(axis=1)
    for scale in ((0.3, 1.0, 4.0), (0.3,)):
        shares = classifier_lib.Objective("ngmg", MIXTURE, scale).components(points)
        np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
        assert np.mean(np.asarray(shares).argmax(axis=1) == nearest) > 0.9
    own = classifier_lib.Objective("ngmg", MIXTURE, (0.3,)).components(MIXTURE.means)
    assert np.array_equal(np.asarray(own).argmax(axis=1), np.arange(K))
    logits = RNG.normal(size=(5, K)).astype(np.float32)
    shares = classifier_lib.Objective("cross_entropy", MIXTURE).components(logits)
    np.testing.assert_allclose(shares, np.exp(log_softmax(logits, axis=1)), rtol=1e-5)


def test_what_attributes_cost_and_how_they_are_read():
    attributes = RNG.integers(0, 2, (SIZE, 3))
    pairs = np.stack([1 - attributes, attributes], axis=-1)
    weights = (pairs / 3).reshape(SIZE, 6).astype(np.float32)
    out = RNG.normal(size=(SIZE, 3)).astype(np.float32)
    binary = classifier_lib.AttributeObjective("cross_entropy", 3)
    p = 1 / (1 + np.exp(-out.astype(float)))
    expected = -np.log(np.where(attributes, p, 1 - p)).sum(axis=1)
    np.testing.assert_allclose(binary(out, weights), expected, rtol=1e-5)
    np.testing.assert_allclose(binary.components(out)[:, 1::2], p / 3, rtol=1e-5)
    density = classifier_lib.AttributeObjective("ngmg", 3, (0.5, 2.0))
    away = out.astype(float) - attributes
    expected = -np.mean([np.exp(-(away**2) / (2 * s**2)) for s in (0.5, 2.0)], axis=0).sum(axis=1)
    np.testing.assert_allclose(density(out, weights), expected, rtol=1e-5)
    read = np.asarray(density.components(out)).reshape(SIZE, 3, 2).argmax(axis=-1)
    np.testing.assert_array_equal(read, out > 0.5)
    assert binary.out_dim == density.out_dim == 3


class Recorder:
    """A network that returns what it is given."""

    @staticmethod
    def apply(variables, x, c_noise=None):
        return x, c_noise


def test_what_the_network_sees():
    x = RNG.normal(size=(3, 2, 2, 1)).astype(np.float32)
    clean = classifier_lib.make_classify(Recorder, SIGMA_DATA, False)
    np.testing.assert_allclose(clean({}, x)[0], x / SIGMA_DATA, rtol=1e-6)
    assert clean({}, x, jnp.ones(3))[1] is None
    noisy = classifier_lib.make_classify(Recorder, SIGMA_DATA, True)
    sigma = np.array([0.0, 0.5, 2.0], np.float32)
    seen, level = noisy({}, x, sigma)
    scale = np.sqrt(sigma.astype(float) ** 2 + SIGMA_DATA**2)[:, None, None, None]
    np.testing.assert_allclose(seen, x / scale, rtol=1e-6)
    # Noise below a hundredth of the data counts as that much.
    np.testing.assert_allclose(level, np.log([0.005, 0.5, 2.0]) / 4, rtol=1e-5)
    np.testing.assert_allclose(noisy({}, x)[1], np.full(3, np.log(0.005) / 4), rtol=1e-5)


def linear(params, x, sigma=None):
    return x * params["b"], None


OBJECTIVE = classifier_lib.Objective("ngmg", MIXTURE, (1.0, 3.0))


def test_a_classifier_alone(batch):
    keys = jax.random.split(jax.random.key(0), SIZE)
    params = {"classifier": {"b": jnp.float32(1.5)}}
    clean = classifier_loss.make_classifier_loss_fn(linear, OBJECTIVE)
    losses, diagnostics = clean(params, batch, keys)
    np.testing.assert_allclose(losses, OBJECTIVE(1.5 * batch.x, batch.weights), rtol=1e-5)
    assert set(diagnostics) == {"classifier_loss"}

    given = {}

    def recording(params, x, sigma=None):
        given["clean" if sigma is None else "noisy"] = (x, sigma)
        return linear(params, x)

    both = classifier_loss.make_classifier_loss_fn(
        recording, OBJECTIVE, noisy=True, sigma_log_mean=-1.0, sigma_log_std=0.5
    )
    losses, _ = both(params, batch, keys)
    x, sigma = given["noisy"]
    costs = [OBJECTIVE(1.5 * v, batch.weights) for v in (batch.x, x)]
    np.testing.assert_allclose(losses, (costs[0] + costs[1]) / 2, rtol=1e-5)
    noise = (np.asarray(x) - batch.x) / np.asarray(sigma)[:, None]
    assert abs(noise.std() - 1) < 0.4
    assert abs(np.log(sigma).mean() + 1) < 0.5


def term_of(**options):
    return classifier_loss.make_term(
        linear, OBJECTIVE, weight=0.3, sigma_data=SIGMA_DATA, **options
    )


def test_the_term_falls_with_the_noise(batch):
    sigma = np.geomspace(0.01, 10, SIZE).astype(np.float32)
    denoised = batch.x + 0.1
    share = SIGMA_DATA**2 / (sigma**2 + SIGMA_DATA**2)
    seen = np.asarray(OBJECTIVE(2.0 * denoised, batch.weights))
    own = np.asarray(OBJECTIVE(2.0 * batch.x, batch.weights))
    params = {"classifier": {"b": jnp.float32(2.0)}}
    added, diagnostics = term_of()(params, batch, sigma, denoised)
    np.testing.assert_allclose(added, 0.3 * share * seen + own + share * seen, rtol=1e-4)
    np.testing.assert_allclose(diagnostics["ngmg_term"], seen, rtol=1e-5)
    np.testing.assert_allclose(diagnostics["classifier_loss"], own, rtol=1e-5)
    added, _ = term_of(on_denoised=False)(params, batch, sigma, denoised)
    np.testing.assert_allclose(added, 0.3 * share * seen + own, rtol=1e-4)
    added, diagnostics = term_of(frozen=params["classifier"])({}, batch, sigma, denoised)
    np.testing.assert_allclose(added, 0.3 * share * seen, rtol=1e-4)
    assert set(diagnostics) == {"ngmg_term"}


@pytest.mark.parametrize(
    ("teach_denoiser", "teach_classifier", "on_denoised"),
    [(True, False, True), (False, False, True), (True, True, False), (False, True, True)],
)
def test_gradients_reach_what_the_config_says(batch, teach_denoiser, teach_classifier, on_denoised):
    sigma = jnp.full(SIZE, 0.4)
    share = SIGMA_DATA**2 / (0.4**2 + SIGMA_DATA**2)
    options = {
        "on_denoised": on_denoised,
        "teach_denoiser": teach_denoiser,
        "teach_classifier": teach_classifier,
    }

    def total(a, b):
        params = {"classifier": {"b": b}}
        return term_of(**options)(params, batch, sigma, a * batch.x)[0].sum()

    def cost(a, b):
        return OBJECTIVE(a * b * batch.x, batch.weights).sum()

    of_denoiser, of_classifier = jax.grad(total, argnums=(0, 1))(1.2, 0.8)
    by_denoiser, by_classifier = jax.grad(cost, argnums=(0, 1))(1.2, 0.8)
    clean = jax.grad(cost, argnums=1)(1.0, 0.8)
    np.testing.assert_allclose(of_denoiser, teach_denoiser * 0.3 * share * by_denoiser, rtol=1e-4)
    expected = clean + share * (0.3 * teach_classifier + on_denoised) * by_classifier
    np.testing.assert_allclose(of_classifier, expected, rtol=1e-4)


def test_the_term_stands_beside_the_uncertainty_and_not_under_it(batch):
    given = {}

    def term(params, batch, sigma, denoised):
        given.update(sigma=sigma, denoised=denoised)
        return 7.0 * sigma, {"seen": sigma}

    def make(**options):
        return loss.make_loss_fn(
            lambda params, x, sigma, cond, keys: 0.5 * x,
            lambda params, sigma: 0.3 * sigma,
            None,
            sigma_data=SIGMA_DATA,
            sigma_log_mean=-1.0,
            sigma_log_std=0.7,
            **options,
        )

    keys = jax.random.split(jax.random.key(0), SIZE)
    with_term, diagnostics = make(term=term)({}, batch, keys)
    without, plain = make()({}, batch, keys)
    np.testing.assert_allclose(with_term - without, 7.0 * given["sigma"], rtol=1e-4)
    np.testing.assert_array_equal(diagnostics["denoising_loss"], plain["denoising_loss"])
    assert set(diagnostics) == {"denoising_loss", "seen"}
    # What the term reads is what the loss is made of.
    weight = (given["sigma"] ** 2 + SIGMA_DATA**2) / (given["sigma"] * SIGMA_DATA) ** 2
    error = np.mean((np.asarray(given["denoised"]) - batch.x) ** 2, axis=1)
    np.testing.assert_allclose(plain["denoising_loss"], weight * error, rtol=1e-5)
    noise = fold_in(keys, Training.NOISE)
    alone = denoising_loss(
        lambda x, sigma, cond: 0.5 * x, noise, batch.x, given["sigma"], sigma_data=SIGMA_DATA
    )
    np.testing.assert_array_equal(alone, plain["denoising_loss"])
