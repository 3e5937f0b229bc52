from __future__ import annotations

import math

import pandas as pd
import pytest
from scipy.stats import ttest_rel

from analysis.best import Best, compare


def seeds(*values: float | None) -> pd.Series:
    return pd.Series(values, dtype="float64")


CLEAR = {"a": seeds(0.80, 0.82, 0.81), "b": seeds(0.70, 0.721, 0.709), "c": seeds(0.60, 0.62, 0.61)}
NOISY = {"a": seeds(0.80, 0.70, 0.75), "b": seeds(0.72, 0.78, 0.74), "c": seeds(0.10, 0.11, 0.10)}


def outcome(cells: dict[str, pd.Series]) -> Best:
    (found,) = compare([cells])
    assert found is not None
    return found


def test_a_best_that_differs_from_every_other() -> None:
    found = outcome(CLEAR)
    assert (found.leader, found.tied, found.untested) == ("a", [], [])
    assert [found.verdict(name) for name in "abc"] == ["best", "", ""]


def test_p_are_those_of_scipy_by_holm() -> None:
    found = outcome(NOISY)
    p = {name: float(ttest_rel(NOISY["a"], NOISY[name]).pvalue) for name in "bc"}  # type: ignore[attr-defined]
    assert found.p["c"] == pytest.approx(2 * p["c"], abs=1e-12)
    assert found.p["b"] == pytest.approx(p["b"], abs=1e-12)


def test_what_cannot_be_told_from_the_leader_shares_its_place_and_nothing_is_best() -> None:
    found = outcome(NOISY)
    assert (found.leader, found.tied) == ("a", ["b"])
    assert [found.verdict(name) for name in "abc"] == ["tied", "tied", ""]


def test_one_seed_tells_nothing() -> None:
    found = outcome({"a": seeds(0.9), "b": seeds(0.1)})
    assert math.isnan(found.p["b"]) and found.untested == ["b"]
    assert [found.verdict(name) for name in "ab"] == ["", ""]


def test_pairs_are_seeds_that_both_have() -> None:
    cells = {"a": seeds(0.9, 0.8, None), "b": seeds(None, 0.1, 0.2)}
    assert outcome(cells).untested == ["b"]


def test_a_leader_that_beats_some_but_cannot_be_tested_against_all_is_not_best() -> None:
    found = outcome({**CLEAR, "d": seeds(0.5, None, None)})
    assert found.untested == ["d"] and found.tied == []
    assert found.verdict("a") == ""


def test_equal_cells_are_tied() -> None:
    found = outcome({"a": seeds(0.5, 0.6), "b": seeds(0.5, 0.6)})
    assert (found.leader, found.p["b"], found.verdict("b")) == ("a", 1.0, "tied")


def test_all_tests_of_a_table_are_corrected_together() -> None:
    alone, together = outcome(CLEAR), compare([CLEAR, NOISY])[0]
    assert together is not None
    assert together.p["b"] > alone.p["b"]
    assert together.p["c"] == pytest.approx(alone.p["c"] * 4 / 2)


def test_fewer_than_two_cells_with_a_value_are_no_comparison() -> None:
    assert compare([{"a": seeds(0.5, 0.6)}, {}, {"a": seeds(0.5), "b": seeds(None)}]) == [None, None, None]
