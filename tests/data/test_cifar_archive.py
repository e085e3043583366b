"""Archives packed by hand in the published layout, and damaged ones."""

import io
import logging
import socket
import tarfile

import numpy as np
import pytest

from gmm_diffusion.data import cifar_archive
from gmm_diffusion.errors import InputError


def pictures(num, seed):
    """Images `[num, 32, 32, 3]` and their records, which store each channel by rows."""
    x = np.random.default_rng(seed).integers(0, 256, (num, 32, 32, 3), dtype=np.uint8)
    return x, [b"".join(image[..., c].tobytes() for c in range(3)) for image in x]


def pack(path, folder, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def members_of_cifar10():
    """15 images to train on in five batches, 5 to test on; image i is of class i % 10."""
    x, records = pictures(20, 0)
    batches = [
        b"".join(bytes([i % 10]) + records[i] for i in range(s, s + 3)) for s in range(0, 15, 3)
    ]
    members = {f"data_batch_{b + 1}.bin": content for b, content in enumerate(batches)}
    members["test_batch.bin"] = b"".join(bytes([i % 10]) + records[i] for i in range(15, 20))
    members["batches.meta.txt"] = "\n".join(f"name{c}" for c in range(10)).encode() + b"\n\n"
    return x, members


@pytest.fixture
def cifar10(tmp_path):
    x, members = members_of_cifar10()
    path = tmp_path / "cifar-10-binary.tar.gz"
    pack(path, "cifar-10-batches-bin", members)
    return path, x, members


def refused(match, path, **options):
    with pytest.raises(InputError, match=match):
        cifar_archive.load(str(path), **options)


def test_cifar10(cifar10, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(socket, "socket", None)
    path, x, _ = cifar10
    data = cifar_archive.load(str(path))
    np.testing.assert_array_equal(data.train.x, x[:15])
    np.testing.assert_array_equal(data.heldout.x, x[15:])
    assert data.train.label.tolist() == [i % 10 for i in range(15)]
    assert data.heldout.label.tolist() == [5, 6, 7, 8, 9]
    assert data.class_names == tuple(f"name{c}" for c in range(10))
    few = cifar_archive.load(str(path), max_examples=2, crop="0,0,16,8")
    np.testing.assert_array_equal(few.train.x, x[:2, :16, :8])
    assert cifar_archive.load(str(path), resolution=8).shape == (8, 8, 3)
    assert few.name != data.name
    assert "made 16x8: data.resolution and data.crop 0,0,16,8" in caplog.text
    assert "32x32 pixels, and are made 8x8: data.resolution and data.crop center" in caplog.text


def test_cifar100_has_its_fine_classes(tmp_path):
    x, records = pictures(6, 1)
    content = [bytes([i, 90 + i]) + record for i, record in enumerate(records)]
    members = {"train.bin": b"".join(content[:4]), "test.bin": b"".join(content[4:])}
    members["coarse_label_names.txt"] = b"a\nb\n"
    members["fine_label_names.txt"] = "\n".join(f"name{c}" for c in range(100)).encode()
    pack(tmp_path / "any.tgz", "cifar-100-binary", members)
    data = cifar_archive.load(str(tmp_path / "any.tgz"))
    np.testing.assert_array_equal(data.heldout.x, x[4:])
    assert data.train.label.tolist() == [90, 91, 92, 93]
    assert (data.num_classes, data.class_names[99]) == (100, "name99")


def test_the_version_for_python_is_not_unpickled(tmp_path):
    path = tmp_path / "cifar-10-python.tar.gz"
    pack(path, "cifar-10-batches-py", {"data_batch_1": b"cos\nsystem\n(S'false'\ntR."})
    refused("pickles could run any code .* binary version", path)


def test_damaged_archives(cifar10, tmp_path):
    path = cifar10[0]
    refused("is no file; it must be the path", tmp_path)
    whole = path.read_bytes()
    for broken in (b"", b"no archive", whole[: len(whole) // 2]):
        path.write_bytes(broken)
        refused("cannot be read as a .tar.gz archive .*; fetch it again", path)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    path.write_bytes(flipped)
    refused("fetch it again", path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data_batch_3.bin", None, "lacks cifar-10-batches-bin/data_batch_3.bin"),
        ("data_batch_3.bin", b"", "data_batch_3.bin of .* has 0 bytes"),
        ("test_batch.bin", bytes(3074), "has 3074 bytes; it must be images of 3073 bytes"),
        ("test_batch.bin", b"\x0a" + bytes(3072), "has the label 10; valid are 0 to 9"),
        ("batches.meta.txt", b"cat\ndog\n", "has 2 names; it must have 10"),
    ],
)
def test_wrong_members(cifar10, name, content, message):
    path, _, members = cifar10
    members[name] = content
    pack(path, "cifar-10-batches-bin", {k: v for k, v in members.items() if v is not None})
    refused(message, path)


def test_another_archive(tmp_path):
    pack(tmp_path / "x.tar.gz", "mnist", {"train.bin": b""})
    refused("holds mnist; it must hold the folder cifar-10-batches-bin or", tmp_path / "x.tar.gz")
