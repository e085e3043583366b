"""Checkpoints that survive damage, exceptions and another number of devices."""

import contextlib
import logging
import os
import pathlib
import subprocess
import sys
import textwrap
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct

from gmm_diffusion.errors import InputError, RunError
from gmm_diffusion.runs import saving_probe, storage

REPOSITORY = pathlib.Path(storage.__file__).parents[2]


@struct.dataclass
class State:
    step: jax.Array
    params: dict
    opt_state: tuple
    emas: tuple


def make_state(seed):
    key = jax.random.key(seed)
    params = {"network": {"w": jax.random.normal(key, (64, 64)), "b": jnp.zeros(3)}}
    return State(
        step=jnp.asarray(seed, jnp.int32),
        params=params,
        opt_state=optax.adam(0.1).init(params),
        emas=(params, jax.tree.map(lambda x: x + 1, params)),
    )


FITTED = {
    "mixture/means": np.linspace(0, 1, 5),
    "flip": np.asarray([True, False]),
    "count": np.asarray(7, np.int64),
    "levels": np.arange(4, dtype=np.uint8),
    "half": np.asarray([1.5, 2.5], jnp.bfloat16),
    "none_yet": np.zeros((0, 3), np.float32),
}
META = {"config": {"seed": 3, "name": "gmm"}, "loss": 0.1, "list": [1, 2]}


def write(directory, steps, fitted=FITTED, keep=10):
    with storage.open(directory, keep=keep) as store:
        for step in steps:
            store.save(step, make_state(step), fitted, META)


def same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def flip_a_byte(step_directory, item="state"):
    largest = max((step_directory / item).rglob("d/*"), key=lambda p: p.stat().st_size)
    octets = bytearray(largest.read_bytes())
    octets[len(octets) // 2] ^= 0xFF
    largest.write_bytes(octets)


def truncate_data(step_directory):
    for path in (step_directory / "state").rglob("d/*"):
        os.truncate(path, path.stat().st_size // 2)


def drop_the_marker(step_directory):
    (step_directory / "_CHECKPOINT_METADATA").unlink()


def break_the_json(step_directory):
    (step_directory / "meta" / "metadata").write_text('{"meta"')


def change_the_json(step_directory):
    path = step_directory / "meta" / "metadata"
    path.write_text(path.read_text().replace('"gmm"', '"gum"'))


DAMAGE = {
    flip_a_byte: "crc32|Error",
    truncate_data: "Error",
    drop_the_marker: "incomplete, without _CHECKPOINT_METADATA",
    break_the_json: "Error",
    change_the_json: "checksum of meta differs",
}


def test_round_trip_keeps_structure_dtypes_and_values(tmp_path):
    write(tmp_path, [1, 2])
    with storage.open(tmp_path) as store:
        restored = store.restore(make_state(0))
    assert restored.step == 2
    same(restored.state, make_state(2))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(restored.state))
    assert restored.meta == META
    assert restored.fitted.keys() == FITTED.keys()
    same(restored.fitted, FITTED)


def test_a_target_of_shapes_is_enough(tmp_path):
    write(tmp_path, [4])
    target = jax.eval_shape(lambda: make_state(0))
    same(storage.restore_step(tmp_path, 4, target).state, make_state(4))


def test_no_statistics(tmp_path):
    write(tmp_path, [1], fitted={})
    with storage.open(tmp_path) as store:
        assert store.restore(make_state(0)).fitted == {}
    assert storage.restore_fitted_and_meta(tmp_path).fitted == {}


def test_statistics_come_before_the_target(tmp_path):
    write(tmp_path, [1, 2])
    restored = storage.restore_fitted_and_meta(tmp_path)
    assert (restored.step, restored.state, restored.meta) == (2, None, META)
    same(restored.fitted, FITTED)
    assert storage.restore_fitted_and_meta(tmp_path, step=1).step == 1


def test_nothing_saved_yet(tmp_path):
    assert storage.restore_fitted_and_meta(tmp_path / "absent") is None
    with storage.open(tmp_path / "new") as store:
        assert store.restore(make_state(0)) is None
        assert store.restore_fitted_and_meta() is None
        assert store.latest_step() is None


def test_relative_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("here/checkpoints", [1])
    assert storage.steps("here/checkpoints") == [1]
    assert storage.restore_fitted_and_meta("here/checkpoints").step == 1


def test_only_the_newest_are_kept(tmp_path):
    write(tmp_path, [1, 2, 3, 4], keep=2)
    assert storage.steps(tmp_path) == [3, 4]


def test_part_of_a_state(tmp_path):
    write(tmp_path, [5])
    target = {"emas": jax.eval_shape(lambda: make_state(0).emas)}
    restored = storage.restore_step(tmp_path, 5, target, partial=True)
    same(restored.state["emas"], make_state(5).emas)
    with pytest.raises(InputError, match=r"its leaf opt_state/\S+ has no place here"):
        storage.restore_step(tmp_path, 5, target)


def test_buffers_may_be_donated_right_after_save(tmp_path):
    bump = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    with storage.open(tmp_path) as store:
        for step in range(1, 4):
            state = {"w": jnp.full((300, 300), float(step))}
            store.save(step, state, {}, {})
            bump(state["w"])
    for step in (2, 3):
        target = {"w": np.zeros((300, 300), np.float32)}
        restored = storage.restore_step(tmp_path, step, target).state["w"]
        np.testing.assert_array_equal(restored, float(step))


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__)
def test_resume_walks_back_over_damage(tmp_path, damage, caplog):
    write(tmp_path, [1, 2, 3])
    damage(tmp_path / "3")
    (tmp_path / "999").mkdir()
    caplog.set_level(logging.WARNING)
    with storage.open(tmp_path, keep=5) as store:
        restored = store.restore(make_state(0))
        assert restored.step == 2
        same(restored.state, make_state(2))
        for step, reason in ((3, DAMAGE[damage]), (999, "incomplete")):
            (message,) = [m for m in caplog.messages if f"Skipping checkpoint {step} " in m]
            assert any(word in message for word in reason.split("|")), message
        assert storage.steps(tmp_path) == [1, 2]
        assert store.latest_step() == 2
        assert {p.name for p in (tmp_path / "damaged").iterdir()} == {"3", "999"}
        assert f"The damaged checkpoint 3 is now {tmp_path / 'damaged' / '3'}." in caplog.messages
        store.save(3, make_state(3), FITTED, META)
        store.save(4, make_state(4), FITTED, META)
        assert store.latest_step() == 4
    assert storage.steps(tmp_path) == [1, 2, 3, 4]
    same(storage.restore_step(tmp_path, 3, make_state(0)).state, make_state(3))


def tree(path):
    return {p: p.read_bytes() for p in path.rglob("*") if p.is_file() and not p.is_symlink()}


def test_what_is_damaged_is_moved_as_it_is_and_never_over_another(tmp_path):
    for _ in range(3):
        write(tmp_path, [1] if not storage.steps(tmp_path) else [])
        write(tmp_path, [2])
        flip_a_byte(tmp_path / "2")
        before = {p.relative_to(tmp_path / "2"): b for p, b in tree(tmp_path / "2").items()}
        with storage.open(tmp_path) as store:
            assert store.restore(make_state(0)).step == 1
        newest = max((tmp_path / "damaged").iterdir(), key=lambda p: p.stat().st_ctime_ns)
        assert {p.relative_to(newest): b for p, b in tree(newest).items()} == before
    assert {p.name for p in (tmp_path / "damaged").iterdir()} == {"2", "2-2", "2-3"}
    assert storage.steps(tmp_path) == [1]
    write(tmp_path, [2, 3, 4], keep=2)
    assert len(list((tmp_path / "damaged").iterdir())) == 3


def answer_no_more(step_directory):
    """Reading it fails as on a disk that does not answer (EIO), whoever reads."""
    path = max((step_directory / "state" / "d").iterdir(), key=lambda p: p.stat().st_size)
    path.rename(step_directory.parent / "kept")
    path.symlink_to("/proc/self/mem")


def answer_in_no_way_that_json_can_be_read(step_directory):
    path = step_directory / "meta" / "metadata"
    path.rename(step_directory.parent / "kept")
    path.symlink_to("/proc/self/mem")


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs Linux")
@pytest.mark.parametrize("fault", [answer_no_more, answer_in_no_way_that_json_can_be_read])
def test_what_cannot_be_read_is_not_damaged(tmp_path, fault):
    write(tmp_path, [1, 2])
    fault(tmp_path / "2")
    before = tree(tmp_path)
    message = r"Checkpoint 2 in .* cannot be read.*nothing was touched: .*Input/output error"
    with storage.open(tmp_path) as store, pytest.raises(RunError, match=message):
        store.restore(make_state(0))
    for step in (None, 2):
        with pytest.raises(RunError, match=message):
            storage.restore_fitted_and_meta(tmp_path, step)
    assert tree(tmp_path) == before
    assert storage.steps(tmp_path) == [1, 2]


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied", "x"),
        OSError(116, "Stale file handle"),
        OSError(24, "Too many open files"),
        MemoryError(),
        RuntimeError("Unable to initialize backend 'tpu'"),
        ImportError("no module"),
        ValueError("PERMISSION_DENIED: Error opening"),
        ValueError("RESOURCE_EXHAUSTED: Error reading"),
    ],
    ids=repr,
)
def test_faults_of_the_machine_are_not_damage(tmp_path, monkeypatch, error):
    write(tmp_path, [1, 2])

    def fail(*args, **kwargs):
        raise error

    with storage.open(tmp_path) as store:
        monkeypatch.setattr(storage.ocp.Checkpointer, "restore", fail)
        with pytest.raises(RunError, match=r"Checkpoint 2 in .* nothing was touched"):
            store.restore(make_state(0))
    assert storage.steps(tmp_path) == [1, 2]


def test_a_fault_that_passes_is_no_fault(tmp_path, monkeypatch):
    write(tmp_path, [1, 2])
    original, failures = storage.ocp.Checkpointer.restore, [ValueError("DATA_LOSS: once")]

    def fail_once(*args, **kwargs):
        if failures:
            raise failures.pop()
        return original(*args, **kwargs)

    monkeypatch.setattr(storage.ocp.Checkpointer, "restore", fail_once)
    assert storage.restore_fitted_and_meta(tmp_path).step == 2
    assert not failures


def test_a_damaged_step_that_cannot_be_moved_stays(tmp_path):
    write(tmp_path, [1, 2])
    flip_a_byte(tmp_path / "2")
    (tmp_path / "damaged").write_text("")
    before = tree(tmp_path)
    message = "checkpoint 2 could not be moved .* nothing was lost: File exists"
    with storage.open(tmp_path) as store, pytest.raises(RunError, match=message):
        store.restore(make_state(0))
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["a[1]", "back\\slash", "st*r", "wh?t", "üñí✓", "sp ace", "no utf-8 \udcff", "{a}%20#"]
)
def test_any_path_will_do(tmp_path, name):
    directory = tmp_path / name / "checkpoints"
    saving_probe.check_saving(directory)
    assert not directory.exists()
    write(directory, [1, 2])
    with storage.open(directory) as store:
        same(store.restore(make_state(0)).state, make_state(2))
    flip_a_byte(directory / "2")
    with storage.open(directory, keep=1) as store:
        assert store.restore(make_state(0)).step == 1
        store.save(3, make_state(3), FITTED, META)
    assert storage.steps(directory) == [3]
    assert (directory / "damaged" / "2").is_dir()
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_probe_leaves_steps_alone(tmp_path):
    write(tmp_path, [1, 2])
    (tmp_path / "probe-of-a-run-that-was-killed").mkdir()
    before = tree(tmp_path)
    saving_probe.check_saving(tmp_path)
    assert tree(tmp_path) == before
    assert {p.name for p in tmp_path.iterdir()} == {"1", "2"}


def test_where_nothing_can_be_saved_a_probe_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    message = r"could not be saved to .*file and read back, so the run was not started: File exists"
    with pytest.raises(RunError, match=message):
        saving_probe.check_saving(tmp_path / "file")
    monkeypatch.setattr(storage, "passable", contextlib.nullcontext)
    with pytest.raises(RunError, match="so the run was not started"):
        saving_probe.check_saving(tmp_path / "a[1]")
    assert not (tmp_path / "a[1]").exists()


def test_damaged_statistics_are_noticed(tmp_path):
    fitted = {"features": np.random.default_rng(0).normal(size=(64, 64))}
    write(tmp_path, [1, 2], fitted=fitted)
    flip_a_byte(tmp_path / "2", "constants")
    assert storage.restore_fitted_and_meta(tmp_path).step == 1
    with pytest.raises(InputError, match=r"Checkpoint 2 in .* is damaged: .*"):
        storage.restore_fitted_and_meta(tmp_path, step=2)


def test_reader_and_resume_when_every_step_is_damaged(tmp_path):
    write(tmp_path, [1, 2])
    flip_a_byte(tmp_path / "2")
    drop_the_marker(tmp_path / "1")
    before = sorted(tmp_path.rglob("*"))
    message = r"No checkpoint in .*step 2: .*step 1: it is incomplete.* nothing was deleted"
    with storage.open(tmp_path) as store, pytest.raises(InputError, match=message):
        store.restore(make_state(0))
    with pytest.raises(InputError, match=message):
        storage.restore_fitted_and_meta(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_missing_step_lists_those_there_are(tmp_path):
    write(tmp_path, [1, 2])
    with (
        storage.open(tmp_path) as store,
        pytest.raises(InputError, match=r"no checkpoint of step 7 in .*available: 1, 2\."),
    ):
        store.restore_step(7, make_state(0))
    with storage.open(tmp_path) as store:
        assert store.restore_step(1, make_state(0)).step == 1
        assert store.restore_fitted_and_meta(1).step == 1
    with pytest.raises(InputError, match=r"available: none\."):
        storage.restore_fitted_and_meta(tmp_path / "absent", step=7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.replace(step=np.zeros((), np.int64)), r"step is int32 \[\] .* int64 \[\]"),
        (lambda s: s.replace(emas=s.emas[:1]), r"its leaf emas/1/\S+ has no place here"),
        (lambda s: s.replace(emas=(*s.emas, {"v": 1.0})), r"it has no leaf emas/2/v"),
        (
            lambda s: s.replace(params={"network": {"w": np.zeros(2), "b": np.zeros(3)}}),
            r"params/network/\w is float32 \[.*\] in the checkpoint and float64 \[\d\] here",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_kept(tmp_path, change, message):
    write(tmp_path, [1, 2])
    with (
        storage.open(tmp_path) as store,
        pytest.raises(
            InputError, match=r"Checkpoint 2 in .* does not fit this model: .*" + message
        ),
    ):
        store.restore(change(make_state(0)))
    assert storage.steps(tmp_path) == [1, 2]


def test_saving_an_existing_step_raises(tmp_path):
    write(tmp_path, [5])
    with storage.open(tmp_path) as store:
        for step in (3, 5):
            with pytest.raises(
                RunError, match=rf"step {step} was not written to .*already holds step 5"
            ):
                store.save(step, make_state(step), {}, {})


def test_a_save_lands_although_the_run_fails(tmp_path):
    def run():
        with storage.open(tmp_path) as store:
            store.save(3, make_state(3), FITTED, META)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    same(storage.restore_step(tmp_path, 3, make_state(0)).state, make_state(3))


def test_a_process_that_stood_still_saves(tmp_path, monkeypatch):
    # After 300 seconds orbax gives up what waits for folders that another thread is to make.
    from orbax.checkpoint._src.futures import future

    def wait(signals, *args, **kwargs):
        assert not signals

    monkeypatch.setattr(future, "wait_for_signals", wait)
    write(tmp_path, [3])
    same(storage.restore_step(tmp_path, 3, make_state(0)).state, make_state(3))


class FullDisk:
    """Stands in for orbax's manager where nothing can be written."""

    tried = False

    def save(self, step, args):
        self.tried = True
        raise OSError("No space left on device")

    def wait_until_finished(self):
        if self.tried:
            raise OSError("No space left on device")

    def close(self):
        pass


def test_failed_writes_surface():
    store = storage.Store(pathlib.Path("/run"), FullDisk())
    with pytest.raises(RunError, match=r"step 1 could not be written to /run: No space left"):
        store.save(1, {"w": jnp.zeros(2)}, {}, {})
    with pytest.raises(RunError, match=r"A checkpoint could not be written to /run: No space"):
        store.__exit__(None, None, None)


def test_a_failed_write_does_not_hide_why_the_run_ended(caplog):
    def run():
        with storage.Store(pathlib.Path("/run"), FullDisk()) as store:
            with contextlib.suppress(RunError):
                store.save(1, {"w": jnp.zeros(2)}, {}, {})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert "A checkpoint could not be written to /run: No space left on device" in caplog.text


@pytest.mark.parametrize("where", ["save", "wait_until_finished"])
def test_a_save_that_does_not_end_ends_the_run(where, monkeypatch):
    never = threading.Event()

    class Stuck(FullDisk):
        def save(self, step, args):
            return True

        def wait_until_finished(self):
            pass

    manager = Stuck()
    monkeypatch.setattr(storage, "_SAVING_SECONDS", 0.2)
    monkeypatch.setattr(storage, "_CLOSING_SECONDS", 0.2)
    monkeypatch.setattr(manager, "close", never.wait)

    def run():
        with storage.Store(pathlib.Path("/run"), manager) as store:
            store.save(1, {"w": jnp.zeros(2)}, {}, {})
            monkeypatch.setattr(manager, where, lambda *args, **kwargs: never.wait())
            store.save(2, {"w": jnp.zeros(2)}, {}, {})

    which = {"save": "of step 2", "wait_until_finished": "1"}[where]
    with pytest.raises(RunError, match=f"checkpoint {which} could not be .* has not ended after"):
        run()
    never.set()


SAVE_FROM_FOUR = """
    import jax, numpy as np
    from gmm_diffusion.runs import storage
    assert jax.device_count() == {devices}
    mesh = jax.sharding.Mesh(jax.devices(), ("data",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    target = {{"w": np.zeros((8, 2), np.float32), "n": np.zeros((), np.int32)}}
    with storage.open({directory!r}) as store:
        if {devices} == 4:
            state = {{"w": np.arange(16, dtype=np.float32).reshape(8, 2), "n": np.int32(3)}}
            store.save(1, jax.device_put(state, spread), {{"c": np.ones(2)}}, {{}})
        else:
            restored = store.restore(target)
            assert restored.state["w"].tolist() == np.arange(16).reshape(8, 2).tolist()
            assert restored.state["n"] == 3
"""


def test_four_devices_save_and_one_restores(tmp_path):
    for devices in (4, 1):
        subprocess.run(
            [
                sys.executable,
                "-c",
                textwrap.dedent(SAVE_FROM_FOUR.format(devices=devices, directory=str(tmp_path))),
            ],
            check=True,
            cwd=REPOSITORY,
            env=os.environ
            | {
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
                "JAX_PLATFORMS": "cpu",
            },
            timeout=60,
        )
