"""The numbers of the F1 plot, computed before anything is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from analysis.cells import estimate_of, f1_table
from analysis.format import setting, short_name
from analysis.frames import Values, records, where
from analysis.published import Row
from analysis.results import column

COLUMNS = ("kind", "arm", "series", "x", "y", "low", "high", "n", "collapsed")


def f1_curves(frame: pd.DataFrame, axes: list[str], published: Sequence[Row] = ()) -> pd.DataFrame:
    """Return the record behind the plot of one group: test macro-F1 against the first axis.

    Args:
        frame: rows that may share a table (`analysis.groups.split`).
        axes: the study's axes, as ``section.field``; the first is x, the others make the series.
        published: published rows that may stand beside its cells.

    Returns:
        Rows of four kinds: ``mean`` (with its interval, n, and in how many seeds the outputs collapsed; without y where
        no trial is done), ``seed`` (one value), ``control`` (mean and interval; without x when the control has no
        such setting) and ``published`` (micro-F1 at 0.5, comparable ones only).
    """
    table = f1_table(frame, axes, published)
    rows = [record for row in records(table) for record in _records(row, frame, axes)]
    return pd.DataFrame(rows, columns=COLUMNS)


def pages(curves: pd.DataFrame, most: int) -> list[pd.DataFrame]:
    """Return the rows of the series that each figure shows, not more than so many, with the controls of all of them."""
    names = list(dict.fromkeys(curves.loc[curves["kind"] == "mean", "series"]))
    is_shared = ~curves["series"].isin(names)
    parts = [names[start : start + most] for start in range(0, len(names), most)]
    return [curves.loc[is_shared | curves["series"].isin(part)] for part in parts] or [curves]


def _records(row: Values, frame: pd.DataFrame, axes: list[str]) -> Iterator[Values]:
    is_control = row["pretrain_method"] == "none" and axes[0] != "pretrain.method"
    place = {"arm": row["arm"], "series": series_name(row, axes[1:]), "x": row[column(axes[0])]}
    macro = estimate_of(row, "macro_f1")
    numbers = {"y": macro.mean, "low": macro.low, "high": macro.high, "n": macro.n}
    kind = "control" if is_control else "mean"
    yield {"kind": kind, **place, **numbers, "collapsed": row["outputs_collapsed"]}
    if is_control:
        return
    cell = where(frame, {name: row[name] for name in ("arm", "pretrain_method", *map(column, axes))})
    for value in cell["macro_f1"].dropna():
        yield {"kind": "seed", **place, "y": value, "n": 1}
    if row["published_value"] is not None:
        low, high = (row[f"published_{part}"] for part in ("low", "high"))
        yield {"kind": "published", **place, "y": row["published_value"], "low": low, "high": high}


def series_name(row: Values, axes: list[str]) -> str:
    """Return the settings of the further axes, for example ``labels 10 %``; empty when there are none."""
    known = ((axis, row[column(axis)]) for axis in axes)
    return ", ".join(f"{short_name(axis)} {setting(column(axis), v)}" for axis, v in known if v is not None)
