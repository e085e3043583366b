"""Numbers that go wrong while training: noticed within a line of the log, saved over nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from gmm_diffusion.commands import step_batches, train
from gmm_diffusion.errors import RunError
from gmm_diffusion.runs import storage
from gmm_diffusion.runs.param_files import load_params


@pytest.fixture
def config(config):
    """Lines at 4, 8, ...; checkpoints and snapshots at 10, 20, ... only."""
    config.training.log_every = 4
    config.checkpoint.every = config.checkpoint.snapshot_every = 10
    return config


def after(monkeypatch, step, change):
    """The state is `change(state)` once `step` updates are done, and whenever more are."""
    original = train.devices.make_train_steps

    def changed(train_step):
        run = original(train_step)

        def steps(state, batches, key):
            state, metrics = run(state, batches, key)
            done = int(np.asarray(state.step).max())
            return (change(state) if done >= step else state), metrics

        return steps

    monkeypatch.setattr(train.devices, "make_train_steps", changed)


def filled(tree, value):
    return jax.tree.map(lambda x: jnp.full_like(x, value), tree)


def part(state, name, value):
    return state.replace(params=state.params | {name: filled(state.params[name], value)})


SPOILT = {
    "an average": lambda s: s.replace(ema=(s.ema[0], filled(s.ema[1], np.nan))),
    "the network": lambda s: part(s, "network", np.inf),
    "the learned variance": lambda s: part(s, "log_variance", np.nan),
    "a learned variance that is too small": lambda s: part(s, "log_variance", -1e30),
    # A second moment of infinity moves nothing any more, and the loss stays as it is.
    "the optimiser": lambda s: s.replace(
        opt_state=jax.tree.map(
            lambda x: jnp.full_like(x, np.inf) if jnp.issubdtype(x.dtype, jnp.floating) else x,
            s.opt_state,
        )
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_state_that_is_spoilt(config, tmp_path, monkeypatch, whole, what):
    with monkeypatch.context() as patch:
        after(patch, 14, SPOILT[what])
        with pytest.raises(RunError, match=r"not finite.* checkpoint is that of step 10\."):
            train.train(config, tmp_path / "run")
    nothing_bad(tmp_path / "run", 10, 12)
    train.train(config, tmp_path / "run")
    runs.assert_same(tmp_path / "run", whole)


def nothing_bad(run, saved, logged):
    """The newest checkpoint and line are of these steps, and all that is on disk is finite."""
    assert storage.steps(run / "checkpoints") == [saved]
    _, state, _ = runs.newest(run)
    stored = [*state.values()]
    for file in (run / "snapshots").iterdir():
        stored += jax.tree.leaves(load_params(file))
    assert all(np.isfinite(leaf).all() for leaf in stored)
    assert runs.rows(run)[-1]["step"] == logged


def spoil_batches(monkeypatch, step, change):
    original = step_batches.source

    def source(parts):
        clean = original(parts)

        def draw(first, num_steps):
            batch = clean(first, num_steps)
            if batch is not None and first <= step < first + len(batch.x):
                change(batch.x[step - first])
            return batch

        return draw

    monkeypatch.setattr(step_batches, "source", source)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_batch_that_overflows(config, tmp_path, monkeypatch, dtype):
    config.network.dtype = dtype

    def largest(x):
        x[3] = np.finfo(np.float32).max  # Infinity, once it is rounded to bfloat16.

    spoil_batches(monkeypatch, 14, largest)
    with pytest.raises(RunError, match=r"not finite.* checkpoint is that of step 10\."):
        train.train(config, tmp_path / "run")
    nothing_bad(tmp_path / "run", 10, 12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_rate_of_a_million(config, tmp_path, dtype):
    config.network.dtype = dtype
    config.optimizer.learning_rate = 1e6
    with pytest.raises(RunError, match=r"not finite.* before step [24];.* no checkpoint yet\."):
        train.train(config, tmp_path / "run")
    assert not storage.steps(tmp_path / "run" / "checkpoints")
    assert not (tmp_path / "run" / "snapshots").exists()
