"""Spreading steps and examples over devices: one program, any number of examples."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion import devices
from gmm_diffusion.commands import train
from gmm_diffusion.errors import InputError
from gmm_diffusion.runs.workdir import write_config


def counting_step(traces):
    """A step whose metrics show which examples and keys it got."""

    def step(state, batch, key, axis_name):
        traces.append(1)
        total = jax.lax.psum(batch["x"].sum(), axis_name)
        return state + total, {"total": total, "random": jax.random.uniform(key)}

    return step


@pytest.mark.parametrize("count", [1, 2, 4])
def test_steps_see_every_example_once(count):
    run = devices.make_train_steps(counting_step([]), count)
    batches = {"x": np.arange(24, dtype=np.float32).reshape(3, 8)}
    state, metrics = run(devices.replicate(jnp.float32(5), count), batches, jax.random.key(0))
    np.testing.assert_array_equal(metrics["total"], [28, 92, 156])
    np.testing.assert_array_equal(metrics["random"], [jax.random.uniform(jax.random.key(0))] * 3)
    assert devices.unreplicate(state) == 5 + 276
    assert len(state.addressable_shards) == count


def test_steps_are_traced_and_compiled_once(caplog):
    traces = []
    run = devices.make_train_steps(counting_step(traces), 4)
    state = devices.replicate(jnp.zeros(()), 4)
    with jax.log_compiles(), caplog.at_level("WARNING", "jax"):
        for _ in range(3):
            # A resumed run hands its replicated state to the first call, an output to the others.
            state, _ = run(state, {"x": np.ones((2, 8), np.float32)}, jax.random.key(0))
    assert len(traces) == 1
    # Logged for every lowering, whether or not the compiler finds it in its cache.
    compiled = [m for m in caplog.messages if m.startswith("Compiling") and "float32[4,2,2]" in m]
    assert len(compiled) == 1, compiled


def test_memory_is_the_fullest_device_of_this_process(monkeypatch):
    def local(*stats):
        found = [types.SimpleNamespace(memory_stats=lambda s=s: s) for s in stats]
        monkeypatch.setattr(jax, "local_devices", lambda: found)

    one = {"bytes_in_use": 5, "peak_bytes_in_use": 70, "bytes_limit": 100}
    local(one, one | {"bytes_in_use": 6, "peak_bytes_in_use": 60})
    assert devices.memory() == {"bytes_in_use": 6, "peak_bytes_in_use": 70}
    local({"bytes_in_use": 5})
    assert devices.memory() == {"bytes_in_use": 5}
    local(None, None)
    assert devices.memory() == {}


def test_a_batch_that_cannot_be_split_is_refused():
    with pytest.raises(ValueError, match=r"training\.batch_size is 6; .* multiple of the 4"):
        devices.split_batches({"x": np.zeros((2, 6))}, 4)
    parts = devices.split_batches(np.arange(12).reshape(1, 12), 4)
    np.testing.assert_array_equal(parts[:, 0], np.arange(12).reshape(4, 3))


def test_replicas_come_back_as_they_were():
    tree = {"a": np.arange(3.0, dtype=np.float32), "n": np.int32(7)}
    replicated = devices.replicate(tree)
    assert len(replicated["a"].addressable_shards) == jax.local_device_count() == 4
    back = devices.unreplicate(replicated)
    np.testing.assert_array_equal(back["a"], tree["a"])
    assert (back["n"], back["n"].dtype) == (7, np.int32)
    assert len(devices.replicate(tree, 2)["a"].addressable_shards) == 2


@pytest.mark.parametrize("batch_size", [1, 4, 7, 16, 100])
def test_examples_are_mapped_whatever_their_number(batch_size):
    mapped = devices.map_examples(
        lambda shared, x, more: shared["scale"] * x + more["y"], batch_size
    )
    polls = []
    for num in (1, 5, 13):
        x = np.arange(num, dtype=np.float32)
        out = mapped({"scale": jnp.float32(3)}, x, {"y": -x}, poll=lambda: polls.append(1))
        np.testing.assert_array_equal(out, 2 * x)
    size = -(-batch_size // 4) * 4
    assert len(polls) == sum(-(-num // size) for num in (1, 5, 13))


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 7, 8, 100, 128])
def test_little_is_computed_that_nobody_asked_for(batch_size, parts):
    most = -(-batch_size // parts) * parts
    sizes = set()
    for num in range(1, 4 * most):
        size = devices.call_size(num, batch_size, parts)
        sizes.add(size)
        assert size % parts == 0
        assert size <= most
        calls = -(-num // size)
        assert calls == -(-num // most), "fewest calls"
        assert calls * size < num + calls * max(parts, most / 8 + parts)
    assert len(sizes) <= 9, "few programs"
    # Half a batch costs half.
    assert devices.call_size(64, 128, 2) == 64


def test_poll_stops_the_work():
    class Stop(Exception):
        pass

    def poll():
        raise Stop

    mapped = devices.map_examples(lambda shared, x: x, 4)
    with pytest.raises(Stop):
        mapped(jnp.zeros(()), np.zeros(8, np.float32), poll=poll)


def test_a_key_belongs_to_its_number():
    all_keys = jax.random.key_data(devices.example_keys(3, 10))
    np.testing.assert_array_equal(
        jax.random.key_data(devices.example_keys(3, 4, first=6)), all_keys[6:]
    )
    expected = jax.random.fold_in(jax.random.key(3), 6)
    np.testing.assert_array_equal(all_keys[6], jax.random.key_data(expected))
    assert len(np.unique(all_keys, axis=0)) == 10


def test_processes_that_do_not_know_of_each_other_are_refused(
    monkeypatch, make_config, run_main, tmp_path
):
    """Each would train, or sample, a model of its own, as on the workers of a TPU slice."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    sentence = "JAX runs in 2 processes that do not know of each other"
    for mode in ("train", "sample", "evaluate", "ema"):
        workdir = tmp_path / mode
        workdir.mkdir()
        config = make_config("toy")
        write_config(config, workdir)
        status, out, err = run_main(f"--mode={mode}", f"--workdir={workdir}")
        assert (status, out) == (2, "")
        assert f"Error: {sentence}" in err
        assert len(err.splitlines()) == 1
    with pytest.raises(InputError, match=sentence):
        train.train(make_config("toy"), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    for use in (
        lambda: devices.replicate({}),
        lambda: devices.make_train_steps(lambda *args: args),
        lambda: devices.map_examples(lambda *args: args, 4),
    ):
        with pytest.raises(InputError, match=sentence):
            use()


def test_side_by_side_each_device_works_for_itself():
    x, shift = np.arange(6.0, dtype=np.float32).reshape(3, 2), np.float32(10)
    doubled = devices.side_by_side(lambda a, b: a * 2 + b, 3, (0, None))(x, shift)
    np.testing.assert_array_equal(doubled, 2 * x + 10)
    assert {shard.device for shard in doubled.addressable_shards} == set(jax.local_devices()[:3])
