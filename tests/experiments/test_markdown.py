"""Tables of the experiments, by hand."""

import numpy as np
import pytest

from experiments import markdown
from gmm_diffusion.report import comparisons


def test_a_table():
    text = markdown.table(("a", "b"), [("1", "2"), ["3", "4"]])
    assert text == "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |"


@pytest.mark.parametrize(
    ("values", "options", "text"),
    [
        # Student's quantiles of one and two degrees of freedom are 12.706 and 4.303.
        ([0.6, 0.8], {}, "0.700 ± 1.271"),
        ([1, 2, 3], {"digits": 1}, "2.0 ± 2.5"),
        ([0.011, 0.011], {"digits": 1, "unit": 100}, "1.1 ± 0.0"),
        ([0.5], {"digits": 2}, "0.50"),
        ([], {}, "-"),
    ],
)
def test_a_mean(values, options, text):
    assert markdown.mean(np.array(values, float), **options) == text


def test_a_change():
    found = comparisons.compare({"falls": [-1.0, -1.1, -0.9], "one": [0.25]})
    # The half width is 4.303 * 0.1 / sqrt(3).
    assert markdown.change(found["falls"], 2) == "-1.00 ± 0.25 \\*"
    assert markdown.change(found["one"]) == "+0.250"
