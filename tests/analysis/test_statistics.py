from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.statistics import Estimate, holm, p_value, paired_difference, summarise


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_interval_agrees_with_scipy(n: int) -> None:
    values = np.random.default_rng(n).normal(0.7, 0.05, n)
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    found = summarise(values)
    assert (found.mean, found.low, found.high) == pytest.approx((values.mean(), low, high), abs=1e-9)
    assert (found.n, found.sd) == (n, pytest.approx(values.std(ddof=1), abs=1e-12))


def test_interval_by_hand() -> None:
    found = summarise([0.6, 0.7, 0.8])  # sd 0.1, t(0.975, 2) = 4.302652729911275
    half = 4.302652729911275 * 0.1 / math.sqrt(3)
    assert found.low == pytest.approx(0.7 - half, abs=1e-9)
    assert found.half_width == pytest.approx(half, abs=1e-9)


def test_unknown_values_are_left_out_and_n_says_so() -> None:
    assert summarise([0.5, math.nan, None, 0.7]).n == 2
    assert summarise(pd.Series([0.5, None, 0.7])).mean == pytest.approx(0.6)


def test_one_value_has_no_interval() -> None:
    found = summarise([0.7123])
    assert (found.mean, found.n) == (0.7123, 1)
    assert math.isnan(found.low) and math.isnan(found.high)
    assert found.text() == "0.712 (n=1, no interval)"
    assert found.short() == "0.712 (n=1)"


def test_no_value() -> None:
    found = summarise([])
    assert found.n == 0 and math.isnan(found.mean)
    assert found.text() == found.short() == "-"


def test_text() -> None:
    found = Estimate(0.7121, 0.6512, 0.7730, 3)
    assert found.text() == "0.712 [0.651, 0.773]"
    assert found.short() == "0.712 +-0.061"
    assert found.short(signed=True) == "+0.712 +-0.061"
    assert Estimate(-0.01, -0.03, 0.01, 3).text(signed=True) == "-0.010 [-0.030, +0.010]"


def test_difference_is_paired_on_equal_seeds() -> None:
    a = pd.Series([0.8, 0.7, 0.9, 0.1], index=[0, 1, 2, 7])
    b = pd.Series([0.5, 0.7, 0.6, math.nan], index=[1, 0, 2, 3])
    assert paired_difference(a, b) == summarise([0.8 - 0.7, 0.7 - 0.5, 0.9 - 0.6])
    assert paired_difference(a, b.iloc[:0]).n == 0


@pytest.mark.parametrize("n", [2, 3, 10])
def test_p_of_a_paired_difference_is_scipys(n: int) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=n), rng.normal(size=n)
    expected = stats.ttest_rel(a, b).pvalue
    assert p_value(paired_difference(pd.Series(a), pd.Series(b))) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n", "width"), [(2, 12.706204736432095), (3, 4.302652729911275), (4, 3.182446305284263)])
def test_few_seeds_have_the_quantiles_of_the_printed_tables(n: int, width: float) -> None:
    """t(0.975, n - 1); the standard error of 0, ..., n - 1 is sqrt((n + 1) / 12)."""
    assert summarise(range(n)).half_width == pytest.approx(width * math.sqrt((n + 1) / 12), abs=1e-9)


def test_groups_of_unequal_size_are_estimated_each_for_itself() -> None:
    few, many = np.array([0.5, 0.6, 0.8]), np.array([0.5, 0.6, 0.8, 0.7, 0.9])
    for values in (few, many):
        low, high = stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
        assert (summarise(values).low, summarise(values).high) == pytest.approx((low, high), abs=1e-9)
    both = paired_difference(pd.Series(many, index=range(5)), pd.Series(few, index=[4, 2, 9]))
    expected = stats.ttest_rel([0.9, 0.8], [0.5, 0.6])
    assert both.n == 2 and p_value(both) == pytest.approx(expected[1], abs=1e-9)


def test_a_missing_cell_pairs_nothing() -> None:
    known = {0: 0.5, 1: 0.6}
    assert paired_difference(known, {}).n == paired_difference({}, known).n == 0
    assert paired_difference(known, {5: 0.1}).text() == "-"
    lacking = paired_difference(known, {0: math.nan, 1: 0.5})
    assert (lacking.n, lacking.mean) == (1, pytest.approx(0.1, abs=1e-9)) and math.isnan(p_value(lacking))


def test_p_without_a_spread_or_without_pairs() -> None:
    assert math.isnan(p_value(summarise([0.3])))
    assert p_value(summarise([0.25, 0.25])) == 0.0
    assert p_value(summarise([0.0, 0.0])) == 1.0


def test_holm_by_hand() -> None:
    """4 x 0.01, 3 x 0.02, 2 x 0.03 (not below the one before), 1 x 0.04; what could not be tested does not count."""
    assert holm([0.04, 0.01, math.nan, 0.03, 0.02])[:2] == pytest.approx([0.06, 0.04])
    found = holm([0.04, 0.01, math.nan, 0.03, 0.02])
    assert math.isnan(found[2]) and found[3:] == pytest.approx([0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    """A seeded simulation with three seeds each, as most studies have."""
    samples = np.random.default_rng(0).normal(0.7, 0.05, (20_000, 3))
    found = [summarise(sample) for sample in samples]
    covered = np.mean([estimate.low <= 0.7 <= estimate.high for estimate in found])
    assert covered == pytest.approx(0.95, abs=0.01)
