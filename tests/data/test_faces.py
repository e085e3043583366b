"""Faces depend on their number alone, show what they are said to show, and nothing held out."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
from PIL import Image
from sklearn.linear_model import Ridge

from experiments import run_faces_figure
from gmm_diffusion.data import faces
from gmm_diffusion.errors import InputError

COLUMN = {name: i for i, name in enumerate(faces.NAMES)}


def rows(num, **values):
    """Attributes `[num, A]`, all 0 but for `values`."""
    out = np.zeros((num, len(faces.NAMES)), np.uint8)
    for name, value in values.items():
        out[:, COLUMN[name]] = value
    return out


@pytest.fixture(scope="module")
def data():
    return faces.load(
        num_train=1500,
        num_heldout=300,
        seed=3,
        held_out=("Eyeglasses=1,Wearing_Hat=1", "Smiling=1, Mustache=1, Bald=0"),
        validation=True,
    )


def test_a_face_depends_on_its_number_alone():
    together = faces.render_people(5, np.arange(150))
    few = np.array([149, 7, 7])
    np.testing.assert_array_equal(faces.render_people(5, few), together[few])
    np.testing.assert_array_equal(faces.render_people(5, np.array([70])), together[70:71])
    assert len({face.tobytes() for face in together}) == 150
    for other in ({"seed": 6}, {"stream": faces.HELDOUT}):
        arguments = {"seed": 5, "stream": faces.TRAIN} | other
        assert not (faces.render_people(index=np.arange(9), **arguments) == together[:9]).all()


def test_splits_are_the_people_of_their_streams(data):
    few = faces.load(num_train=20, num_heldout=10, seed=3)
    more = faces.load(num_train=70, num_heldout=10, seed=3)
    np.testing.assert_array_equal(more.train.x[:20], few.train.x)
    np.testing.assert_array_equal(more.train.attributes[:20], few.train.attributes)
    np.testing.assert_array_equal(more.heldout.x, few.heldout.x)
    for split, stream in (
        (data.train, faces.TRAIN),
        (data.heldout, faces.HELDOUT),
        (data.unseen, faces.UNSEEN),
        (data.judges_only, faces.JUDGES_ONLY),
        (data.validation, faces.VALIDATION),
    ):
        index = np.array([9, 250])
        drawn = faces.render_people(3, index, split.attributes[index], stream=stream)
        np.testing.assert_array_equal(drawn, split.x[index])


def test_resolutions_are_of_one_picture():
    small, large = (
        faces.render_people(0, np.arange(20), resolution=size).astype(np.float64)
        for size in (32, 128)
    )
    means = large.reshape(20, 32, 4, 32, 4, 3).mean(axis=(2, 4))
    # Levels of 256; shapes of less than a pixel are what differs.
    assert np.abs(means - small).mean() < 3


# Where a change shows, as fractions of height and width that hold every pose.
REGIONS = {
    "Bald": (0.0, 1.0, 0.0, 1.0),
    "Bangs": (0.0, 0.6, 0.1, 0.9),
    "Blond_Hair": (0.0, 1.0, 0.0, 1.0),
    "Eyeglasses": (0.25, 0.7, 0.1, 0.9),
    "Mouth_Slightly_Open": (0.5, 0.85, 0.2, 0.8),
    "Mustache": (0.45, 0.8, 0.2, 0.8),
    "Rosy_Cheeks": (0.4, 0.8, 0.1, 0.9),
    "Smiling": (0.5, 0.85, 0.2, 0.8),
    "Wearing_Hat": (0.0, 0.45, 0.0, 1.0),
    "Wearing_Necktie": (0.7, 1.0, 0.2, 0.8),
}


@pytest.mark.parametrize("name", faces.NAMES)
def test_an_attribute_changes_its_region_and_nothing_else(name):
    index = np.arange(200)
    before, after = (
        faces.render_people(0, index, rows(200, **{name: value})).astype(int) for value in (0, 1)
    )
    changed = np.abs(after - before).max(axis=3)
    top, bottom, left, right = (round(32 * f) for f in REGIONS[name])
    outside = changed.copy()
    outside[:, top:bottom, left:right] = 0
    assert outside.max() == 0
    # On everybody, at least six pixels differ by a tenth of the range.
    assert ((changed > 25).sum(axis=(1, 2)) >= 6).all()


def test_a_hat_leaves_hair_and_its_colour_to_be_seen():
    index = np.arange(200)
    dark = faces.render_people(0, index, rows(200, Wearing_Hat=1)).astype(int)
    for other in ({"Blond_Hair": 1}, {"Bald": 1}, {"Bangs": 1}):
        changed = faces.render_people(0, index, rows(200, Wearing_Hat=1, **other)) - dark
        assert ((np.abs(changed).max(axis=3) > 25).sum(axis=(1, 2)) >= 6).all(), other


def test_exclusive_pairs_are_never_drawn(data):
    assert data.exclusive == (("Bald", "Bangs"), ("Bald", "Blond_Hair"))
    for split in (data.train, data.heldout, data.unseen):
        for pair in data.exclusive:
            assert not split.attributes[:, [COLUMN[name] for name in pair]].all(axis=1).any()
    with pytest.raises(InputError, match="Bald and Bangs; no face has both"):
        faces.render_people(0, np.arange(2), rows(2, Bald=1, Bangs=1))


def test_held_out_combinations_are_unseen_and_nothing_else_is(data):
    def shown(split):
        has = {name: split.attributes[:, i] == 1 for name, i in COLUMN.items()}
        glasses = has["Eyeglasses"] & has["Wearing_Hat"]
        return glasses, has["Smiling"] & has["Mustache"] & ~has["Bald"]

    for split in (data.train, data.heldout):
        assert not np.any(shown(split))
        # Each half of a combination is there.
        for name in ("Eyeglasses", "Wearing_Hat", "Smiling", "Mustache"):
            assert split.attributes[:, COLUMN[name]].any()
    first, second = shown(data.unseen)
    assert len(data.unseen) == 300
    assert first[0::2].all()
    assert second[1::2].all()
    # Judges learn to read them from people who are in no other split.
    first, second = shown(data.judges_only)
    assert len(data.judges_only) == -(-len(data.train) // 5)
    assert first[0::2].all()
    assert second[1::2].all()
    everything = faces.load(num_train=5, num_heldout=5)
    assert everything.unseen is None
    assert everything.judges_only is None


def test_independent_frequencies_are_those_of_the_table():
    num = 8000
    drawn = faces.draw_attributes(0, np.arange(num), correlation=0.0)
    # Of the faces drawn, none is bald with bangs or blond hair: condition the product on that.
    bald, bangs, blond = (faces.FREQUENCIES[n] for n in ("Bald", "Bangs", "Blond_Hair"))
    plain = (1 - bangs) * (1 - blond)
    allowed = 1 - bald + bald * plain
    expected = faces.FREQUENCIES | {
        "Bald": bald * plain / allowed,
        "Bangs": (1 - bald) * bangs / allowed,
        "Blond_Hair": (1 - bald) * blond / allowed,
    }
    for name, share in expected.items():
        count = drawn[:, COLUMN[name]].sum()
        low, high = scipy.stats.binom.interval(0.9999, num, share)
        assert low <= count <= high, name


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_correlated_pairs_are_those_of_a_normal_plane(strength):
    num = 8000
    drawn = faces.draw_attributes(1, np.arange(num), correlation=strength)
    # Pairs that exclusion does not touch.
    for pair, correlation in (
        (("Mouth_Slightly_Open", "Smiling"), 0.8),
        (("Rosy_Cheeks", "Smiling"), 0.5),
        (("Smiling", "Wearing_Hat"), 0.0),
    ):
        cuts = scipy.stats.norm.ppf([faces.FREQUENCIES[name] for name in pair])
        value = strength * correlation
        plane = scipy.stats.multivariate_normal(cov=[[1, value], [value, 1]])
        low, high = scipy.stats.binom.interval(0.9999, num, plane.cdf(cuts))
        count = drawn[:, [COLUMN[name] for name in pair]].all(axis=1).sum()
        assert low <= count <= high, pair


def test_correlations_are_those_of_a_distribution():
    for strength in (0.0, 0.5, 1.0):
        matrix = faces.latent_correlation(strength)
        np.testing.assert_array_equal(matrix, matrix.T)
        np.testing.assert_array_equal(np.diagonal(matrix), 1)
        assert np.linalg.eigvalsh(matrix).min() > 0.1


def test_named_attributes_are_columns_of_the_same_faces(data):
    some = faces.load(num_train=30, num_heldout=10, seed=3, attributes=("Smiling", "Bald"))
    every = faces.load(num_train=30, num_heldout=10, seed=3)
    assert some.attribute_names == ("Smiling", "Bald")
    assert some.exclusive == ()
    np.testing.assert_array_equal(some.train.x, every.train.x)
    columns = [COLUMN["Smiling"], COLUMN["Bald"]]
    np.testing.assert_array_equal(some.train.attributes, every.train.attributes[:, columns])
    assert every.attribute_names == faces.NAMES
    assert data.attribute_names == faces.NAMES
    assert (data.num_classes, data.train.label) == (0, None)


def test_the_name_says_what_changes_the_content():
    variants = [
        {},
        {"resolution": 16},
        {"num_train": 6},
        {"num_heldout": 4},
        {"seed": 1},
        {"correlation": 0.25},
        {"attributes": ("Bald", "Smiling")},
        {"attributes": ("Smiling", "Bald")},
        {"held_out": ("Smiling=1,Bald=1",)},
        {"held_out": ("Smiling=1,Bald=0",)},
    ]
    loaded = [faces.load(**{"num_train": 5, "num_heldout": 3} | v) for v in variants]
    assert len({d.name for d in loaded}) == len(variants)
    again = faces.load(num_train=5, num_heldout=3, held_out=("Smiling = 1, Bald=1",))
    assert again.name == loaded[-2].name
    assert dataclasses.replace(again, train=None).unseen.x.shape == (3, 32, 32, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 30}, "data.resolution is 30; faces need a multiple of 8 from 16 to 256"),
        ({"resolution": 8}, "data.resolution is 8"),
        ({"resolution": 512}, "data.resolution is 512"),
        ({"num_train": 0}, "data.num_train is 0; valid is 1 or more"),
        ({"num_heldout": 0}, "data.num_heldout is 0"),
        ({"seed": -1}, "data.split_seed is -1"),
        ({"correlation": 1.5}, "data.correlation is 1.5; valid is a number from 0 to 1"),
        ({"correlation": float("nan")}, "data.correlation is nan"),
        ({"attributes": ("Smilling",)}, r"data\.attributes .*'Smilling'.* did you mean Smiling\?"),
        ({"attributes": ("Bald", "Bald")}, r"data\.attributes names Bald twice"),
        ({"held_out": ("Hat",)}, "data.held_out is 'Hat'; it must be like Name=1"),
        ({"held_out": ("Wearing_Hats=1",)}, r"did you mean Wearing_Hat\?"),
        ({"held_out": ("Bald=1,Bangs=1",)}, "no example has both Bald and Bangs"),
        ({"held_out": ("Smiling=1", "Smiling=0")}, r"data\.held_out leaves 0\.0% of all faces"),
        ({"attributes": ("Smiling",), "held_out": ("Bald=1",)}, "'Bald', which the data do not"),
    ],
)
def test_load_refuses(options, message):
    with pytest.raises(InputError, match=message):
        faces.load(**{"num_train": 5, "num_heldout": 5} | options)


@pytest.mark.parametrize("wrong", [rows(3)[:, :9], rows(2), rows(3) + 2], ids=["A", "N", "value"])
def test_draw_refuses_attributes(wrong):
    with pytest.raises(InputError, match="valid are 0 and 1 of shape"):
        faces.render_people(0, np.arange(3), wrong)


def test_the_figure_has_a_row_a_person_and_a_column_an_attribute(tmp_path, capsys):
    out = tmp_path / "faces.png"
    assert (
        run_faces_figure.run([f"--out={out}", "--seed=2", "--people", "4", "9", "--resolution=24"])
        == 0
    )
    with Image.open(out) as image:
        page = np.asarray(image)
    assert page.shape[1] == 11 * 26 + 2
    smiling = faces.render_people(2, np.array([9]), rows(1, Smiling=1), 24)[0]
    left = 2 + 26 * (1 + COLUMN["Smiling"])
    np.testing.assert_array_equal(page[-26:-2, left : left + 24], smiling)
    assert run_faces_figure.run([f"--out={out}", "--resolution=30"]) == 2
    assert "data.resolution is 30" in capsys.readouterr().err


def pixels(x):
    """Half the resolution, and the mouth at the whole: `[N, H, W, 3]` -> `[N, F]`."""
    x = x.astype(np.float32) / 255
    coarse = x.reshape(len(x), 16, 2, 16, 2, 3).mean(axis=(2, 4))
    return np.concatenate([v.reshape(len(x), -1) for v in (coarse, x[:, 17:26, 7:25])], axis=1)


def test_each_attribute_can_be_read_off_a_face():
    people = faces.load(num_train=3000, num_heldout=1000, correlation=0.0)
    reader = Ridge(alpha=1.0).fit(pixels(people.train.x), people.train.attributes)
    read = reader.predict(pixels(people.heldout.x)) > 0.5
    right = dict(zip(faces.NAMES, (read == people.heldout.attributes).mean(axis=0), strict=True))
    # A smile moves with its mouth, which no linear reader of pixels follows to the end.
    assert right.pop("Smiling") > 0.92, right
    assert min(right.values()) > 0.97, right
