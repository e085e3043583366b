"""Products whose factors a TPU must not round to bfloat16: what a condition is made of."""

import jax
import numpy as np
import pytest

from gmm_diffusion.conditioning import EMBEDDINGS
from gmm_diffusion.conditioning.features import features, fit_pca
from gmm_diffusion.mixture import GaussianMixture

RNG = np.random.default_rng(0)
WEIGHTS = np.float32([[0.2, 0.8], [1.0, 0.0]])


def embedding(name):
    mix = GaussianMixture.create([0.3, 0.7], RNG.normal(size=(2, 3)), np.ones((2, 3)), "diag")
    fitted = EMBEDDINGS[name].fit(mix, WEIGHTS, num_features=4, num_draws=3, seed=0)
    return EMBEDDINGS[name], fitted


def of_features():
    x = RNG.normal(size=(20, 6)).astype(np.float32)
    return features, fit_pca(x, 3), x


def of_mean_embedding():
    mean_embedding, fitted = embedding("mean_embedding")
    return mean_embedding.apply, fitted, WEIGHTS, None


def of_draws():
    draws, fitted = embedding("draws")
    return draws.apply, fitted, WEIGHTS, jax.random.split(jax.random.key(0), 2)


def of_blurred_draws():
    draws, fitted = embedding("draws")
    return draws.blur, fitted, 0.5


@pytest.mark.parametrize("case", [of_features, of_mean_embedding, of_draws, of_blurred_draws])
def test_products_are_of_full_precision(case):
    fn, *arguments = case()
    lines = jax.jit(fn).lower(*arguments).as_text().splitlines()
    products = [line for line in lines if "dot_general" in line]
    assert products
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products), products
