"""Paths, locks and logs in a bucket, by the real clients against a stand-in for the service."""

import json
import pathlib
import threading
import time

import jax
import numpy as np
import pytest

import gmm_diffusion as gd
from gmm_diffusion import assembly, buckets, check_env, paths
from gmm_diffusion.commands.profile import Profile
from gmm_diffusion.errors import InputError, RunError
from gmm_diffusion.runs import lock, metrics_log, param_files, saving_probe, storage
from gmm_diffusion.runs.metrics_log import MetricsLog
from gmm_diffusion.sweep import __main__ as sweep


@pytest.fixture
def place(bucket):
    """A folder of a bucket."""
    return paths.of(f"gs://{bucket[1]}/a/run")


def content(bucket, key):
    return bucket[0].buckets[bucket[1]][key]["content"]


def test_paths_do_what_those_of_a_disk_do(bucket, place, tmp_path):
    for root in (place, tmp_path / "run"):
        assert not root.exists()
        root.mkdir(parents=True)
        with pytest.raises(FileNotFoundError) as caught:
            (root / "absent").read_bytes()
        assert (caught.value.errno, caught.value.strerror) == (2, "No such file or directory")
        with paths.replacing(root / "folder" / "file") as temporary:
            temporary.write_text("ä\n", encoding="utf-8")
        (root / "folder" / "other.json").write_bytes(b"1")
        (root / "top.json").write_text("2")
        assert (root / "folder").is_dir()
        assert (root / "folder" / "file").is_file()
        assert (root / "folder" / "file").open("rb").read() == "ä\n".encode()
        assert sorted(p.name for p in root.iterdir()) == ["folder", "top.json"]
        assert [p.name for p in root.glob("top*")] == ["top.json"]
        for pattern, found in (("*.json", {"other.json", "top.json"}), ("folder/f*", {"file"})):
            assert {p.name for p in paths.find(root, pattern)} == found
        assert {p.relative_to(root).as_posix() for p in paths.files(root)} == {
            "folder/file",
            "folder/other.json",
            "top.json",
        }
        (root / "new").mkdir()
        (root / "folder").rename(root / "new" / "moved")
        assert sorted(p.name for p in (root / "new" / "moved").iterdir()) == ["file", "other.json"]
        assert not (root / "folder").exists()
        for text in ("one\n", "two\n"):
            with paths.appending(root / "log") as file:
                print(text, end="", file=file)
        assert (root / "log").read_text() == "one\ntwo\n"
        assert paths.within(root, "judges") == root / "judges"
        assert paths.within(root, "/judges") == pathlib.Path("/judges")
        assert paths.within(root, str(place)) == place
        (root / "top.json").unlink()
        paths.remove_folder(root / "new")
        assert [p.name for p in root.iterdir()] == ["log"]
    assert list(bucket[0].buckets[bucket[1]]) == ["a/run/log"]


def test_a_file_is_whole_or_the_old_one(bucket, place):
    with paths.replacing(place / "file") as temporary:
        temporary.write_text("old")

    def half():
        with paths.replacing(place / "file") as temporary, temporary.open("w") as file:
            file.write("ne")
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        half()
    assert content(bucket, "a/run/file") == b"old"
    param_files.export_params({"a": np.arange(3.0)}, place / "p.npz")
    np.testing.assert_array_equal(param_files.load_params(place / "p.npz")["a"], [0, 1, 2])
    bucket[0].buckets[bucket[1]]["a/run/p.npz"]["content"] = b"PK"
    with pytest.raises(InputError, match=r"gs://.*p\.npz is not an intact \.npz"):
        param_files.load_params(place / "p.npz")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gs://pail", "it must be gs://BUCKET/FOLDER"),
        ("gs://pail/", "it must be gs://BUCKET/FOLDER"),
        ("gs:///run", "it must be gs://BUCKET/FOLDER"),
        ("gs://Pail/run", "it must be gs://BUCKET/FOLDER"),
        ("gs://pail/../run", "it must be gs://BUCKET/FOLDER"),
        ("gs://pail/run[1]", "it must be gs://BUCKET/FOLDER"),
        ("gs://pail/a\nb", "it must be gs://BUCKET/FOLDER"),
        (f"gs://pail/{'x' * 801}", "of at most 800 bytes"),
        (pathlib.Path("gs://pail/run"), "write gs://BUCKET/FOLDER as text"),
        ("s3://pail/run", "it must be on a disk, or in a bucket of Google Cloud Storage"),
    ],
)
def test_what_no_place_in_a_bucket_can_be(text, message):
    with pytest.raises(InputError, match=r"--workdir is .*") as caught:
        paths.folder(text, "--workdir", bucket=True)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_runs_may_be_in_a_bucket(make_config):
    config = make_config("tiny")
    config.data.name, config.data.data_dir = "image_folder", "gs://pail/images"
    with pytest.raises(InputError, match=r"data\.data_dir is .*in a bucket; it must be on a disk"):
        assembly.dataset(config)
    with pytest.raises(InputError, match=r"--out is .* only runs, sweeps and reports may be"):
        paths.file("gs://pail/statistics.npz", "--out")


def test_without_gcsfs(monkeypatch):
    monkeypatch.setattr(buckets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs gcsfs, and that is not installed; `pip .*gcs\]"):
        paths.folder("gs://pail/run", "--workdir", bucket=True)
    with pytest.raises(InputError, match=r"is gs://pail/run, in a bucket, which needs gcsfs"):
        gd.load("gs://pail/run")
    with pytest.raises(InputError, match=r"The path is gs://pail/p\.npz, in a bucket, which needs"):
        param_files.load_params("gs://pail/p.npz")


RIGHTS = {
    "nothing": (),
    "reading": ("buckets.get", "objects.list", "objects.get"),
    "no buckets": ("objects.list", "objects.get", "objects.create", "objects.delete"),
}


@pytest.mark.parametrize(
    ("rights", "status", "message"),
    [
        ("nothing", 2, "may not be read: permission denied (me@example.com does not have storage."),
        ("reading", 2, "cannot be written: permission denied (me@example.com does not have"),
        ("no buckets", 1, "could not be saved"),
        ("absent", 2, "there is no bucket pail-"),
    ],
)
def test_buckets_without_rights_are_refused_before_training(
    bucket, run_main, rights, status, message
):
    storage, name = bucket
    if rights == "absent":
        name += "-absent"
    else:
        storage.rights[name] = RIGHTS[rights]
    before = dict(storage.buckets)
    found, out, err = run_main("--config=tiny", f"--workdir=gs://{name}/run")
    assert (found, out) == (status, ""), err
    last = err.splitlines()[-1]
    assert last.startswith("Error: " if status == 2 else "Failed: ")
    assert last.endswith(".")
    assert message in last
    assert "Traceback" not in err
    assert before == storage.buckets
    assert not storage.buckets.get(name)
    if rights == "nothing":
        assert "the roles storage.objectAdmin and storage.legacyBucketReader" in last


def test_the_check_of_a_machine(bucket, monkeypatch, capsys):
    storage, name = bucket
    monkeypatch.setattr(check_env, "_devices", lambda report, values: None)
    assert check_env.run(["check_env", f"--workdir=gs://{name}/run"]) == 0
    assert f"workdir            gs://{name}/run, writable\n" in capsys.readouterr().out
    assert storage.buckets[name] == {}
    storage.rights[name] = RIGHTS["reading"]
    assert check_env.run(["check_env", f"--workdir=gs://{name}/run"]) == 2
    error = capsys.readouterr().err
    assert f"--workdir is gs://{name}/run, which cannot be written (permission denied (" in error


def test_a_sweep_is_planned_there(bucket, place, capsys):
    arguments = ["--config=tiny", f"--out={place}", "training.seed=1,2", "--dry_run"]
    assert sweep.run(arguments) == 0
    assert "2 of 2 to do" in capsys.readouterr().out
    (place / "tiny" / "seed2" / "config.json").write_text("{}")
    assert sweep.run(arguments) == 2
    assert f"seed2: --workdir {place}/tiny/seed2 holds a run with" in capsys.readouterr().err


@pytest.fixture
def hundredths(monkeypatch):
    monkeypatch.setattr(lock, "_TOUCH_SECONDS", 0.05)
    monkeypatch.setattr(lock, "_WATCH_SECONDS", 1.0)


def test_one_at_a_time(place, hundredths):
    with lock.hold(place) as held:
        held.check()
        lock.see(place, held.token)
        with pytest.raises(InputError, match=r"run is in use: process \d+ on"), lock.hold(place):
            pass
        held.check()
    assert not place.exists()


def test_a_kill_blocks_for_a_while_and_no_longer(place, hundredths):
    (place / lock.NAME).write_text(json.dumps({"pid": 1, "host": "elsewhere", "token": "x"}))
    start = time.monotonic()
    with lock.hold(place) as held:
        assert time.monotonic() - start > 1.0
        owner = json.loads((place / lock.NAME).read_text())
        assert owner["token"] == held.token
    assert not place.exists()


def test_of_two_that_find_a_dead_one_one_gets_it(place, hundredths):
    (place / lock.NAME).write_text("{}")
    got, refused, done = [], [], threading.Event()

    def take():
        try:
            with lock.hold(place) as held:
                got.append(held.token)
                done.wait(20)
                held.check()
        except InputError:
            refused.append(1)
            done.set()

    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 1)


def test_who_was_taken_for_dead_stops_and_marks_nothing(bucket, place, hundredths):
    with lock.hold(place) as held:
        owner = {"pid": 7, "host": "elsewhere", "started": "now", "token": "other"}
        (place / lock.NAME).write_text(json.dumps(owner))
        time.sleep(0.3)
        stored = bucket[0].buckets[bucket[1]]["a/run/training.lock"]
        assert stored["metageneration"] == "1"
        with pytest.raises(RunError, match=r"process 7 on elsewhere, .* has taken over gs://"):
            held.check()
    assert (place / lock.NAME).exists(), "it is that of the other"


def test_the_log_is_written_again_as_a_whole(bucket, place, monkeypatch):
    def steps():
        return [json.loads(line)["step"] for line in lines().splitlines()]

    def lines():
        return content(bucket, "a/run/metrics.jsonl").decode()

    monkeypatch.setattr(metrics_log, "_REWRITE_SECONDS", 1000.0)
    with MetricsLog(place, tensorboard=False) as log:
        for step in (1, 2, 3):
            log.write(step, {"loss": 1.0})
        assert steps() == [1]  # At first, and then after a while,
        log.flush()  # before a checkpoint,
        assert steps() == [1, 2, 3]
        log.write(4, {"loss": 1.0})
        assert log.has(4, "loss")
        log.write(5, {"loss": 1.0})
        log.truncate(3)
        log.write(6, {"loss": 1.0})
    assert steps() == [1, 2, 3, 6]  # and at the end.
    with MetricsLog(place, tensorboard=False) as log:
        log.write(7, {"images_per_second": 3.5})
    assert steps() == [1, 2, 3, 6, 7]
    assert metrics_log.training_seconds(place, 1) == 2.0
    monkeypatch.setattr(metrics_log, "_REWRITE_SECONDS", 0.0)
    with MetricsLog(place, tensorboard=False) as log:
        log.write(8, {})
        assert steps()[-1] == 8
        bucket[0].rights[bucket[1]] = RIGHTS["reading"]
        with pytest.raises(RunError, match=r"could not be written to gs://.*permission denied"):
            log.write(9, {})
        del bucket[0].rights[bucket[1]]


def test_a_trace_comes_there(bucket, place, monkeypatch):
    made = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda text: made.append(pathlib.Path(text)))

    def stop():
        (made[0] / "plugins" / "profile").mkdir(parents=True)
        (made[0] / "plugins" / "profile" / "trace").write_bytes(b"traced")

    monkeypatch.setattr(jax.profiler, "stop_trace", stop)
    profile = Profile(place, 2)
    profile.begin(0, 4)
    profile.end()
    assert content(bucket, "a/run/plugins/profile/trace") == b"traced"
    assert not made[0].exists()


def test_checkpoints(bucket, place):
    directory = place / "checkpoints"
    saving_probe.check_saving(directory)
    assert bucket[0].buckets[bucket[1]] == {}
    state = {"a": np.arange(5, dtype=np.float32)}
    with storage.open(directory, keep=2) as store:
        for step in (1, 2, 3):
            store.save(step, {"a": state["a"] + step}, {"f": np.ones(2)}, {"step": step})
    assert storage.steps(directory) == [2, 3]
    # As a kill leaves it, and as a bit that tips does.
    objects = bucket[0].buckets[bucket[1]]
    del objects["a/run/checkpoints/3/commit_success.txt"]
    assert storage.last_complete_step(directory) == 2
    with storage.open(directory) as store:
        restored = store.restore(state)
        assert restored.step == 2
        store.save(3, state, {}, {})
    np.testing.assert_array_equal(restored.state["a"], state["a"] + 2)
    assert (directory / "damaged" / "3" / "_CHECKPOINT_METADATA").exists()
    assert storage.restore_step(directory, 3, state).step == 3
    # What cannot be read is not damaged.
    bucket[0].rights[bucket[1]] = ("buckets.get", "objects.list")
    with pytest.raises(RunError, match="need not be its fault; nothing was touched"):
        storage.restore_step(directory, 3, state)
    del bucket[0].rights[bucket[1]]
