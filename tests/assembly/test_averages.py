"""Which parameters `sample.ema` names, in training, at its end and in a checkpoint."""

import numpy as np
import pytest

from gmm_diffusion.assembly import averages
from gmm_diffusion.errors import InputError
from gmm_diffusion.runs import snapshots, storage
from gmm_diffusion.training import state as state_lib


@pytest.fixture
def config(make_config):
    config = make_config("toy")
    config.training.ema_widths = (0.05, 0.1)
    return config


def tree(value):
    return {"network": {"w": np.full(3, value, np.float32)}}


@pytest.fixture
def state():
    return state_lib.TrainState(np.int32(4), tree(0.0), {}, (tree(1.0), tree(2.0)), 0, 0)


def value(params):
    return float(params["network"]["w"][0])


@pytest.mark.parametrize(
    ("width", "chosen"),
    # Not tracked: the nearest that is.
    [(0.0, 0.0), (0.05, 1.0), (0.1, 2.0), (0.02, 1.0), (0.08, 2.0), (0.2, 2.0)],
)
def test_while_training_the_nearest_that_is_tracked(config, state, width, chosen):
    config.sample.ema = width
    assert value(averages.nearest(config, state)) == chosen


@pytest.mark.parametrize(("width", "chosen"), [(0.0, 0.0), (0.05, 1.0), (0.1, 2.0)])
def test_what_is_tracked_stands_in_the_state_and_in_its_checkpoint(
    config, state, width, chosen, tmp_path
):
    config.sample.ema = width
    assert averages.is_tracked(config, width)
    assert value(averages.final(config, tmp_path, state)) == chosen
    with storage.open(tmp_path / "checkpoints", asynchronous=False) as store:
        store.save(4, state, {}, {})
    directory = tmp_path / "checkpoints"
    stored = storage.restore_leaves(directory, 4)
    found = averages.of_checkpoint(config, directory, stored, width, tree(0.0))
    assert value(found) == chosen


def test_at_the_end_any_other_width_is_made_of_snapshots(config, state, tmp_path):
    config.sample.ema = 0.08
    assert not averages.is_tracked(config, 0.08)
    with pytest.raises(InputError, match=r"width 0\.08 needs snapshots"):
        averages.final(config, tmp_path, state)
    # Coefficients add to 1: what does not change in training does not change here.
    for step in (2, 4):
        snapshots.write(tmp_path / "snapshots", step, (0.05, 0.1), (tree(3.0), tree(3.0)))
    assert value(averages.final(config, tmp_path, state)) == pytest.approx(3.0)
