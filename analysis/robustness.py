"""Robustness of a method to a setting of its pretraining: its range over the setting's levels, and the worst drop."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.cells import columns, estimate_of, trial_ids
from analysis.format import setting, short_name
from analysis.frames import Values, by, first, records
from analysis.methods import METHOD
from analysis.results import column
from analysis.statistics import Estimate, paired_difference, summarise
from cass_tune.config import Pretrain, Trial
from cass_tune.identity import matters

EXPLANATION = (
    "range: largest minus smallest mean macro-F1 over the levels; worst drop: macro-F1 at the middle level minus that"
    " at the level with the lowest mean, paired by seed. The level is chosen by its mean: with few seeds the drop looks"
    " larger than it is, for every method alike."
)
"""What the columns stand for."""

_CONTROL = Trial(pretrain=Pretrain(method="none"))


def factors(axes: list[str]) -> list[str]:
    """Return the axes that are settings of the pretraining alone, where a study compares methods."""
    return [axis for axis in axes if axis != METHOD and not matters(_CONTROL, axis)] if METHOD in axes else []


def robustness_table(frame: pd.DataFrame, axes: list[str]) -> pd.DataFrame:
    """Return how much each method depends on each factor, as numbers.

    Args:
        frame: rows that may share a table (`analysis.groups.split`).
        axes: the study's axes, as ``section.field``.

    Returns:
        One row per arm, factor, method and setting of the other axes, where two levels or more have a number: the
        levels and their mean macro-F1 as text, the range, the level with the lowest mean, and the drop from the middle
        level to it with mean, interval, n and standard deviation. Without any, a table without rows.
    """
    cells = frame.loc[(frame["pretrain_method"] != "none") & frame["macro_f1"].notna()]
    rows = [row for factor in factors(axes) for row in _rows_of(cells, factor, axes)]
    return pd.DataFrame(sorted(rows, key=lambda row: (row["arm"], row["factor"])), columns=_columns(axes))


def _columns(axes: list[str]) -> list[str]:
    drop = list(columns("drop", summarise([])))
    start = ["arm", "factor", "pretrain_method", "others", "levels", "means", "range", "worst_level", "middle"]
    return [*start, *drop, "trial_ids"]


def _rows_of(cells: pd.DataFrame, factor: str, axes: list[str]) -> Iterator[Values]:
    others = [axis for axis in axes if axis not in (factor, METHOD)]
    for rows in by(cells, ["arm", "pretrain_method", *map(column, others)]):
        levels = {plain: found for found in by(rows, [column(factor)]) for plain in [first(found)[column(factor)]]}
        if len(levels) > 1:
            yield _row(rows, factor, others, dict(sorted(levels.items())))


def _row(rows: pd.DataFrame, factor: str, others: list[str], levels: dict[float, pd.DataFrame]) -> Values:
    row, names = first(rows), list(levels)
    means = {level: summarise(found["macro_f1"]).mean for level, found in levels.items()}
    middle = names[len(names) // 2] if len(names) > 2 else max(names, key=lambda level: means[level])
    worst = min(names, key=lambda level: means[level])
    return {
        **{name: row[name] for name in ("arm", "pretrain_method")},
        "factor": factor,
        "others": ", ".join(f"{short_name(axis)} {setting(column(axis), row[column(axis)])}" for axis in others),
        "levels": ", ".join(setting(column(factor), level) for level in names),
        "means": ", ".join(f"{mean:.3f}" for mean in means.values()),
        "range": max(means.values()) - min(means.values()),
        "worst_level": setting(column(factor), worst),
        "middle": setting(column(factor), middle),
        **columns("drop", _drop(levels[middle], levels[worst])),
        "trial_ids": trial_ids(records(rows, ["trial_id", "status"])),
    }


def _drop(middle: pd.DataFrame, worst: pd.DataFrame) -> Estimate:
    a, b = (pd.Series(rows["macro_f1"].to_numpy(), index=rows["seed"].tolist()) for rows in (middle, worst))
    return paired_difference(a, b)


def robustness_rows(table: pd.DataFrame) -> list[list[str]]:
    """Return the table as text: the headers, then its rows."""
    headers = ["arm", "factor", "method", "at", "levels", "macro-F1", "range", "worst drop", "at level"]
    return [headers, *(_text_row(row) for row in records(table))]


def _text_row(row: Values) -> list[str]:
    drop = estimate_of(row, "drop").short(signed=True)
    start = [row["arm"], short_name(row["factor"]), row["pretrain_method"], row["others"] or "-"]
    return [*start, row["levels"], row["means"], f"{row['range']:.3f}", drop, row["worst_level"]]
