"""What is kept of a folder is what its files hold now, whatever happens to either."""

import logging
import os
import re

import numpy as np
import pytest
from PIL import Image

from gmm_diffusion.data import decoded_images, image_folder


def picture(i):
    return np.random.default_rng(i).integers(0, 256, (4, 5, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Eight images that changed long ago, as far as the clock's tick goes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded_images, "FEWEST", 8)
    monkeypatch.setattr(decoded_images, "SETTLED_SECONDS", -1e9)
    root = tmp_path / "images"
    root.mkdir()
    for i in range(8):
        Image.fromarray(picture(i)).save(root / f"{i}.png")
    return root


def load(root, **options):
    options = {"in_memory": "always", "cache": True, "heldout_fraction": 0.25} | options
    return image_folder.load(str(root), **options)


def pixels(data):
    return {x.tobytes() for split in (data.train, data.heldout) for x in split.x}


def kept(tmp_path):
    return sorted((tmp_path / "cache").rglob("*.npz"))


def decode_nothing(monkeypatch):
    """Only the first image may be opened, which tells the size."""
    original, opened = image_folder.read_image, []

    def read(file, *args):
        opened.append(file)
        assert len(opened) == 1, "decoded again"
        return original(file, *args)

    monkeypatch.setattr(image_folder, "read_image", read)


def test_the_second_time_nothing_is_decoded(folder, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    first = load(folder)
    (file,) = kept(tmp_path)
    line = rf"images: read 8 images in [\d.]+ s, kept in {re.escape(str(file))} \(0 MiB\) until one"
    assert re.search(line, caplog.text)
    decode_nothing(monkeypatch)
    again = load(folder)
    assert f"images: 8 decoded images from {file}; no file has changed." in caplog.text
    assert again.name == first.name
    for ours, theirs in ((again.train, first.train), (again.heldout, first.heldout)):
        np.testing.assert_array_equal(ours.x, theirs.x)
    assert pixels(again) == {picture(i).tobytes() for i in range(8)}


def test_another_path_to_the_same_folder(folder, tmp_path, monkeypatch):
    before = load(folder)
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder.parent)
    decode = image_folder.read_image
    for path in ("images", "link", "./images/"):
        monkeypatch.setattr(image_folder, "read_image", decode)
        decode_nothing(monkeypatch)
        np.testing.assert_array_equal(load(path).train.x, before.train.x)


def replaced(folder):
    """Other pixels in a file of the same size and time of change."""
    file, other = folder / "3.bmp", folder / "other.bmp"
    before = os.stat(file)
    Image.fromarray(picture(99)).save(other)
    assert os.stat(other).st_size == before.st_size
    file.write_bytes(other.read_bytes())
    other.unlink()
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    return {picture(i).tobytes() for i in (0, 1, 2, 99, 4, 5, 6, 7)}


def swapped(folder):
    """Two files change places."""
    (folder / "3.bmp").rename(folder / "x")
    (folder / "4.bmp").rename(folder / "3.bmp")
    (folder / "x").rename(folder / "4.bmp")
    return {picture(i).tobytes() for i in range(8)}


def added(folder):
    Image.fromarray(picture(8)).save(folder / "8.bmp")
    return {picture(i).tobytes() for i in range(9)}


def removed(folder):
    (folder / "0.bmp").unlink()
    Image.fromarray(picture(8)).save(folder / "8.bmp")
    return {picture(i).tobytes() for i in range(1, 9)}


@pytest.mark.parametrize("change", [replaced, swapped, added, removed])
def test_a_change_of_the_folder_is_seen(change, folder, tmp_path):
    for file in folder.iterdir():
        # Of one size, so that nothing but their times tells them apart.
        Image.open(file).save(file.with_suffix(".bmp"))
        file.unlink()
    load(folder)
    expected = change(folder)
    data = load(folder)
    assert pixels(data) == expected
    fresh = load(folder, cache=False)
    np.testing.assert_array_equal(data.train.x, fresh.train.x)
    assert len(kept(tmp_path)) == 1, "the old one is replaced"
    np.testing.assert_array_equal(load(folder).train.x, fresh.train.x)


def test_settings_have_files_of_their_own(folder, tmp_path):
    for i, options in enumerate(({}, {"resolution": 3}, {"crop": "0,0,2,2"}), 1):
        for _ in range(2):
            data = load(folder, **options)
            fresh = load(folder, cache=False, **options)
            np.testing.assert_array_equal(data.train.x, fresh.train.x)
        assert len(kept(tmp_path)) == i


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "folder"])
def test_a_damaged_file_is_made_anew(damage, folder, tmp_path):
    before = load(folder)
    (file,) = kept(tmp_path)
    good = file.read_bytes()
    if damage == "cut":
        file.write_bytes(good[:-200])
    elif damage == "flipped":
        start = good.index(before.train.x[0].tobytes())
        file.write_bytes(good[:start] + bytes([good[start] ^ 1]) + good[start + 1 :])
    elif damage == "other":
        np.savez(file, x=before.train.x)
    else:
        file.unlink()
        file.mkdir()
    assert pixels(load(folder)) == pixels(before)
    if damage != "folder":
        assert file.read_bytes() == good
    assert not list(file.parent.glob("*.tmp"))


def test_what_changed_just_now_is_not_kept(folder, tmp_path, monkeypatch):
    """Within one tick of the file system's clock it may change again."""
    monkeypatch.setattr(decoded_images, "SETTLED_SECONDS", 60.0)
    load(folder)
    assert kept(tmp_path) == []


def test_few_images_or_no_wish_keep_nothing(folder, tmp_path, monkeypatch):
    load(folder, cache=False)
    load(folder, in_memory="never")
    monkeypatch.setattr(decoded_images, "FEWEST", 9)
    load(folder)
    assert kept(tmp_path) == []


def test_a_full_disk_or_no_home_keeps_nothing(folder, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    expected = {picture(i).tobytes() for i in range(8)}
    monkeypatch.setattr(decoded_images, "_SHARE", 0.0)
    assert pixels(load(folder)) == expected
    assert "Decoded images are not kept in" in caplog.text
    monkeypatch.setattr(decoded_images, "_SHARE", 0.1)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert pixels(load(folder)) == expected
    assert "Decoded images are not kept: /dev/null/gmm_diffusion/images" in caplog.text
    monkeypatch.setenv("XDG_CACHE_HOME", "~no-such-user/x")
    assert pixels(load(folder)) == expected
    assert kept(tmp_path) == []
