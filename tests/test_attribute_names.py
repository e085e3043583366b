"""Assignments of attributes are read as written, and refused in words that help."""

import numpy as np
import pytest

from gmm_diffusion import attribute_names as attributes
from gmm_diffusion.errors import InputError

NAMES = ("Smiling", "Bald", "Blond_Hair", "Wearing Hat")
EXCLUSIVE = (("Bald", "Blond_Hair"),)


@pytest.mark.parametrize(
    ("text", "assigned"),
    [
        ("Smiling=1", {"Smiling": 1}),
        ("Smiling=1,Bald=0", {"Smiling": 1, "Bald": 0}),
        (" Bald = 0 , Smiling=1 ", {"Bald": 0, "Smiling": 1}),
        ("Wearing Hat = 1,Bald=0", {"Wearing Hat": 1, "Bald": 0}),
        ("Bald=1,Blond_Hair=0", {"Bald": 1, "Blond_Hair": 0}),
        ("Bald=0,Blond_Hair=0", {"Bald": 0, "Blond_Hair": 0}),
    ],
)
def test_parse(text, assigned):
    found = attributes.parse(text, NAMES, EXCLUSIVE)
    assert list(found.items()) == list(assigned.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "sample.condition is ''; it must be like Name=1"),
        ("Smiling", "it must be like Name=1"),
        ("Smiling=1,", "it must be like Name=1"),
        ("=1", "it must be like Name=1"),
        ("Smilling=1", r"'Smilling', which the data do not have; did you mean Smiling\?"),
        ("blond hair=1", r"did you mean Blond_Hair\?"),
        ("Wheels=1", "valid are Smiling, Bald, Blond_Hair"),
        ("Smiling=2", "Smiling must be 0 or 1, and is '2'"),
        ("Smiling=", "Smiling must be 0 or 1, and is ''"),
        ("Smiling=1=1", "Smiling must be 0 or 1, and is '1=1'"),
        ("Smiling=1,Smiling=1", "names Smiling twice"),
        ("Smiling=1,Smiling=0", "names Smiling twice"),
        ("Bald=1,Smiling=0,Blond_Hair=1", "no example has both Bald and Blond_Hair"),
    ],
)
def test_parse_refuses(text, message):
    with pytest.raises(InputError, match=message):
        attributes.parse(text, NAMES, EXCLUSIVE)


def test_messages_name_the_field():
    for text in ("", "Smilling=1", "Smiling=2"):
        with pytest.raises(InputError, match=r"^data\.held_out "):
            attributes.parse(text, NAMES, field="data.held_out")


def test_check_names():
    attributes.check_names(("Bald", "Smiling"), NAMES, "data.attributes")
    attributes.check_names((), NAMES, "data.attributes")
    with pytest.raises(InputError, match=r"data\.attributes .*'Balt'.* did you mean Bald\?"):
        attributes.check_names(("Smiling", "Balt"), NAMES, "data.attributes")
    with pytest.raises(InputError, match=r"data\.attributes names Bald twice"):
        attributes.check_names(("Bald", "Smiling", "Bald"), NAMES, "data.attributes")


def test_shows():
    rows = np.array([[1, 0, 0], [1, 0, 1], [0, 0, 1], [1, 1, 0]], np.uint8)
    found = attributes.shows(rows, {"Blond_Hair": 1, "Smiling": 1}, NAMES)
    assert found.tolist() == [False, True, False, False]
    found = attributes.shows(rows, {"Bald": 0}, NAMES)
    assert found.tolist() == [True, True, True, False]
