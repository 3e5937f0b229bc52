"""Small helpers that take rows and values out of a table as plain Python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import pandas as pd

Values = dict[str, Any]
"""One row: its value by column, None where it is missing."""


def plain(value: Any) -> Any:
    """Return a table's value as a plain Python one, None when it is missing."""
    if value is None or value is pd.NA or value != value:
        return None
    return value.item() if hasattr(value, "item") else value


def records(frame: pd.DataFrame, names: Iterable[str] | None = None) -> list[Values]:
    """Return the rows as plain values, of all columns or of these, each once."""
    names = [str(name) for name in frame] if names is None else list(dict.fromkeys(names))
    columns = [[plain(value) for value in frame[name].tolist()] for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def first(frame: pd.DataFrame) -> Values:
    """Return the first row as plain values."""
    return records(frame.head(1))[0]


def where(frame: pd.DataFrame, values: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows that have all these values; None stands for a missing one."""
    fits = pd.Series(True, index=frame.index)
    for name, value in values.items():
        has = frame[name].isna() if value is None else frame[name].eq(value).fillna(False)
        fits &= has.astype(bool)
    return cast(pd.DataFrame, frame.loc[fits])


def by(frame: pd.DataFrame, columns: Iterable[str]) -> list[pd.DataFrame]:
    """Return the rows of every combination of values that there is, missing ones included, in order of appearance."""
    if frame.empty:
        return []
    return [rows for _, rows in frame.groupby(list(columns), dropna=False, sort=False, observed=True)]


def grouped(rows: Iterable[Values], names: Iterable[str]) -> dict[tuple[Any, ...], list[Values]]:
    """Return plain rows by their values of some columns, in order of appearance; much faster than `by` for many."""
    keys, found = list(names), dict[tuple[Any, ...], list[Values]]()
    for row in rows:
        found.setdefault(tuple(row[name] for name in keys), []).append(row)
    return found


def once(frame: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """Return the first row of every combination of values."""
    return frame.loc[~frame.duplicated(list(columns))]
