"""Analysis of variance: against the textbook's formulas, and what unbalanced grids become."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import f_oneway

from analysis.anova import anova, complete_seeds

A, B, C = "pretrain.batch_size", "pretrain.epochs", "data.label_fraction"
LEVELS = {A: (8, 16, 32), B: (50, 100), C: (0.1, 1.0)}


def grid(axes: tuple[str, ...], seeds: int = 3, seed: int = 0) -> pd.DataFrame:
    """Return a full grid with an effect of the first axis, an interaction and noise."""
    rng = np.random.default_rng(seed)
    rows = []
    for values in itertools.product(*(LEVELS[axis] for axis in axes), range(seeds)):
        first, last = values[0], values[-2]
        score = 0.5 + 0.01 * first + 0.02 * math.log(first) * float(last) + rng.normal(0, 0.05)
        names = [*(axis.replace(".", "_") for axis in axes), "seed"]
        rows.append({**dict(zip(names, values, strict=True)), "macro_f1": score})
    return pd.DataFrame(rows)


def by_source(table: pd.DataFrame) -> dict[str, dict]:
    return {row["source"]: row for row in table.to_dict("records")}


def test_one_factor_is_scipys() -> None:
    frame = grid((A,), seeds=4)
    groups = [rows["macro_f1"].to_numpy() for _, rows in frame.groupby("pretrain_batch_size")]
    expected = f_oneway(*groups)
    found = by_source(anova(frame, [A]))[A]
    assert (found["f"], found["p"]) == pytest.approx((expected.statistic, expected.pvalue), abs=1e-9)


def test_two_factors_by_least_squares() -> None:
    """Sums of squares as differences of residuals of nested models, in any order of a balanced grid."""
    frame = grid((A, B))
    found = by_source(anova(frame, [A, B]))
    y = frame["macro_f1"].to_numpy()
    a, b = (pd.get_dummies(frame[name]).to_numpy(float) for name in ("pretrain_batch_size", "pretrain_epochs"))
    one = np.ones((len(y), 1))
    both = np.hstack([one, a, b, (a[:, :, None] * b[:, None, :]).reshape(len(y), -1)])

    def rest(design: np.ndarray) -> float:
        return float(np.sum((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2))

    assert found[A]["sum_squares"] == pytest.approx(rest(one) - rest(np.hstack([one, a])), abs=1e-9)
    assert found[B]["sum_squares"] == pytest.approx(rest(np.hstack([one, a])) - rest(np.hstack([one, a, b])), abs=1e-9)
    interaction = found[f"{A} x {B}"]
    assert interaction["sum_squares"] == pytest.approx(rest(np.hstack([one, a, b])) - rest(both), abs=1e-9)
    assert found["seeds"]["sum_squares"] == pytest.approx(rest(both), abs=1e-9)
    assert [found[name]["degrees"] for name in (A, B, f"{A} x {B}", "seeds", "total")] == [2, 1, 2, 12, 17]


def test_shares_of_three_factors_add_up_to_one() -> None:
    table = anova(grid((A, B, C)), [A, B, C])
    parts = table.loc[table["source"] != "total"]
    assert len(parts) == 8
    assert parts["eta_squared"].sum() == pytest.approx(1.0, abs=1e-12)
    assert parts["degrees"].sum() == 35
    assert by_source(table)[A]["eta_squared"] > by_source(table)[B]["eta_squared"]


def test_an_effect_by_hand() -> None:
    """Means 0.4 and 0.8 of two levels, each +- 0.1 over two seeds: 4 x 0.2^2 of 4 x (0.2^2 + 0.1^2)."""
    frame = pd.DataFrame(
        {"pretrain_epochs": [50, 50, 100, 100], "seed": [0, 1, 0, 1], "macro_f1": [0.3, 0.5, 0.7, 0.9]}
    )
    found = by_source(anova(frame, [B]))
    assert found[B]["sum_squares"] == pytest.approx(0.16, abs=1e-9)
    assert found[B]["eta_squared"] == pytest.approx(0.8, abs=1e-9)
    assert found[B]["f"] == pytest.approx(0.16 / (0.04 / 2), abs=1e-9)


def test_one_seed_has_shares_and_no_p() -> None:
    found = by_source(anova(grid((A, B), seeds=1), [A, B]))
    assert math.isnan(found[A]["p"]) and found[A]["eta_squared"] > 0
    assert found["seeds"]["degrees"] == 0


def test_a_seed_that_lacks_a_cell_is_left_out() -> None:
    frame = grid((A, B))
    lacking = frame.copy()
    lacking.loc[0, "macro_f1"] = math.nan  # seed 0 of the first cell
    assert complete_seeds(lacking, [A, B]) == [1, 2]
    expected = anova(frame.loc[frame["seed"] != 0], [A, B])
    pd.testing.assert_frame_equal(anova(lacking, [A, B]), expected)
    pd.testing.assert_frame_equal(anova(lacking.drop(index=0), [A, B]), expected)


def test_a_seed_that_has_a_cell_twice_does_not_stand_for_one_that_lacks_another() -> None:
    frame = grid((A, B))
    frame.loc[0, "pretrain_batch_size"] = 16  # seed 0: one cell is missing, another is there twice
    assert complete_seeds(frame, [A, B]) == [1, 2]
    twice = pd.concat([frame, frame.loc[frame["seed"] == 1]])
    assert complete_seeds(twice, [A, B]) == [2]


def test_scores_that_are_all_the_same_have_no_shares() -> None:
    table = anova(grid((A, B)).assign(macro_f1=0.5), [A, B])
    assert table["sum_squares"].tolist() == [0.0] * 5 and table["eta_squared"].dropna().empty
    assert table["p"].dropna().empty


def test_without_a_complete_seed_or_a_factor_there_is_nothing() -> None:
    frame = grid((A,), seeds=1)
    frame.loc[0, "macro_f1"] = math.nan
    assert anova(frame, [A]).empty
    assert anova(grid((A,)).loc[lambda rows: rows["pretrain_batch_size"] == 8], [A]).empty
