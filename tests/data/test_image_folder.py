"""Folders written pixel by pixel, read back, and every way in which one can be wrong."""

import itertools
import logging
import os
import re
import shutil
import socket
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from gmm_diffusion.data import image_folder
from gmm_diffusion.errors import InputError


def picture(i, height=5, width=7, channels=3):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8)


def write(path, i, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(i, **options)).save(path)


def images_of(*splits):
    return {image.tobytes() for split in splits for image in split.x}


def refused(match, folder, **options):
    with pytest.raises(InputError, match=match) as caught:
        image_folder.load(str(folder), **options)
    text = str(caught.value)
    assert text.endswith((".", "?"))
    return text


@pytest.fixture
def flat(tmp_path):
    """Ten images without labels, some of them further down or of another kind of file."""
    for i in range(10):
        write(tmp_path / "photos" / f"{i}.{'bmp' if i % 2 else 'png'}", i)
    return tmp_path / "photos"


@pytest.fixture
def with_table(flat):
    """`flat` with three attributes; the value of attribute a of image i is bit a of i."""
    rows = [f"{i}.{'bmp' if i % 2 else 'png'},{i & 1},{i >> 1 & 1},{i >> 2 & 1}" for i in range(10)]
    (flat / "attributes.csv").write_text("\n".join(["file,Odd,Twos,Fours", *reversed(rows)]))
    return flat


def test_reads_every_pixel_in_the_order_of_paths(flat):
    data = image_folder.load(str(flat), heldout_fraction=0.3, split_seed=4)
    assert data.train.x.shape == (7, 5, 7, 3)
    assert data.train.x.dtype == np.uint8
    assert images_of(data.train, data.heldout) == {picture(i).tobytes() for i in range(10)}
    order = [next(i for i in range(10) if (picture(i) == x).all()) for x in data.train.x]
    assert order == sorted(order)
    assert (data.num_classes, data.class_names, data.attribute_names) == (0, (), ())
    assert data.train.label is data.train.attributes is None
    again = image_folder.load(str(flat), heldout_fraction=0.3, split_seed=4)
    np.testing.assert_array_equal(again.heldout.x, data.heldout.x)
    assert again.name == data.name


def test_the_name_changes_with_the_images(flat):
    before = image_folder.load(str(flat)).name
    (flat / "9.bmp").rename(flat / "11.bmp")
    assert image_folder.load(str(flat)).name != before


def test_folders_are_classes_sorted_by_number(tmp_path):
    for c in (2, 10, 1):
        for i in range(4):
            write(tmp_path / str(c) / "deeper" / f"{i}.png", 100 * c + i)
    (tmp_path / ".hidden").mkdir()
    data = image_folder.load(str(tmp_path), heldout_fraction=0.25)
    assert data.class_names == ("1", "2", "10")
    np.testing.assert_array_equal(np.bincount(data.heldout.label), [1, 1, 1])
    for split in (data.train, data.heldout):
        for x, label in zip(split.x, split.label, strict=True):
            own = [picture(100 * int(data.class_names[label]) + i) for i in range(4)]
            assert x.tobytes() in {p.tobytes() for p in own}


def test_train_and_test_are_the_splits(tmp_path, caplog):
    for split, c, i in (("train", "cat", 0), ("train", "dog", 1), ("test", "dog", 2)):
        write(tmp_path / split / c / "x.png", i)
    write(tmp_path / "val" / "cat" / "x.png", 3)
    with caplog.at_level(logging.WARNING):
        data = image_folder.load(str(tmp_path))
    assert images_of(data.train) == {picture(0).tobytes(), picture(1).tobytes()}
    assert images_of(data.heldout) == {picture(2).tobytes()}
    assert data.heldout.label.tolist() == [1]
    assert "outside train and test are not read" in caplog.text
    write(tmp_path / "test" / "owl" / "x.png", 4)
    refused("class owl in one of its folders train and test only", tmp_path)


def test_a_train_folder_alone_is_split(tmp_path):
    for i in range(4):
        write(tmp_path / "train" / "ab"[i % 2] / f"{i}.png", i)
    data = image_folder.load(str(tmp_path), heldout_fraction=0.5)
    assert (data.class_names, len(data.train), len(data.heldout)) == (("a", "b"), 2, 2)


def shown(split):
    """Which pictures, by the numbers that `write` was given, of one size."""
    return sorted(next(i for i in range(100) if (picture(i) == x).all()) for x in split.x)


@pytest.mark.parametrize("name", ["val", "valid", "Validation"])
def test_a_split_for_choices(name, tmp_path, caplog):
    for i, (split, c) in enumerate(itertools.product(("Training", "test", name), ("cat", "dog"))):
        write(tmp_path / split / c / "x.png", i)
    caplog.set_level(logging.INFO)
    data = image_folder.load(str(tmp_path), validation=True)
    assert [shown(s) for s in (data.train, data.heldout, data.validation)] == [
        [0, 1],
        [2, 3],
        [4, 5],
    ]
    assert data.validation.label.tolist() == [0, 1]
    assert f"2 to train on (Training), 2 held out (test), 2 for choices ({name})" in caplog.text
    without = image_folder.load(str(tmp_path))
    assert without.validation is None
    assert without.name != data.name
    assert "outside Training and test are not read: 2, the first is" in caplog.text
    shutil.rmtree(tmp_path / "test")
    data = image_folder.load(str(tmp_path), validation=True)
    assert (shown(data.heldout), data.validation) == ([4, 5], None), "held-out images come first"


def test_a_folder_of_heldout_images(tmp_path, caplog):
    for i, (split, c) in enumerate(itertools.product(("here", "there"), ("cat", "dog"))):
        write(tmp_path / split / c / "x.png", i)
    caplog.set_level(logging.INFO)
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    data = image_folder.load(here, heldout_dir=there, heldout_fraction=0.5)
    assert (shown(data.train), shown(data.heldout)) == ([0, 1], [2, 3])
    assert data.heldout.label.tolist() == [0, 1]
    assert "here: 2 to train on, 2 held out (there)." in caplog.text
    assert data.name.startswith("image_folder here (held out there, 5x7x3, ")
    (tmp_path / "there" / "dog" / "x.png").rename(tmp_path / "there" / "dog" / "y.png")
    assert image_folder.load(here, heldout_dir=there).name != data.name
    write(tmp_path / "there" / "owl" / "x.png", 4)
    refused("class owl in one of its folders here and there only", here, heldout_dir=there)
    refused(
        "data.heldout_dir is .*nowhere', which is no folder",
        here,
        heldout_dir=there[:-5] + "nowhere",
    )
    (tmp_path / "empty").mkdir()
    refused("data.heldout_dir .* holds no image", here, heldout_dir=str(tmp_path / "empty"))


@pytest.mark.parametrize("train", ["train", ""])
def test_heldout_images_inside_of_the_folder(train, tmp_path, monkeypatch):
    for i, c in enumerate(("cat", "dog", "cat", "dog")):
        write(tmp_path / train / c / f"{i}.png", i)
    for i, c in enumerate(("cat", "dog"), 4):
        write(tmp_path / "last" / c / "x.png", i)
    monkeypatch.chdir(tmp_path)
    for root in (str(tmp_path), "."):
        data = image_folder.load(root, heldout_dir="last")
        assert (shown(data.train), shown(data.heldout)) == ([0, 1, 2, 3], [4, 5])
        assert data.class_names == ("cat", "dog")
    for wrong in (".", ".."):
        refused("images to train on lie there, too", ".", heldout_dir=wrong)
    os.mkdir("last/.hidden")
    refused("which leaves no image held out", ".", heldout_dir="last/.hidden")


def test_no_image_is_held_out_and_trained_on_by_a_link(tmp_path):
    for i in range(4):
        write(tmp_path / ("here", "there")[i % 2] / f"{i}.png", i)
    (tmp_path / "there" / "again.png").symlink_to(tmp_path / "here" / "0.png")
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    refused("again.png and .*here/0.png are one place", here, heldout_dir=there)


def test_a_table_in_each_folder(tmp_path):
    for i in range(6):
        write(tmp_path / ("here", "there")[i // 4] / f"{i}.png", i)
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "attributes.csv").write_text("file,A,B\n0.png,1,0\n1.png,0,0\n2.png,0,1\n3.png,1,1\n")
    refused("there holds no table of attributes", str(here), heldout_dir=str(there))
    (there / "attributes.csv").write_text("file,B,A\n4.png,1,0\n5.png,0,1\n")
    data = image_folder.load(str(here), heldout_dir=str(there))
    assert data.attribute_names == ("A", "B")
    assert data.train.attributes.tolist() == [[1, 0], [0, 0], [0, 1], [1, 1]]
    assert data.heldout.attributes.tolist() == [[0, 1], [1, 0]]
    (there / "attributes.csv").write_text("file,B,C\n4.png,1,0\n5.png,0,1\n")
    refused("differ in the attribute A", str(here), heldout_dir=str(there))


LISTS = {
    "list_eval_partition.txt": "0.png 0\n1.bmp 0\n2.png 0\n3.bmp 1\n4.png 2\n",
    "list_eval_partition.csv": "image_id,partition\n0.png,0\n1.bmp,0\n2.png,0\n3.bmp,1\n4.png,2\n",
    "splits.csv": "0.png,train\n4.png,test\n1.bmp,Training\n3.bmp,val\n2.png,train\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_splits(name, flat, caplog):
    for i in range(5, 10):
        (flat / f"{i}.{'bmp' if i % 2 else 'png'}").unlink()
    (flat / name).write_text(LISTS[name])
    caplog.set_level(logging.INFO)
    data = image_folder.load(str(flat), validation=True)
    assert [shown(s) for s in (data.train, data.heldout, data.validation)] == [[0, 1, 2], [4], [3]]
    assert data.attribute_names == ()
    assert "3 to train on, 1 held out, 1 for choices." in caplog.text
    assert "not read" not in caplog.text
    assert image_folder.load(str(flat)).validation is None
    assert "of other splits are not read: 1, the first is 3.bmp" in caplog.text
    # Another split of the same files is other data, also where their order is the same.
    for one, other in (("2.png", "3.bmp"), ("2.png", "4.png")):
        text = LISTS[name].replace(one, "x").replace(other, one).replace("x", other)
        (flat / name).write_text(text)
        assert image_folder.load(str(flat), validation=True).name != data.name
    moved = re.sub(r"2\.png(.)(0|train)", r"2.png\g<1>test", LISTS[name])
    assert moved != LISTS[name]
    (flat / name).write_text(moved)
    after = image_folder.load(str(flat))
    assert [shown(s) for s in (after.train, after.heldout)] == [[0, 1], [2, 4]]
    (flat / name).write_text(LISTS[name])
    assert image_folder.load(str(flat)).name != after.name


def test_celebas_splits_with_its_attributes(tmp_path):
    names = [f"{i + 1:06}.jpg" for i in range(6)]
    for i, name in enumerate(names):
        write(tmp_path / "img_align_celeba" / name, i)
    rows = [
        f"{name} {'1' if i % 2 else '-1'}  {'1' if i > 2 else '-1'}" for i, name in enumerate(names)
    ]
    (tmp_path / "list_attr_celeba.txt").write_text("\n".join(["6", "Male Young", *rows]))
    (tmp_path / "list_eval_partition.txt").write_text(
        "".join(f"{name} {'001122'[i]}\n" for i, name in enumerate(names))
    )
    for validation in (True, False):
        data = image_folder.load(str(tmp_path), validation=validation)
        assert data.train.attributes.tolist() == [[0, 0], [1, 0]]
        assert data.heldout.attributes.tolist() == [[0, 1], [1, 1]]
    assert image_folder.load(str(tmp_path), validation=True).validation.attributes.tolist() == [
        [0, 0],
        [1, 1],
    ]


def test_a_list_of_splits_and_classes(tmp_path):
    for i in range(8):
        write(tmp_path / ("cat", "dog")[i % 2] / f"{i}.png", i)
    listed = tmp_path / "splits.csv"
    rows = [f"{('cat', 'dog')[i % 2]}/{i}.png,{'test' if i > 5 else 'train'}" for i in range(8)]
    listed.write_text("\n".join(rows))
    data = image_folder.load(str(tmp_path))
    assert data.class_names == ("cat", "dog")
    assert (shown(data.train), shown(data.heldout)) == ([0, 1, 2, 3, 4, 5], [6, 7])
    assert data.heldout.label.tolist() == [0, 1]
    rows = [f"{i}.png,{'test' if i % 2 else 'train'}" for i in range(8)]
    listed.write_text("\n".join(rows))
    refused("class dog in one of its splits only", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.png 0\n1.png 3\n", "line 2 of .* has the split '3'; valid are 0 or train"),
        ("0.png 0\n1.png\n", "line 2 of .* has 1 values; it must be a file and its split"),
        ("0.png 0\n0.png 1\n", "line 2 of .* is of 0.png, which stands further up"),
        ("0.png 0\n1.png 2\n2.png 2\n", "1 rows have no image"),
        ("0.png 0\n", r"1 images have no row \(the first is 1.png\)"),
        ("0.png 0\n1.png 0\n", "leaves no image held out"),
        ("0.png 2\n1.png 1\n", "leaves no image to train on"),
        ("0.png \xff\n", "cannot be read as a list of splits"),
    ],
)
def test_lists_of_splits_that_cannot_be_used(text, message, tmp_path):
    for i in range(2):
        write(tmp_path / f"{i}.png", i)
    (tmp_path / "list_eval_partition.txt").write_text(text, encoding="latin-1")
    refused(message, tmp_path)


def test_two_signs_of_what_is_held_out(tmp_path):
    for i, split in enumerate(("train", "test")):
        write(tmp_path / split / f"{i}.png", i)
    (tmp_path / "splits.csv").write_text("0.png,train\n1.png,test\n")
    refused("holds splits.csv and the folders train and test, which are called", tmp_path)
    refused("says what is held out, too", tmp_path, heldout_dir=str(tmp_path / "test"))
    (tmp_path / "List_Eval_Partition.csv").touch()
    refused("holds List_Eval_Partition.csv and splits.csv; it must hold one", tmp_path)


def test_another_size_is_said(flat, caplog):
    caplog.set_level(logging.INFO)
    image_folder.load(str(flat), resolution=9)
    assert "have 5x7 pixels, and are made 9x9, which adds no detail" in caplog.text
    caplog.clear()
    image_folder.load(str(flat), resolution=4, crop="none")
    assert "have 5x7 pixels, and are made 4x4: data.resolution and data.crop none." in caplog.text
    caplog.clear()
    image_folder.load(str(flat))
    assert "made" not in caplog.text


def test_attributes_come_from_the_row_of_the_file(with_table):
    data = image_folder.load(str(with_table))
    assert data.attribute_names == ("Odd", "Twos", "Fours")
    for split in (data.train, data.heldout):
        assert split.attributes.dtype == np.uint8
        assert split.label is None
        for x, row in zip(split.x, split.attributes, strict=True):
            i = next(i for i in range(10) if (picture(i) == x).all())
            assert row.tolist() == [i & 1, i >> 1 & 1, i >> 2 & 1]
    chosen = image_folder.load(str(with_table), attributes=("Fours", "Odd"))
    assert chosen.attribute_names == ("Fours", "Odd")
    np.testing.assert_array_equal(chosen.train.attributes, data.train.attributes[:, [2, 0]])
    assert chosen.name != data.name


def test_paths_in_a_table_with_splits(tmp_path):
    rows = ["file,New"]
    for i, split in enumerate(("train", "train", "test")):
        write(tmp_path / split / f"{i % 2}.png", i)
        rows.append(f"{split}/{i % 2}.png,{i % 2}")
    (tmp_path / "any.csv").write_text("\ufeff" + "\n".join(rows) + "\n\n")
    data = image_folder.load(str(tmp_path))
    assert data.train.attributes.tolist() == [[0], [1]]
    assert data.heldout.attributes.tolist() == [[0]]


def test_celeba_as_it_is_unpacked(tmp_path):
    names = [f"A{i}" for i in range(40)]
    values = np.random.default_rng(0).integers(0, 2, (6, 40))
    lines = ["6", " ".join(names) + " "]
    for i, row in enumerate(values):
        write(tmp_path / "img_align_celeba" / f"{i + 1:06}.jpg", i, height=218, width=178)
        lines.append(f"{i + 1:06}.jpg  " + "  ".join("1" if v else "-1" for v in row))
    (tmp_path / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    data = image_folder.load(str(tmp_path), resolution=16, crop="57,25,128,128")
    assert data.shape == (16, 16, 3)
    assert data.attribute_names == tuple(names)
    both = {tuple(row) for split in (data.train, data.heldout) for row in split.attributes.tolist()}
    assert both == {tuple(row) for row in values.tolist()}
    table = tmp_path / "list_attr_celeba.txt"
    table.write_text("\n".join(["7", *lines[1:]]))
    refused("has 6 rows, and its first line says 7", tmp_path)
    table.write_text("\n".join(lines[1:]))
    refused("line 1 of .* is 'A0 A1.*must be the number of rows", tmp_path)


def test_crops(tmp_path):
    write(tmp_path / "a.png", 0)
    write(tmp_path / "b.png", 1)

    def first(**options):
        return image_folder.load(str(tmp_path), heldout_fraction=0.5, **options).train.x[0]

    x = next(p for p in (picture(0), picture(1)) if (p == first()).all())
    np.testing.assert_array_equal(first(resolution=5), x[:, 1:6])
    np.testing.assert_array_equal(first(crop="1,2,3,4"), x[1:4, 2:6])
    squeezed = Image.fromarray(x).resize((4, 4), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(first(resolution=4, crop="none"), np.asarray(squeezed))
    refused(r"data.crop is 3,0,3,3, which .* 5x7: .*\.png\.", tmp_path, crop="3,0,3,3")


def test_so_many_examples_of_every_class(tmp_path):
    for i in range(40):
        write(tmp_path / f"{i // 10}" / f"{i:02}.png", i)
    data = image_folder.load(str(tmp_path), heldout_fraction=0.5, max_examples=8)
    assert np.bincount(np.concatenate([data.train.label, data.heldout.label])).tolist() == [2] * 4


def test_modes_of_pillow(tmp_path):
    """What shows the same picture is read; the rest is refused by the name of its file."""
    rgb, grey = (Image.fromarray(picture(0, channels=c)) for c in (3, 1))
    opaque = rgb.copy()
    opaque.putalpha(255)
    palette = grey.convert("RGB").quantize(8)
    for name, image, expected in (
        ("opaque", opaque, np.asarray(rgb)),
        ("palette", palette, np.asarray(palette.convert("RGB"))),
        ("grey", grey, np.asarray(grey)[..., None]),
        ("bits", grey.convert("1"), np.asarray(grey.convert("1"), np.uint8)[..., None] * 255),
        ("grey_alpha", grey.convert("LA"), np.asarray(grey)[..., None]),
    ):
        folder = tmp_path / name
        for i in range(2):
            folder.mkdir(exist_ok=True)
            image.save(folder / f"{i}.png")
        actual = image_folder.load(str(folder), heldout_fraction=0.5).train.x[0]
        np.testing.assert_array_equal(actual, expected)
    clear = rgb.copy()
    clear.putalpha(grey)
    deep = Image.fromarray(picture(0, channels=1).astype(np.uint16) * 257)
    for name, image, message in (
        ("clear", clear, "clear.png is transparent in places"),
        ("deep", deep, "deep.png has more than 8 bits a channel"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        image.save(folder / f"{name}.png")
        refused(re.escape(message), folder)


def test_a_telephone_held_upright(tmp_path):
    image = Image.fromarray(picture(0))
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was turned by 90 degrees.
    for i in range(2):
        image.save(tmp_path / f"{i}.png", exif=exif)
    x = image_folder.load(str(tmp_path), heldout_fraction=0.5).train.x[0]
    np.testing.assert_array_equal(x, np.rot90(picture(0), -1))


def test_needs_neither_tensorflow_nor_a_network(with_table, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("tensorflow", "tensorflow_datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    assert len(image_folder.load(str(with_table)).train) == 8


def test_images_that_cannot_be_used(flat, tmp_path):
    refused("is no folder", tmp_path / "no_such")
    write(flat / "5b.png", 0, height=9)
    assert "0.png" in refused(r"5x7 pixels and .*5b.png 9x7; data.resolution", flat)
    assert image_folder.load(str(flat), resolution=4).shape == (4, 4, 3)
    (flat / "5b.png").unlink()
    write(flat / "5c.png", 0, channels=1)
    assert "0.png is RGB" in refused("5c.png is grey; all images must have the same", flat)
    (flat / "5c.png").unlink()
    (flat / "3.png").write_bytes(b"no image at all")
    refused(r"3.png cannot be read as an image \(of no known format\)", flat)
    whole = (flat / "4.png").read_bytes()
    (flat / "3.png").write_bytes(whole[: len(whole) // 2])
    refused(r"3.png cannot be read as an image \(.*truncated", flat)


def test_folders_that_cannot_be_used(tmp_path):
    (tmp_path / "clip.gif").touch()
    refused(r"holds no image \(1 other files\); it must hold files that end in .png", tmp_path)
    write(tmp_path / "all" / "cat" / "0.png", 0)
    write(tmp_path / "all" / "dog" / "0.png", 1)
    refused("holds the folder all alone, which holds folders", tmp_path)
    (tmp_path / "all" / "owl").mkdir()
    refused("owl holds no image; every class needs at least one", tmp_path / "all")
    (tmp_path / "all" / "owl").rmdir()
    write(tmp_path / "all" / "0.png", 2)
    refused(r"both images \(0.png\) and folders of images \(cat\)", tmp_path / "all")


def test_files_of_other_types_are_mentioned(flat, caplog):
    (flat / "film.gif").touch()
    with caplog.at_level(logging.WARNING):
        image_folder.load(str(flat))
    assert "1 files of" in caplog.text
    assert "film.gif" in caplog.text


def test_attributes_that_do_not_exist(with_table, tmp_path):
    text = refused("data.attributes names the attribute 'odds'", with_table, attributes=("odds",))
    assert text.endswith("did you mean Odd?")
    (with_table / "attributes.csv").unlink()
    refused("holds no table of attributes", with_table, attributes=("Odd",))


def test_tables_that_do_not_match_the_images(with_table):
    table = with_table / "attributes.csv"
    text = table.read_text()
    table.write_text(text + "\nx.png,0,0,0\ny.png,0,0,0")
    (with_table / "5.bmp").rename(with_table / "z.bmp")
    refused(
        r"3 rows have no image \(the first is 5.bmp\), and 1 images have no row "
        r"\(the first is z.bmp\)",
        with_table,
    )
    (with_table / "z.bmp").rename(with_table / "5.bmp")
    table.write_text(text)
    write(with_table / "below" / "0.png", 3)
    refused("have one name; attributes.csv must name files by their paths", with_table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("3.bmp,1,1,0", "3.bmp,1,yes,0"), "line 8 of .*attributes.csv has Twos 'yes'; valid are"),
        (("3.bmp,1,1,0", "3.bmp,1,1,-1"), "line 8 of .* has both 0 and -1"),
        (("3.bmp,1,1,0", "3.bmp,1,1"), "line 8 of .* has 2 values; the header has 3 names"),
        (("3.bmp,1,1,0", "4.png,0,0,1"), "line 8 of .* is of 4.png, as is line 7"),
        (("file,Odd,Twos,Fours", "file,Odd,Odd,Fours"), "names of attributes, all different"),
        (("file,Odd,Twos,Fours", "file;Odd;Twos;Fours"), "separated by commas"),
        (("file,Odd", "file,\xff"), "cannot be read as a table"),
    ],
)
def test_tables_that_cannot_be_used(with_table, change, message):
    table = with_table / "attributes.csv"
    table.write_text(table.read_text().replace(*change), encoding="latin-1")
    refused(message, with_table)


def test_several_tables(with_table):
    (with_table / "other.csv").touch()
    assert image_folder.load(str(with_table)).attribute_names, "attributes.csv is meant"
    (with_table / "attributes.csv").rename(with_table / "another.csv")
    refused("holds the tables another.csv, other.csv; it must hold one", with_table)


def png(depth, colour, samples):
    """A PNG by its specification: `samples [H, W, C]`, big-endian, of `depth` bits."""
    height, width, _ = samples.shape
    rows = samples.astype(">u2" if depth == 16 else np.uint8)

    def chunk(kind, content):
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_a_channel(colour, channels, tmp_path):
    """Pillow opens most of them as 8 bits, and 12-bit data then as nearly black."""
    samples = np.random.default_rng(0).integers(0, 256, (4, 5, channels))
    if channels in (2, 4):
        samples[..., -1] = 255
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(png(8, colour, samples))
    x = image_folder.load(str(tmp_path), heldout_fraction=0.5).train.x[0]
    np.testing.assert_array_equal(x, samples[..., : 1 if channels < 3 else 3])
    (tmp_path / "1.png").write_bytes(png(16, colour, 257 * samples))
    refused(r"1.png has more than 8 bits a channel \(16\); it must have 8", tmp_path)


def test_other_formats_under_our_names(tmp_path):
    for i in range(2):
        Image.fromarray(picture(i)).save(tmp_path / f"{i}.png", format="JPEG")
    assert image_folder.load(str(tmp_path), heldout_fraction=0.5).shape == (5, 7, 3)
    Image.fromarray(picture(2)).save(tmp_path / "2.png", format="TIFF")
    refused(r"2.png cannot be read as an image \(of no known format\)", tmp_path)


@pytest.mark.parametrize(
    "name",
    ["@eaDir", ".thumbnails", "__MACOSX", ".ipynb_checkpoints", "#recycle", "lost+found",
     "$RECYCLE.BIN", "System Volume Information", ".git"],
)  # fmt: skip
def test_what_systems_leave_is_no_class_and_no_example(name, tmp_path, caplog):
    for i in range(8):
        write(tmp_path / ("cat", "dog")[i % 2] / f"{i}.png", i)
    expected = image_folder.load(str(tmp_path))
    for folder in (tmp_path, tmp_path / "cat"):
        write(folder / name / "a.png" / "SYNOPHOTO_THUMB_M.jpg", 0)
    with caplog.at_level(logging.WARNING):
        data = image_folder.load(str(tmp_path))
    assert data.name == expected.name
    assert data.class_names == ("cat", "dog")
    assert len(data.train) + len(data.heldout) == 8
    (line,) = caplog.messages
    assert line.startswith("2 folders of ")
    assert line.endswith(f"are skipped, since systems make them: {name}.")


@pytest.mark.parametrize(
    ("link", "target", "message"),
    [
        ("cat/loop", "..", r"cat/loop and .*images are one place"),
        ("again", ".", r"again and .*images are one place"),
        ("cat/self", "../cat", r"cat/self and .*images/cat are one place"),
        ("latest", "cat", r"(latest and .*images/cat|cat and .*latest) are one place"),
        ("dog/0b.png", "../cat/0.png", r"one place, by a link; remove the link"),
        ("gone.png", "nowhere.png", r"gone.png is no file, or a link to none"),
        ("gone.png", "gone.png", r"gone.png is no file, or a link to none"),
    ],
)
def test_links_never_count_an_image_twice(link, target, message, tmp_path):
    root = tmp_path / "images"
    for i in range(4):
        write(root / ("cat", "dog")[i % 2] / f"{i}.png", i)
    (root / link).symlink_to(target)
    refused(message, root)


def test_links_out_of_the_folder_are_followed(tmp_path):
    pool = tmp_path / "pool"
    for i in range(8):
        write(pool / f"{i}.png", i)
        place = tmp_path / "images" / ("cat", "dog")[i % 2] / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(pool / f"{i}.png")
    (tmp_path / "images" / "owl").symlink_to(tmp_path / "owls")
    for i in range(8, 12):
        write(tmp_path / "owls" / f"{i}.png", i)
    data = image_folder.load(str(tmp_path / "images"), heldout_fraction=0.25)
    assert data.class_names == ("cat", "dog", "owl")
    assert images_of(data.train, data.heldout) == {picture(i).tobytes() for i in range(12)}


def test_a_pipe_is_no_image(flat):
    os.mkfifo(flat / "3b.png")
    refused("3b.png is no file", flat)


def test_names_that_are_no_text(tmp_path):
    for i in range(8):
        below = (b"/photos\xf1/cat\xf1", b"/photos\xf1/d\xc3\xbcck")[i % 2]
        folder = os.fsencode(tmp_path) + below
        os.makedirs(folder, exist_ok=True)
        write(tmp_path / "one.png", i)
        os.rename(tmp_path / "one.png", folder + b"/\xf1%d.png" % i)
    root = os.fsdecode(os.fsencode(tmp_path) + b"/photos\xf1")
    data = image_folder.load(root, heldout_fraction=0.25)
    assert data.class_names == ("cat\\udcf1", "dück")
    assert data.name.startswith("image_folder photos\\udcf1 ")
    assert images_of(data.train, data.heldout) == {picture(i).tobytes() for i in range(8)}
    os.truncate(os.fsencode(root) + b"/cat\xf1/\xf10.png", 20)
    assert "\\udcf10.png cannot be read" in refused("cannot be read as an image", root)


def test_tables_under_other_names(with_table, caplog):
    table, expected = with_table / "attributes.csv", image_folder.load(str(with_table))
    table.rename(with_table / "ATTRIBUTES.CSV")
    assert image_folder.load(str(with_table)).name == expected.name
    text = (with_table / "ATTRIBUTES.CSV").read_text()
    (with_table / "ATTRIBUTES.CSV").unlink()
    assert not caplog.messages
    for name in ("train/attributes.csv", "attributes.tsv", "labels.json", "metadata.jsonl"):
        file = with_table / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert image_folder.load(str(with_table)).attribute_names == ()
        assert f"{file}: not read. A table of attributes must be attributes.csv in" in caplog.text
        file.unlink()


def test_names_of_attributes(with_table):
    table = with_table / "attributes.csv"
    text = table.read_text()
    table.write_text(text.replace("Twos", " Wearing Hat "))
    assert image_folder.load(str(with_table)).attribute_names == ("Odd", "Wearing Hat", "Fours")
    for name in ("A=B", '"C,D"', '"E\nF"', "class:3"):
        table.write_text(text.replace("Twos", name))
        refused("csv names the attribute .* so that a condition can ask for it", with_table)
