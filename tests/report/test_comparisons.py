"""Paired tests against SciPy, Holm's correction by hand, by its definition and by simulation."""

import numpy as np
import pytest
import scipy.stats

from gmm_diffusion.errors import InputError
from gmm_diffusion.report import comparisons


@pytest.mark.parametrize("n", [2, 3, 8])
def test_a_paired_test_is_that_of_scipy(n):
    rng = np.random.default_rng(n)
    ours, theirs = rng.normal(0.3, 1, n), rng.normal(0, 1, n)
    expected = scipy.stats.ttest_rel(ours, theirs).pvalue
    assert comparisons.paired_p(ours - theirs) == pytest.approx(expected, rel=1e-9)


def test_differences_without_spread_and_single_ones():
    assert comparisons.paired_p([0.0, 0.0, 0.0]) == 1
    assert comparisons.paired_p([0.5, 0.5]) == 0
    assert comparisons.paired_p([0.5]) is None
    with pytest.raises(InputError, match="differences hold nan; valid are finite"):
        comparisons.paired_p([0.1, np.nan])


def test_holm_by_hand():
    # In order 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1; none below the one before it.
    adjusted = comparisons.holm([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(comparisons.holm([0.6, 0.7]), [1, 1])
    assert comparisons.holm([]).shape == (0,)
    with pytest.raises(InputError, match=r"p_values hold 1\.2; valid are numbers from 0 to 1"):
        comparisons.holm([0.1, 1.2])


def test_holm_rejects_what_its_definition_rejects():
    """Step down: reject the smallest while it is below the level over those that are left."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = rng.beta(0.3, 2, size=rng.integers(1, 9))
        rejected, left = set(), list(np.argsort(p))
        while left and p[left[0]] < 0.05 / len(left):
            rejected.add(left.pop(0))
        assert set(np.flatnonzero(comparisons.holm(p) < 0.05)) == rejected


def test_chance_makes_one_star_in_twenty_tables_at_most():
    rng = np.random.default_rng(0)
    tables = 1500
    # Rows that share a baseline depend on each other, as in a report.
    values = rng.normal(size=(tables, 6, 5)) - rng.normal(size=(tables, 1, 5))
    starred = sum(
        any(c.differs for c in comparisons.compare(dict(enumerate(table))).values())
        for table in values
    )
    assert starred / tables < 0.05 + 3 * np.sqrt(0.05 * 0.95 / tables)
    alone = sum(scipy.stats.ttest_1samp(t, 0, axis=1).pvalue.min() < 0.05 for t in values)
    assert alone / tables > 0.12, "without the correction there are too many"


def test_a_table_of_comparisons():
    found = comparisons.compare({"a": [1.0, 1.1, 0.9], "b": [0.1, -0.1, 0.05], "c": [0.2]})
    assert found["a"].mean == pytest.approx(1)
    low, high = scipy.stats.t.interval(0.95, 2, loc=1, scale=scipy.stats.sem([1.0, 1.1, 0.9]))
    assert found["a"].half == pytest.approx((high - low) / 2)
    assert found["a"].adjusted == pytest.approx(
        2 * scipy.stats.ttest_1samp([1, 1.1, 0.9], 0).pvalue
    )
    assert [found[name].differs for name in "abc"] == [True, False, False]
    assert found["c"].half is found["c"].adjusted is None
    text = comparisons.note(found, "classes")
    assert text.startswith("2 comparisons, paired by seed; \\* marks a difference from classes")
    assert comparisons.note({"c": found["c"]}).startswith("No difference is tested")
