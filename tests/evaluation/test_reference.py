"""What is read of the training images is read once, and again where anything about it differs."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from gmm_diffusion import assembly
from gmm_diffusion.evaluation.reference import Reference
from gmm_diffusion.metrics.features import Extractor

K = 3


@pytest.fixture(scope="module")
def data(make_config):
    return assembly.dataset(make_config("tiny"))


class Counted:
    """A feature space of six random directions, and how often it was asked."""

    def __init__(self, name="some:space"):
        self.calls = 0
        self.space = Extractor(name, self._extract)
        self._directions = np.random.default_rng(0).normal(size=(64, 6))

    def _extract(self, x):
        self.calls += 1
        return self.by_hand(x)

    def by_hand(self, x):
        return x.reshape(len(x), -1).astype(np.float64) @ self._directions


def both(data, folder, space, k=K):
    made = Reference(data, folder)
    return made.balls(space.space, data.train.x, k), made.statistics(space.space, data.train.x)


def check(found, data, space):
    (features, radii), statistics = found
    wanted = space.by_hand(data.train.x)
    np.testing.assert_array_equal(features, wanted)
    np.testing.assert_allclose(radii, np.sort(cdist(wanted, wanted), axis=1)[:, K])
    np.testing.assert_allclose(statistics.mean, wanted.mean(axis=0))
    np.testing.assert_allclose(statistics.cov, np.cov(wanted.T))
    assert statistics.n == len(wanted)
    assert statistics.extractor == space.space.id


def test_the_second_time_nothing_is_read(data, tmp_path):
    space, again = Counted(), Counted()
    first = both(data, tmp_path / "reference", space)
    check(first, data, space)
    second = both(data, tmp_path / "reference", again)
    assert again.calls == 0
    check(second, data, again)
    assert dataclasses.asdict(first[1]).keys() == dataclasses.asdict(second[1]).keys()
    for name in ("extractor", "resolution", "resize", "dataset", "split"):
        assert getattr(first[1], name) == getattr(second[1], name)


def test_without_a_folder_nothing_is_kept(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(both(data, None, Counted()), data, Counted())
    assert not list(tmp_path.iterdir())


def test_other_data_or_another_space_or_count_are_read(data, tmp_path):
    both(data, tmp_path, Counted())
    pixel = data.train.x.copy()
    pixel[0, 0, 0] ^= 1
    changed = dataclasses.replace(data, train=dataclasses.replace(data.train, x=pixel))
    space = Counted()
    check(both(changed, tmp_path, space), changed, space)
    assert space.calls == 2
    other = Counted("another:space")
    both(data, tmp_path, other)
    assert other.calls == 2
    farther = Counted()
    both(data, tmp_path, farther, K + 1)
    assert farther.calls == 1, "the statistics have no neighbours"


def test_a_damaged_file_is_read_again(data, tmp_path):
    both(data, tmp_path, Counted())
    files = list(tmp_path.iterdir())
    assert len(files) == 2
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    space = Counted()
    check(both(data, tmp_path, space), data, space)
    assert space.calls == 2
    again = Counted()
    both(data, tmp_path, again)
    assert again.calls == 0


def test_a_disk_that_takes_nothing_ends_nothing(data, tmp_path):
    (tmp_path / "file").write_text("")
    check(both(data, tmp_path / "file" / "reference", Counted()), data, Counted())
