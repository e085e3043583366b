"""Two processes of two devices do what one of four does."""

import json
import re
import shutil

import numpy as np
import pairs
import pytest
import runs

STEPS = 12
TRAIN = {
    "training__num_steps": STEPS,
    "training__heldout_every": 6,
    "evaluation__at_end": True,
    "evaluation__max_samples": 40,
}
SAMPLE = ("--mode=sample", "--config.sample.num=7", "--config.sample.steps=3")
# Of two samples at once, so that every device works on both.
SPREAD = (
    *SAMPLE,
    "--config.sample.name=spread",
    "--config.sample.sampler=euler",
    "--config.sample.batch_size=2",
    "--config.sample.parallel_window=3",
)
EVALUATE = ("--mode=evaluate", "--config.evaluation.name=again")
SAMPLES = "samples/train.npz"
SPREAD_SAMPLES = "samples/spread.npz"
# "[Gloo] Rank 1 is connected to 3 peer ranks. Expected number of connected peer ranks is : 3"
GLOO_SAYS = {"Gloo", "Rank", "is", "connected", "to", "peer", "ranks", "Expected", "number", "of"}


@pytest.fixture(scope="module")
def images(tiny_run, tmp_path_factory):
    """Directory of a finished run of images, whose judges are to be trained again."""
    workdir = tmp_path_factory.mktemp("images") / "run"
    shutil.copytree(tiny_run[0], workdir)
    (workdir / "judge.npz").unlink()
    return workdir


@pytest.fixture(scope="module")
def alone(images, run_main, tmp_path_factory):
    """Metrics of `images` by this process; made first, since the pair changes the directory."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    shutil.copytree(images, workdir)
    status, _, err = run_main(f"--workdir={workdir}", *EVALUATE)
    assert status == 0, err
    return metrics(workdir)


@pytest.fixture(scope="module")
def pair(images, alone, tmp_path_factory):
    """Directory of a run of two processes that did all of `lines`; and what they said."""
    folder = tmp_path_factory.mktemp("pair")
    workdir = folder / "run"
    lines = [
        pairs.flags(workdir, **TRAIN),
        [f"--workdir={workdir}", *SAMPLE],
        [f"--workdir={workdir}", *SPREAD],
        [f"--workdir={workdir}", *EVALUATE],
        [f"--workdir={images}", *EVALUATE],
    ]
    ends = pairs.succeed(pairs.start(pairs.driver(folder, *lines)))
    seen = [json.loads((folder / f"seen_{i}.json").read_text()) for i in (0, 1)]
    return workdir, ends, seen


@pytest.fixture(scope="module")
def single(run_main, tmp_path_factory):
    """Directory of the same run in this process, which has four devices."""
    workdir = tmp_path_factory.mktemp("single") / "run"
    status, _, err = run_main(*pairs.flags(workdir, **TRAIN))
    assert status == 0, err
    return workdir


def metrics(workdir):
    """What `EVALUATE` found."""
    return json.loads((workdir / "evaluations" / "again.json").read_text())["metrics"]


def assert_close(left, right):
    """Two runs have the same parameters but for the order in which devices are summed over."""
    (step, *trees), (other, *others) = runs.newest(left), runs.newest(right)
    assert step == other
    for a, b in zip(trees, others, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_training_is_that_of_one_process(pair, single):
    assert pair[2][0]["statuses"] == [0] * 5
    assert_close(pair[0], single)
    theirs, ours = runs.rows(pair[0]), runs.rows(single)
    assert [row.keys() for row in theirs] == [row.keys() for row in ours]
    for a, b in zip(theirs, ours, strict=True):
        np.testing.assert_allclose([*a.values()], [*b.values()], rtol=1e-3, err_msg=str(a))
    names = [sorted(p.name for p in w.rglob("*.npz")) for w in (pair[0] / "snapshots", single)]
    assert names[0] == [name for name in names[1] if name.startswith("width")]
    assert (pair[0] / "samples" / "step_12.png").exists()
    assert (pair[0] / "data.json").read_text() == (single / "data.json").read_text()


def test_samples_and_evaluations_are_those_of_one_process(pair, run_main, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(pair[0], workdir)
    together = dict(np.load(workdir / SAMPLES))
    first = metrics(workdir)
    for arguments in (SAMPLE, EVALUATE):
        status, _, err = run_main(f"--workdir={workdir}", *arguments)
        assert status == 0, err
    alone = np.load(workdir / SAMPLES)
    assert together.keys() == set(alone.files)
    for name in alone.files:
        np.testing.assert_array_equal(together[name], alone[name], err_msg=name)
    again = metrics(workdir)
    assert first.keys() == again.keys()
    for name, metric in again.items():
        for field in ("value", "floor", "blocks"):
            ours, theirs = metric[field], first[name][field]
            np.testing.assert_allclose(theirs, ours, rtol=1e-4, err_msg=name)


def test_the_first_process_speaks_for_all(pair):
    (_, out, err), (_, quiet, nothing) = pair[1]
    assert "log_prob" in out or "metric" in out
    assert "step 12/12" in err
    # JAX's own way to sum on CPUs reports there, by threads whose lines run into each other.
    assert set(re.findall(r"[A-Za-z]+", quiet)) <= GLOO_SAYS
    assert nothing == ""
    assert not (pair[0] / "training.lock").exists()


def test_what_processes_tell_each_other(pair):
    for i, seen in enumerate(pair[2]):
        assert seen["highest"] == [4, 3, 0]
        assert seen["first"] == {"by": 0}
        assert (seen["step"], seen["no step"]) == (7, None)
        assert seen["arrays"] == {"x": [-0.0, 1.5, np.inf], "n": [[3, 4]]}
        assert str(seen["arrays"]["x"][0]) == "-0.0"
        assert seen["types"] == ["float64", "uint8"]
        assert seen["own"] == [4 * i, 4 * i + 4]
        assert seen["sizes"] == [4, 2]
        assert seen["mapped"] == [2.0 * n for n in range(10)]
        assert seen["differ"] == (
            "Things must be the same in all processes: b is 0 in process 0 and 1 in process 1."
        )


def test_runs_move_between_numbers_of_processes(pair, single, run_main, tmp_path):
    """2 x 2 devices, one process of 4, one of 1, and 2 x 2 again, beside a run that stays."""
    moved, stayed = tmp_path / "moved", tmp_path / "stayed"
    shutil.copytree(pair[0], moved)
    shutil.copytree(single, stayed)

    def longer(workdir, steps):
        return pairs.flags(workdir, **(TRAIN | {"training__num_steps": steps}))

    assert run_main(*longer(moved, 16))[0] == 0
    program = pairs.command(moved)[:3]
    pairs.succeed([pairs.one([*program, *longer(moved, 20)], devices=1)])
    pairs.succeed(pairs.start([*program, *longer(moved, 24)]))
    assert run_main(*longer(stayed, 24))[0] == 0
    assert_close(moved, stayed)


def test_few_samples_are_spread_over_all_devices(pair, run_main, tmp_path):
    """With a parallel sampler, whose window is divided over the devices of both processes."""
    workdir = tmp_path / "run"
    shutil.copytree(pair[0], workdir)
    together = dict(np.load(workdir / SPREAD_SAMPLES))
    assert run_main(f"--workdir={workdir}", *SPREAD)[0] == 0
    np.testing.assert_allclose(together["x"], np.load(workdir / SPREAD_SAMPLES)["x"], atol=1e-5)


def test_images_are_judged_by_the_first_process(pair, alone, images):
    theirs = metrics(images)
    assert alone.keys() == theirs.keys()
    for name, metric in alone.items():
        np.testing.assert_allclose(theirs[name]["value"], metric["value"], atol=0.02)
