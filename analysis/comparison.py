"""The published numbers in words: which stand beside a study's cells, and what keeps the others apart."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import pandas as pd

from analysis.format import duration, wrap
from analysis.frames import Values, by, first, once, records
from analysis.groups import setting_columns
from analysis.published import CELL_COLUMNS, METRIC, PRETRAIN_TIME, Match, Row, describe, match, select
from analysis.statistics import Estimate, intervals, summarise

INTERVALS = (
    "intervals: the difference of our mean from the published number over half the width of our 95 % interval; up to 1"
    " the published number lies inside it."
)
"""How far apart comparable numbers are."""

_KIND = ("arm", "method")


def comparison(frame: pd.DataFrame, published: Mapping[str, object]) -> list[str]:
    """Return the lines on the published rows that a study names (`analysis.published.select`)."""
    cells = records(once(frame, CELL_COLUMNS))
    nearest = [_nearest(row, cells) for row in select(published)]
    beside = [item for item in nearest if item.is_comparable]
    lines = [*_comparable(beside, frame), *_apart([item for item in nearest if not item.is_comparable])]
    return [*lines, "  S0, S1: two reproductions that quote the paper (analysis/published.py)"] if lines else []


def _nearest(row: Row, cells: list[Values]) -> Match:
    """Return the match with the fewest differences, each telling the values of all cells of that arm and method."""
    matches = [match(cell, [row])[0] for cell in cells]
    best = min(matches, key=lambda item: len(item.differences))
    kind = set(_KIND) & set(_names(best))
    alike = [item for item in matches if set(_KIND) & set(_names(item)) == kind]
    told = (dataclasses.replace(found, here=_values(alike, found.what, "here")) for found in best.differences)
    return dataclasses.replace(best, differences=tuple(told))


def _names(item: Match) -> list[str]:
    return [difference.what for difference in item.differences]


def _values(items: list[Match], name: str, side: str) -> str:
    found = [difference for item in items for difference in item.differences if difference.what == name]
    values = dict.fromkeys(getattr(difference, side) for difference in found)
    return ", ".join(sorted(values, key=_number))


def _number(text: str) -> float:
    """Return where a value stands among others: numbers by size, words as they come."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def _reason(name: str, items: list[Match]) -> str:
    return f"{name}: {_values(items, name, 'here')} here against {_values(items, name, 'there')} published"


def _comparable(items: list[Match], frame: pd.DataFrame) -> list[str]:
    ours = [_ours(item.row, frame) for item in items]
    lines = [wrap(f"  {_line(item.row)}{text}", "    ") for item, text in zip(items, ours, strict=True)]
    lines += [wrap(f"  {INTERVALS}", "    ")] * any(" intervals " in text for text in ours)
    return ["Published numbers, comparable:", *lines, *_not_stated(items)] if items else []


def _ours(row: Row, frame: pd.DataFrame) -> str:
    """Return our micro-F1 of every comparable setting, and by how many intervals the published number differs."""
    if row["metric"] != METRIC:
        return ""
    cells = by(frame.loc[frame[METRIC].notna()], ["arm", *setting_columns()])
    beside = [cell for cell in cells if match(first(cell), [row])[0].is_comparable]
    found = [_distance(summarise(cell[METRIC]), row["value"]) for cell in beside]
    return f"; ours {'; '.join(found)}" if found else ""


def _distance(ours: Estimate, theirs: float) -> str:
    distance = intervals(ours, theirs)
    if math.isnan(distance):
        return ours.text()
    return f"{ours.text()}: {abs(distance):.1f} intervals {'above' if distance > 0 else 'below'}"


def _apart(items: list[Match]) -> list[str]:
    """Return the rows that are not comparable; the reasons that all of them share are told once."""
    if not items:
        return []
    shared = [
        name for name in dict.fromkeys(name for item in items for name in _names(item)) if _is_shared(name, items)
    ]
    lines = ["Published numbers, not comparable" + (", because of" if shared else "") + ":"]
    lines += [wrap(f"  {_reason(name, items)}", "    ") for name in shared]
    lines += ["They are:"] * bool(shared)
    return [*lines, *(wrap(f"  {_line(item.row)}{_own(item, shared)}", "    ") for item in items), *_not_stated(items)]


def _is_shared(name: str, items: list[Match]) -> bool:
    """Return whether every row differs in this, as far as its source says it."""
    return name != "metric" and all(name in (*_names(item), *item.not_stated) for item in items)


def _own(item: Match, shared: list[str]) -> str:
    reasons = [_reason(name, [item]) for name in _names(item) if name not in (*shared, "metric")]
    return f" ({'; '.join(reasons)})" if reasons else ""


def _line(row: Row) -> str:
    number = f"{row['metric'].replace('_', ' ')} {row['value']:.4g}"
    if row["metric"] == METRIC:
        number = f"micro-F1 {row['value']:.4f}"
    elif row["metric"] == PRETRAIN_TIME:
        number = f"pretraining took {duration(row['value'] * 3600)} on the device of its source"
    void = "VOID, " if row["certainty"] == "void" else ""
    return f"{describe(row)}: {number} [{void}{row['source']}]"


def _not_stated(items: list[Match]) -> list[str]:
    items = [item for item in items if item.row["metric"] == METRIC]
    names = dict.fromkeys(name for item in items for name in item.not_stated)
    where = {name: "" if all(name in item.not_stated for item in items) else " (some)" for name in names}
    stated = ", ".join(name + where[name] for name in names)
    return [wrap(f"  not stated in the sources: {stated}", "    ")] if stated else []
