"""The analysis of variance of a study as a table: what its factors, their interactions and the seeds explain."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from analysis.anova import COLUMNS as ANOVA_COLUMNS
from analysis.anova import RESIDUAL, anova, complete_seeds
from analysis.format import listing, p_text, short_name
from analysis.frames import Values, records, where
from analysis.results import column
from cass_tune.config import ARMS

COLUMNS = ("arm", *ANOVA_COLUMNS, "seeds", "note")

EXPLANATION = (
    "Analysis of variance of macro-F1 over the full grid of the factors, controls left out. eta^2: share of the"
    " variance that a factor, an interaction of factors (x) or the differences between seeds of one cell explain; they"
    " add up to 1. partial: the same without what the other factors explain. F and p test a factor against the seeds,"
    " which they take as independent replicas of equal spread. Only seeds that have every cell count."
)
"""What the columns stand for."""


def anova_table(frame: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """Return the exact analysis of variance of one group, per arm (`analysis.anova.anova`).

    Args:
        frame: rows that may share a table (`analysis.groups.split`).
        axes: the study's axes, as ``section.field``; those with one level are no factors.

    Returns:
        The columns of `analysis.anova.anova` with the arm, the number of seeds that count, and a note: which seeds were
        left out. An arm whose grid cannot be analysed has one row without source, whose note says why: it is not a full
        grid, no seed has every cell, or a seed has a cell twice. Without two factors, or one factor and two seeds,
        there is nothing to tell apart, and the table has no rows.
    """
    trained = frame.loc[frame["pretrain_method"] != "none"]
    factors = [axis for axis in axes if len(trained[column(axis)].unique()) > 1]
    seeds = trained["seed"].dropna().unique()
    if not factors or (len(factors) == 1 and len(seeds) < 2):
        return pd.DataFrame(columns=COLUMNS)
    tables = [_of_arm(where(trained, {"arm": arm}), factors).assign(arm=arm) for arm in ARMS]
    return pd.concat(tables, ignore_index=True).reindex(columns=COLUMNS)


def _of_arm(frame: pd.DataFrame, factors: Sequence[str]) -> pd.DataFrame:
    reason = _why_not(frame, factors)
    if reason:
        return pd.DataFrame({"source": [None], "seeds": [0], "note": [reason]})
    seeds = complete_seeds(frame, factors)
    left_out = sorted({int(seed) for seed in frame["seed"]} - {*seeds})
    note = f"seeds left out, because they lack a cell: {listing(list(map(str, left_out)))}" if left_out else None
    return anova(frame, factors).assign(seeds=len(seeds), note=note)


def _why_not(frame: pd.DataFrame, factors: Sequence[str]) -> str | None:
    """Return why the cells of one arm are no balanced full grid, or None."""
    keys = [column(axis) for axis in factors]
    levels = [len(frame[key].unique()) for key in keys]
    cells, there = math.prod(levels), len(frame[keys].drop_duplicates())
    if there < cells:
        grid = " x ".join(map(str, levels))
        return f"not a full grid: {there} of the {cells} cells of {grid} levels were asked for"
    if frame.duplicated([*keys, "seed"]).any():
        return "a seed has a cell more than once"
    if complete_seeds(frame, factors):
        return None
    with_score = frame.loc[frame["macro_f1"].notna()]
    lacking = cells - len(with_score[keys].drop_duplicates())
    return "no seed has a score in every cell" + (f": {lacking} of {cells} cells have none at all" if lacking else "")


def anova_rows(table: pd.DataFrame) -> list[list[str]]:
    """Return the table as text: the headers, then its rows; of an arm that cannot be analysed there is none."""
    headers = ["arm", "source", "degrees", "sum of squares", "F", "p", "eta^2", "partial", "seeds"]
    return [headers, *(_text_row(row) for row in records(table) if row["source"] is not None)]


def anova_notes(table: pd.DataFrame) -> list[str]:
    """Return for every arm why it cannot be analysed, or which seeds were left out."""
    told = [row for row in records(table) if row["note"] and row["source"] in (None, RESIDUAL)]
    return [f"{row['arm']}: {row['note']}." for row in told]


def _text_row(row: Values) -> list[str]:
    source = " x ".join(short_name(name) if "." in name else name for name in row["source"].split(" x "))
    numbers = [_number(row["f"], 2), p_text(row["p"]), _number(row["eta_squared"], 3)]
    squares, partial = f"{row['sum_squares']:.3g}", _number(row["partial_eta_squared"], 3)
    return [row["arm"], source, str(row["degrees"]), squares, *numbers, partial, str(row["seeds"])]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
