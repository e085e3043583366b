"""Wilson intervals against published figures and their defining equation; agreement by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmm_diffusion.errors import InputError
from gmm_diffusion.metrics import consistency


def test_published_intervals():
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3 (score, without correction).
    for hits, count, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        ours = consistency.wilson_interval(hits, count)
        np.testing.assert_allclose(ours, (low, high), atol=5e-5)


@given(count=st.integers(1, 5000), share=st.floats(0, 1))
def test_bounds_solve_the_score_equation(count, share):
    hits = round(share * count)
    z = 1.959963984540054
    for bound in consistency.wilson_interval(hits, count):
        gap = abs(hits / count - bound)
        assert abs(gap - z * np.sqrt(max(bound * (1 - bound), 0) / count)) < 1e-6


def test_nothing_known_about_no_samples():
    assert tuple(map(float, consistency.wilson_interval(0, 0))) == (0, 1)


def test_agreement_by_hand():
    requested = np.array([0, 0, 0, 0, 1, 1])
    predicted = np.array([0, 0, 0, 2, 1, 0])
    result = consistency.agreement(requested, predicted, num_classes=3)
    assert result["agreement"] == 4 / 6
    assert result["count"] == 6
    assert result["low"] < 4 / 6 < result["high"]
    rows = result["per_class"]
    assert [r["agreement"] for r in rows] == [0.75, 0.5, None]
    assert [r["count"] for r in rows] == [4, 2, 0]
    assert (rows[2]["low"], rows[2]["high"]) == (0, 1)


def test_interval_narrows_with_confidence():
    x = np.zeros(50, int)
    wide, narrow = (consistency.agreement(x, x, 1, c)["low"] for c in (0.99, 0.8))
    assert wide < narrow < 1


@pytest.mark.parametrize(
    ("requested", "predicted", "message"),
    [
        ([], [], "N at least 1"),
        ([0, 1], [0], r"shapes \(2,\) and \(1,\)"),
        ([0, 3], [0, 1], "requested holds classes from 0 to 3; valid are 0 to 2"),
        ([0, 1], [-1, 1], "predicted holds classes from -1 to 1"),
    ],
)
def test_agreement_refuses(requested, predicted, message):
    with pytest.raises(InputError, match=message):
        consistency.agreement(np.array(requested, int), np.array(predicted, int), 3)


def test_refuses_a_confidence():
    with pytest.raises(InputError, match="confidence is 1"):
        consistency.wilson_interval(1, 2, 1)


def test_attributes_by_hand():
    requested = np.array([[0, 1], [1, 1], [0, 0], [1, 0]])
    predicted = np.array([[0, 1], [1, 0], [1, 1], [1, 0]])
    found = consistency.attribute_agreement(requested, predicted)
    assert found == {"attribute_agreement": 5 / 8, "attribute_defects": 0.5}
    with pytest.raises(InputError, match=r"\(4, 2\) and \(4, 1\)"):
        consistency.attribute_agreement(requested, predicted[:, :1])
