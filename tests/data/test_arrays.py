"""Arrays in files and in memory, latents and their decoder."""

import pathlib
import sys

import numpy as np
import pytest

from gmm_diffusion import assembly
from gmm_diffusion import config as config_lib
from gmm_diffusion.data import arrays, latents
from gmm_diffusion.errors import InputError

NUM = 40
RNG = np.random.default_rng(0)
PARTS = {
    "x": RNG.integers(0, 256, (NUM, 4, 4, 3), dtype=np.uint8),
    "label": np.arange(NUM) % 2,
    "attributes": np.stack([np.arange(NUM) % 3 == 0, np.arange(NUM) > 5], axis=1),
    "attribute_names": np.array(["Bald", "Old Man"]),
    "features": RNG.normal(size=(NUM, 5)),
}
OWN = {f"{name}_heldout": PARTS[name][:10] for name in ("x", "label", "attributes", "features")}
OWN |= {f"{name}_validation": PARTS[name][10:14] for name in ("x", "label", "attributes")}
OWN |= {"features_validation": PARTS["features"][10:14]}


def save(place, parts, save_npz=np.savez):
    """`parts` in an .npz, or as a folder of .npy."""
    if place.suffix == ".npz":
        save_npz(place, **parts)
    else:
        place.mkdir()
        for name, values in parts.items():
            np.save(place / f"{name}.npy", values)
    return str(place)


@pytest.mark.parametrize("name", ["data.npz", "folder"])
def test_a_file_is_what_is_in_it(tmp_path, name):
    place = save(tmp_path / name, PARTS | OWN, np.savez_compressed)
    data = arrays.load(place)
    assert data.attribute_names == ("Bald", "Old Man")
    assert data.class_names == ("0", "1")
    for split, suffix in ((data.train, ""), (data.heldout, "_heldout")):
        for known in ("x", "label", "attributes", "features"):
            expected = (PARTS | OWN)[known + suffix]
            np.testing.assert_allclose(getattr(split, known), expected, rtol=1e-6)
    assert len(data.validation) == 4
    few = arrays.load(place, ("Old Man",), max_examples=3)
    np.testing.assert_array_equal(few.train.x, PARTS["x"][[0, 19, 39]])
    np.testing.assert_array_equal(few.train.attributes[:, 0], [0, 1, 1])
    # A judge of other arrays is none of these.
    other = save(tmp_path / f"other_{name}", PARTS | OWN | {"x": PARTS["x"] // 2})
    names = {data.name, few.name, arrays.load(other).name.replace("other_", "")}
    assert len(names) == 3


def test_files_stay_where_they_are(tmp_path):
    """What needs no change is mapped into memory, and a large array is never there whole."""

    def mapped(x):
        return isinstance(x, np.memmap) or isinstance(x.base, np.memmap)

    data = arrays.load(save(tmp_path / "own", PARTS | OWN))
    assert mapped(data.train.x)
    assert mapped(data.heldout.x)
    # A split that is carved off is a copy, as is another type.
    copied = arrays.load(save(tmp_path / "carved", {"x": PARTS["x"]}))
    assert not mapped(copied.train.x)


def test_a_held_out_share_has_all_that_is_known(tmp_path):
    parts = PARTS | {"features": np.arange(NUM)[:, None], "x": PARTS["x"]}
    data = arrays.load(save(tmp_path / "data.npz", parts), heldout_fraction=0.25, split_seed=3)
    assert len(data.heldout) == 10
    for split in (data.train, data.heldout):
        rows = split.features[:, 0].astype(int)
        np.testing.assert_array_equal(split.x, PARTS["x"][rows])
        np.testing.assert_array_equal(split.label, PARTS["label"][rows])


def changed(**values):
    return {name: value for name, value in (PARTS | values).items() if value is not None}


NAN = np.where(np.arange(NUM * 5).reshape(NUM, 5) == 7, np.nan, 1.0)
OBJECT = np.array([{"a": 1}] * NUM)
BAD = {
    "labels are fewer": (changed(label=np.arange(39) % 2), r"labels have shape \(39,\)"),
    "features are fewer": (changed(features=np.ones((39, 2))), r"features have shape \(39, 2\)"),
    "attributes are fewer": (changed(attributes=np.ones((3, 2))), r"attributes have shape \(3, 2"),
    "x is NaN": (changed(x=np.full((NUM, 2), np.nan)), "x of .* holds a value that is not finite"),
    "x is too large": (changed(x=np.full((NUM, 2), 1e300)), "x of .* that is not finite"),
    "features are NaN": (changed(features=NAN), "features of .* holds a value that is not finite"),
    "x is of whole numbers": (changed(x=np.ones((NUM, 4, 4, 3), int)), "valid are uint8 images"),
    "no channels": (changed(x=np.ones((NUM, 4, 4), np.uint8)), r"uint8 images \[N, H, W, C\]"),
    "labels below 0": (changed(label=np.arange(NUM) - 1), "label of .* holds -1; labels must be"),
    "labels beyond": (changed(label=np.arange(NUM) * 10**12), "holds 39000000000000; .* 0 to 39"),
    "labels of text": (changed(label=np.array(["cat"] * NUM)), "labels must be integers from 0"),
    "objects": (changed(features=OBJECT), r"Python objects \(a pickle\), .* never loaded"),
    "attributes of 2": (changed(attributes=np.full((NUM, 2), 2)), "other values than 0 and 1"),
    "no names": (changed(attribute_names=None), "attribute_names of .* are none; .* 2 different"),
    "a name twice": (changed(attribute_names=np.array(["A", "A"])), "2 different names"),
    "a name like a condition": (changed(attribute_names=np.array(["A", "like:a"])), "'like:a'"),
    "no x": (changed(x=None), "holds no array x"),
    "another name": (changed(labels=PARTS["label"]), "'labels', .* did you mean label"),
    "held out without x": (PARTS | {"label_heldout": np.ones(3, int)}, "has no x_heldout"),
    "held out without features": (
        {name: v for name, v in (PARTS | OWN).items() if name != "features_heldout"},
        r"features_heldout of .* is absent; it must be of shape \(5,\) each",
    ),
    "held out of another size": (
        PARTS | OWN | {"x_heldout": np.ones((10, 5, 4, 3), np.uint8)},
        r"x_heldout of .* is of shape \(5, 4, 3\) each .* of shape \(4, 4, 3\)",
    ),
    "held out of another class": (
        PARTS | OWN | {"label_heldout": np.full(10, 2)},
        "label_heldout of .* holds 2; labels must be integers from 0 to 1",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_arrays_are_refused_in_a_sentence(tmp_path, what):
    parts, message = BAD[what]
    for name in ("data.npz", "folder"):
        with pytest.raises(InputError, match=message) as caught:
            arrays.load(save(tmp_path / name, parts))
        assert str(caught.value).count("\n") == 0


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_what_is_no_array_runs_nothing(tmp_path):
    sprung = tmp_path / "sprung"
    parts = {"x": PARTS["x"], "label": np.array([Trap(sprung)] * NUM, object)}
    for name in ("data.npz", "folder"):
        with pytest.raises(InputError, match="never loaded"):
            arrays.load(save(tmp_path / name, parts))
    assert not sprung.exists()
    for name, content in (("empty", b""), ("text", b"1,2,3"), ("cut", b"\x93NUMPY\x01\x00")):
        file = tmp_path / f"{name}.npz"
        file.write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}\.npz cannot be read as NumPy writes it"):
            arrays.load(str(file))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match=r"holds no \.npy"):
        arrays.load(str(tmp_path / "nothing"))


def config_of(place, **values):
    config = config_lib.default()
    config.data.update(name="arrays", data_dir=str(place), **values)
    config.conditioning.update(num_components=2, feature_dim=2, per_class=False)
    return config


REFUSED = {
    "no file": ({"data_dir": "none.npz"}, {}, r"which is not a file; it must be an \.npz or a"),
    "no place": ({"data_dir": ""}, {}, r"data\.data_dir is empty, and arrays that were given"),
    "vectors for a U-Net": ({"data_dir": "vectors.npz"}, {}, "'unet'; data of shape .* need mlp"),
    "no features": ({}, {"features": "own"}, "'own', and arrays .* has no array features"),
    "mirrored latents": ({"flip": True}, {}, "only images can be mirrored, and these are latents"),
    "no module": ({"decoder": "no_such:f"}, {}, "cannot be imported .ModuleNotFoundError"),
    "no function": ({"decoder": "decoders:missing"}, {}, "cannot be imported .AttributeError"),
    "a number": ({"decoder": "decoders:NUMBER"}, {}, "which is no function"),
    "fails": ({"decoder": "decoders:fails"}, {}, "fails on latents of shape .* .ZeroDivisionError"),
    "other shape": ({"decoder": "decoders:flat"}, {}, r"returns float32 of shape .32, 32. for 32"),
    "ends": ({"decoder": "ending:f"}, {}, "cannot be imported .SystemExit: 3"),
    "not finite": ({"decoder": "decoders:nan"}, {}, "a value that is not finite"),
    "decodes images": (
        {"decoder": "decoders:good", "data_dir": "images.npz"},
        {},
        r"data\.decoder is for float latents",
    ),
}
DECODERS = """
import numpy as np
NUMBER = 3
seen = []
def good(z):
    seen.append(len(z))
    return np.repeat(np.repeat(z[..., :1], 2, axis=1), 2, axis=2)
def fails(z):
    return 1 / 0
def flat(z):
    return z.reshape(len(z), -1)
def nan(z):
    return np.full((len(z), 2, 2, 1), np.nan)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Latents, vectors and images, and a module of decoders in the current directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "decoders.py").write_text(DECODERS)
    (tmp_path / "ending.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "decoders", raising=False)
    np.savez("latents.npz", x=RNG.normal(size=(NUM, 4, 4, 2)))
    np.savez("vectors.npz", x=RNG.normal(size=(NUM, 3)))
    np.savez("images.npz", x=PARTS["x"])
    return tmp_path


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_in_a_sentence(place, what):
    data, conditioning, message = REFUSED[what]
    config = config_of("latents.npz")
    config.data.update(data)
    config.conditioning.update(conditioning)
    config_lib.validate(config)
    with pytest.raises(InputError, match=message):
        assembly.dataset(config)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("data.resolution", 8, "arrays are taken as they are"),
        ("data.crop", "none", "arrays are taken as they are"),
        ("data.decoder", "decoder", "must be empty or package.module:function"),
        ("conditioning.features", "classifier", r"needs conditioning\.classifier"),
    ],
)
def test_settings_that_arrays_do_not_have(field, value, message):
    config = config_of("x.npz")
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=message):
        config_lib.validate(config)


@pytest.mark.parametrize(
    ("field", "value"), [("data.decoder", "a:b"), ("conditioning.features", "own")]
)
def test_settings_that_only_arrays_have(field, value):
    config = config_lib.default()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=rf"{field} is .* data\.name digits"):
        config_lib.validate(config)


def test_latents_are_decoded_in_equal_blocks(place):
    config = config_of("latents.npz", decoder="decoders:good")
    data = assembly.dataset(config)
    assert (data.is_latent, data.is_image, data.shape) == (True, False, (4, 4, 2))
    pictures = latents.decoded(data)
    assert (pictures.shape, pictures.is_image) == ((8, 8, 1), True)
    assert set(sys.modules["decoders"].seen) == {32}
    expected = np.clip((data.train.x[..., 0].astype(float) + 1) * 127.5, 0, 255).round()
    np.testing.assert_array_equal(pictures.train.x[:, ::2, 1::2, 0], expected)
    np.testing.assert_array_equal(pictures.heldout.x, latents.decode(data.decoder, data.heldout.x))
    assert latents.decoded(pictures) is pictures


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder": 3}, "decoder is 3; it must be a function"),
        (
            {"heldout_fraction": "0.2"},
            "heldout_fraction is '0.2'; valid is a number between 0 and 1",
        ),
        ({"heldout": PARTS["x"]}, "heldout is a ndarray; it must be a dict of arrays"),
        ({"x": np.ma.masked_greater(PARTS["x"], 9)}, "x of arrays has masked values"),
        ({"label": np.zeros(0, int)}, "label of arrays is empty"),
    ],
)
def test_what_is_given_from_python_and_is_none(changes, message):
    with pytest.raises(InputError, match=message):
        arrays.from_arrays(**{"x": PARTS["x"]} | changes)


def test_names_as_bytes_are_utf8(tmp_path):
    names = np.array(["Bald", "Café"])
    data = arrays.load(save(tmp_path / "a.npz", PARTS | {"attribute_names": np.char.encode(names)}))
    assert data.attribute_names == tuple(names)
    latin = np.char.encode(names, "latin-1")
    with pytest.raises(InputError, match="bytes that are no UTF-8"):
        arrays.load(save(tmp_path / "b.npz", PARTS | {"attribute_names": latin}))


def test_an_npz_under_another_name(tmp_path):
    np.savez(tmp_path / "a.npz", x=PARTS["x"])
    (tmp_path / "a.npz").rename(tmp_path / "x.npy")
    with pytest.raises(InputError, match=r"x\.npy is an \.npz under another name"):
        arrays.load(str(tmp_path))
