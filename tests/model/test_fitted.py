"""Fitted statistics as flat arrays and back, through what a checkpoint keeps."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion import conditioning
from gmm_diffusion.data.batches import Transform
from gmm_diffusion.mixture import GaussianMixture
from gmm_diffusion.model import fitted as fitted_lib
from gmm_diffusion.model.fitted import FittedStatistics

K, D, N = 6, 3, 60


def covariances(kind, rng):
    square = rng.normal(size=(K, D, D))
    full = square @ square.swapaxes(1, 2) + np.eye(D)
    return {
        "full": full,
        "tied": full[0],
        "diag": np.einsum("kdd->kd", full),
        "spherical": full[:, 0, 0],
    }[kind]


def fitted(kind, embedding, features="pca", semantics="mixture"):
    rng = np.random.default_rng(0)
    mix = GaussianMixture.create(
        rng.dirichlet(np.ones(K)), rng.normal(size=(K, D)), covariances(kind, rng), kind
    )
    labels = np.arange(N, dtype=np.int32) % 2
    return conditioning.create(
        mix,
        conditioning.FEATURES[features](rng.normal(size=(N, 2, 2, 1)), D),
        np.arange(K) % 2,
        rng.dirichlet(np.ones(K), size=N).astype(np.float32),
        labels,
        2,
        embedding_name=embedding,
        semantics=semantics,
        bank_size=20,
        num_features=8,
        num_draws=7,
    )


def classes():
    return conditioning.create(
        conditioning.lay_out(4),
        None,
        np.arange(4),
        np.eye(4, dtype=np.float32)[np.arange(N) % 4],
        np.arange(N) % 4,
        4,
        embedding_name="table",
        semantics="example",
    )


def unlabelled():
    rng = np.random.default_rng(1)
    mix = GaussianMixture.create(
        np.full(K, 1 / K), rng.normal(size=(K, D)), covariances("full", rng), "full"
    )
    return conditioning.create(
        mix,
        conditioning.FEATURES["raw"](rng.normal(size=(N, D)), None),
        np.full(K, -1),
        rng.dirichlet(np.ones(K), size=N).astype(np.float32),
        None,
        0,
        embedding_name="mean_embedding",
        semantics="example",
    )


def attributes():
    sets = np.random.default_rng(2).integers(0, 2, (N, 3)).astype(np.uint8)
    pair = (("Bald", "Bangs"),)
    return conditioning.create(
        conditioning.lay_out(6),
        None,
        np.full(6, -1),
        np.asarray(conditioning.attribute_weights(sets)),
        None,
        0,
        embedding_name="mean_embedding",
        semantics="example",
        attributes=conditioning.AttributeTable(
            sets, jnp.asarray(sets.mean(axis=0)), ("Smiling", *pair[0]), pair, laid_out=True
        ),
    )


def drawn_at_random():
    made = fitted("spherical", "table")
    return made.replace(responsibilities="random", partition_seed=7)


CONDITIONERS = {
    "random": drawn_at_random,
    "attributes": attributes,
    "none": lambda: None,
    "class": classes,
    "unlabelled": unlabelled,
    "raw features": lambda: fitted("diag", "mean_embedding", features="raw"),
    **{
        f"{kind} {embedding}": lambda kind=kind, embedding=embedding: fitted(kind, embedding)
        for kind in ("full", "tied", "diag", "spherical")
        for embedding in conditioning.EMBEDDINGS
    },
}


@pytest.mark.parametrize("name", CONDITIONERS)
def test_bit_exact_round_trip(name):
    made = FittedStatistics(
        Transform(np.asarray([0.1, -0.2], np.float32)), jnp.float32(0.37), CONDITIONERS[name]()
    )
    arrays, settings = fitted_lib.to_arrays(made)
    assert all(isinstance(value, np.ndarray) for value in arrays.values())
    settings = json.loads(json.dumps(settings))
    back = fitted_lib.from_arrays(arrays, settings)
    # Static fields and absent parts are in the structure.
    assert jax.tree.structure(back) == jax.tree.structure(made)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(made), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())
    if made.conditioner is not None:
        weights = made.conditioner.bank_weights[:5]
        keys = jax.random.split(jax.random.key(0), 5)
        ours, theirs = (
            conditioning.encode(c, weights, keys) for c in (back.conditioner, made.conditioner)
        )
        np.testing.assert_array_equal(ours.features, theirs.features)
