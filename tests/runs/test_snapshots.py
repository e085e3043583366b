"""Snapshots on disk: what is written, what is read, what is refused."""

import logging
import os

import numpy as np
import pytest

from gmm_diffusion.assembly.load import load_params
from gmm_diffusion.errors import InputError, RunError
from gmm_diffusion.runs import snapshots
from gmm_diffusion.training import ema, posthoc_ema

WIDTHS = (0.05, 0.1)


def params(step, width):
    rng = np.random.default_rng([step, int(1000 * width)])
    return {"network": {"w": rng.normal(size=(3, 2)).astype(np.float32)}, "gain": np.float32(1)}


@pytest.fixture
def folder(tmp_path):
    """Snapshots at steps 10, 20, ... 80."""
    path = tmp_path / "snapshots"
    for step in range(10, 81, 10):
        snapshots.write(path, step, WIDTHS, [params(step, width) for width in WIDTHS])
    return path


def same(left, right):
    np.testing.assert_array_equal(left["network"]["w"], right["network"]["w"])
    assert left["network"]["w"].dtype == np.float32
    assert left["gain"] == right["gain"]


def test_each_average_is_a_plain_file(folder):
    assert len(os.listdir(folder)) == 16
    same(load_params(folder / "width_0.1_step_30.npz"), params(30, 0.1))
    assert snapshots.steps(folder) == list(range(10, 81, 10))
    assert snapshots.steps(folder / "absent") == []
    # Written again, a snapshot is the same file.
    before = (folder / "width_0.1_step_30.npz").read_bytes()
    snapshots.write(folder, 30, WIDTHS, [params(30, width) for width in WIDTHS])
    assert (folder / "width_0.1_step_30.npz").read_bytes() == before


@pytest.mark.parametrize("width", [0.05, 0.1, 1 / 30, 0.001, 1e-5])
def test_names_give_the_width_back(width, tmp_path):
    snapshots.write(tmp_path, 7, (width,), [params(7, width)])
    made = snapshots.reconstruct(tmp_path, 7, width)
    assert made.num_snapshots == 1
    same(made.params, params(7, width))


def test_a_stored_average_is_read_and_nothing_else(folder):
    for path in folder.iterdir():
        if path.name != "width_0.1_step_50.npz":
            path.write_bytes(b"")
    made = snapshots.reconstruct(folder, 50, 0.1)
    same(made.params, params(50, 0.1))
    assert (made.step, made.width, made.num_snapshots) == (50, 0.1, 1)
    assert made.amplification == 1
    assert made.profile_error < 1e-7


def test_another_width_is_the_fitted_sum(folder, caplog):
    caplog.set_level(logging.INFO)
    made = snapshots.reconstruct(folder, None, 0.075)
    assert made.step == 80
    steps = np.repeat(np.arange(10, 81, 10), 2)
    gammas = np.tile([ema.gamma_from_width(width) for width in WIDTHS], 8)
    found = posthoc_ema.coefficients(steps, gammas, 80, ema.gamma_from_width(0.075))
    expected = sum(
        c * params(int(s), w)["network"]["w"].astype(np.float64)
        for c, s, w in zip(found, steps, WIDTHS * 8, strict=True)
    )
    np.testing.assert_allclose(made.params["network"]["w"], expected, atol=1e-6)
    assert made.num_snapshots == 16
    # With 8 snapshots of both widths, computed apart from this code by dense least squares.
    assert made.profile_error == pytest.approx(0.01254, abs=0.0002)
    said = f"its profile is off by {100 * made.profile_error:.2g} %."
    assert f"EMA of width 0.075 at step 80 from 16 snapshots: {said}" in caplog.text


def test_later_snapshots_play_no_part(folder):
    whole = snapshots.reconstruct(folder, 60, 0.2)
    for step in (70, 80):
        for width in WIDTHS:
            (folder / snapshots.file_name(width, step)).write_bytes(b"no parameters")
    again = snapshots.reconstruct(folder, 60, 0.2)
    same(again.params, whole.params)
    assert again.profile_error == whole.profile_error
    snapshots.truncate(folder, 60)
    assert snapshots.steps(folder) == [10, 20, 30, 40, 50, 60]
    same(snapshots.reconstruct(folder, None, 0.2).params, whole.params)
    snapshots.truncate(folder / "absent", 60)


def test_other_files_are_no_snapshots(folder):
    for name in ("width_0.05_step_90.npz.tmp", "notes.txt", "width_x_step_90.npz"):
        (folder / name).write_text("x")
    assert max(snapshots.steps(folder)) == 80
    snapshots.truncate(folder, 0)
    assert len(os.listdir(folder)) == 3


def test_what_cannot_be_made_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match=r"no snapshot of step 15 .*; available: 10, 20, .* 80"):
        snapshots.reconstruct(folder, 15, 0.15)
    with pytest.raises(InputError, match=r"EMA of width 0\.15 .* checkpoint\.snapshot_every"):
        snapshots.reconstruct(tmp_path / "absent", None, 0.15)
    with pytest.raises(InputError, match=r"width 0\.3 is not valid"):
        snapshots.reconstruct(folder, None, 0.3)


@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_a_damaged_file_is_refused(folder, how):
    path = folder / "width_0.05_step_40.npz"
    octets = bytearray(path.read_bytes())
    if how == "cut":
        octets = octets[:100]
    else:
        at = octets.index(params(40, 0.05)["network"]["w"].tobytes())
        octets[at + 3] ^= 1
    path.write_bytes(octets)
    with pytest.raises(InputError, match=r"width_0\.05_step_40\.npz is not an intact"):
        snapshots.reconstruct(folder, 80, 0.2)


def test_a_full_disk_is_a_failure_of_the_run(tmp_path):
    (tmp_path / "snapshots").write_text("in the way")
    with pytest.raises(RunError, match="snapshot of step 3 could not be written"):
        snapshots.write(tmp_path / "snapshots", 3, (0.05,), [params(3, 0.05)])


def test_too_few_snapshots_are_said(folder, caplog):
    snapshots.reconstruct(folder, 80, 0.25)
    assert "That is more than 1 %: the snapshots are too few" in caplog.text
    assert "amplifies" not in caplog.text


def test_amplified_rounding_is_said(tmp_path, caplog):
    for step in range(1, 33):
        snapshots.write(tmp_path, step, WIDTHS, [params(step, width) for width in WIDTHS])
    made = snapshots.reconstruct(tmp_path, 32, 0.005)
    assert "It amplifies the rounding of the snapshots" in caplog.text
    assert made.amplification > 100
    caplog.clear()
    assert snapshots.reconstruct(tmp_path, 32, 0.04).amplification < 10
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
