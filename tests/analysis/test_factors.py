"""The table of factors: what it explains, and what it refuses to analyse."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from analysis.anova import anova
from analysis.factors import COLUMNS, anova_notes, anova_rows, anova_table
from analysis.frames import records, where

A, B = "pretrain.batch_size", "data.label_fraction"


def frame(seeds: int = 3, levels: tuple[int, int] = (3, 2)) -> pd.DataFrame:
    """Return a full grid of both arms, and controls, which have no batch size."""
    rng = np.random.default_rng(0)
    rows = []
    batches, fractions = (8, 16, 32)[: levels[0]], (0.1, 1.0)[: levels[1]]
    for batch, fraction, seed, arm in itertools.product((*batches, None), fractions, range(seeds), ("cnn", "vit")):
        score = (batch or 0) / 100 + fraction / 10 + rng.normal(0, 0.02)
        method = "none" if batch is None else "cass"
        rows.append((arm, method, batch, fraction, seed, score))
    names = ["arm", "pretrain_method", "pretrain_batch_size", "data_label_fraction", "seed", "macro_f1"]
    return pd.DataFrame(rows, columns=names).astype({"pretrain_batch_size": "Int64", "seed": "Int64"})


def trained(rows: pd.DataFrame, arm: str) -> pd.DataFrame:
    return where(rows, {"arm": arm, "pretrain_method": "cass"})


def test_each_arm_is_analysed_alone_and_without_controls() -> None:
    rows = frame()
    table = anova_table(rows, [A, B])
    assert list(table.columns) == list(COLUMNS)
    assert table["source"].tolist() == [A, B, f"{A} x {B}", "seeds", "total"] * 2
    for arm in ("cnn", "vit"):
        found = where(table, {"arm": arm}).drop(columns=["arm", "seeds", "note"]).reset_index(drop=True)
        pd.testing.assert_frame_equal(found, anova(trained(rows, arm), [A, B]), check_dtype=False)
    assert table["seeds"].tolist() == [3] * 10 and table["note"].dropna().empty


def test_one_factor_needs_two_seeds_and_two_need_one() -> None:
    assert len(anova_table(frame(seeds=2, levels=(3, 1)), [A, B])) == 2 * 3
    assert anova_table(frame(seeds=1, levels=(3, 1)), [A, B]).empty
    assert anova_table(frame(seeds=3, levels=(1, 1)), [A, B]).empty
    table = anova_table(frame(seeds=1), [A, B])
    assert table["p"].dropna().empty and where(table, {"source": A, "arm": "cnn"})["eta_squared"].item() > 0.5


def test_a_grid_with_cells_that_nobody_asked_for_is_refused() -> None:
    rows = frame()
    star = rows.loc[~(rows["pretrain_batch_size"].eq(8) & rows["data_label_fraction"].eq(0.1)).fillna(False)]
    table = records(anova_table(star, [A, B]))
    assert [(row["arm"], row["source"], row["seeds"]) for row in table] == [("cnn", None, 0), ("vit", None, 0)]
    assert table[0]["note"] == "not a full grid: 5 of the 6 cells of 3 x 2 levels were asked for"
    assert len(anova_rows(anova_table(star, [A, B]))) == 1
    assert anova_notes(anova_table(star, [A, B])) == [f"{arm}: {table[0]['note']}." for arm in ("cnn", "vit")]


def test_unequal_replicas_leave_out_the_seeds_that_lack_a_cell_and_say_so() -> None:
    rows = frame()
    rows.loc[0, "macro_f1"] = math.nan  # CNN, seed 0
    table = anova_table(rows, [A, B])
    cnn, vit = (where(table, {"arm": arm}) for arm in ("cnn", "vit"))
    assert cnn["note"].tolist() == ["seeds left out, because they lack a cell: 0"] * 5
    assert cnn["seeds"].tolist() == [2] * 5 and vit["seeds"].tolist() == [3] * 5
    assert anova_notes(table) == ["cnn: seeds left out, because they lack a cell: 0."]


def test_without_a_complete_seed_it_says_what_is_missing() -> None:
    rows = frame()
    rows.loc[rows["pretrain_batch_size"].eq(8).fillna(False) & rows["data_label_fraction"].eq(0.1), "macro_f1"] = (
        math.nan
    )
    (note, _) = anova_table(rows, [A, B])["note"]
    assert note == "no seed has a score in every cell: 1 of 6 cells have none at all"
    rows = frame(seeds=2)
    rows.loc[[0, 14], "macro_f1"] = math.nan
    assert rows.loc[[0, 14], "seed"].tolist() == [0, 1] and rows.loc[[0, 14], "arm"].tolist() == ["cnn", "cnn"]
    cnn, *_ = anova_table(rows, [A, B])["note"]
    assert cnn == "no seed has a score in every cell"


def test_a_seed_that_has_a_cell_twice_is_refused() -> None:
    rows = frame()
    table = anova_table(pd.concat([rows, rows.head(1)]), [A, B])
    assert where(table, {"arm": "cnn"})["note"].tolist() == ["a seed has a cell more than once"]
    assert len(where(table, {"arm": "vit"})) == 5


def test_as_text() -> None:
    headers, first, *_ = anova_rows(anova_table(frame(), [A, B]))
    assert headers[:2] == ["arm", "source"] and len(first) == len(headers)
    assert first[:3] == ["cnn", "batch", "2"] and first[-1] == "3"
    rows = {row[1]: row for row in anova_rows(anova_table(frame(), [A, B]))[1:6]}
    assert [*rows] == ["batch", "labels", "batch x labels", "seeds", "total"]
    shares = [float(rows[name][6]) for name in ("batch", "labels", "batch x labels", "seeds")]
    assert sum(shares) == pytest.approx(1.0, abs=0.002) and rows["total"][4:6] == ["-", "-"]
