"""The cells of a study as the series of a plot: their names, their order, and how they look."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.cells import place
from analysis.curves import series_name
from analysis.figures import LINES, MARKERS, OKABE_ITO
from analysis.frames import once, records
from analysis.results import column

CONTROL = "no pretraining"
MOST = len(OKABE_ITO)
"""Series that one figure can show apart."""

COLUMNS = ("digest", "seed", "series", "setting", "level", "is_control", "method")
_CONTROL_LINE = (0, (1, 1.5))
_GREY = "0.4"


@dataclass(frozen=True)
class Look:
    """How a series is drawn: colour, line style and marker say the same; an open marker is a control's."""

    colour: str
    line: Any
    marker: str
    face: str


def trial_series(frame: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """Return to which series each trial belongs: those that differ in the seed alone are one.

    Args:
        frame: rows that may share a table (`analysis.groups.split`).
        axes: the axes that tell series apart, as ``section.field``.

    Returns:
        One row per trial, series by series, the values of the first axis changing fastest, controls last: digest, seed,
        series (its name), setting (that of the axes, which a control may share), level (value of the first axis, as
        text), is_control, method (of the pretraining).
    """
    keys = [*map(column, axes[1:]), *map(column, axes[:1])]
    trials = records(once(frame, ["digest"]))
    rows = [_series(row, axes) for row in sorted(trials, key=lambda row: (place(row, keys), row["seed"]))]
    return pd.DataFrame(rows, columns=COLUMNS)


def _series(row: dict[str, Any], axes: Sequence[str]) -> dict[str, Any]:
    is_control = row["pretrain_method"] == "none"
    own = [axis for axis in axes if not (is_control and axis == "pretrain.method")]
    setting = series_name(row, own)
    name = ", ".join(filter(None, [CONTROL * is_control, setting])) or "all cells"
    level = series_name(row, own[:1]) if own[:1] == list(axes[:1]) else ""
    place = {"setting": setting, "level": level or CONTROL * is_control, "is_control": is_control}
    return {"digest": row["digest"], "seed": row["seed"], "series": name, **place, "method": row["pretrain_method"]}


def pages(series: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the rows of the series that each figure shows: cells that can be told apart, and their controls.

    The values of the first axis stay together where they can.
    """
    is_control = series["is_control"].astype(bool)
    cells = once(series.loc[~is_control], ["series"])
    if cells.empty:
        return [series] if len(series) else []
    levels = min(MOST, len(cells["level"].unique()))
    size = MOST // levels * levels
    return [_page(series, cells.iloc[start : start + size]) for start in range(0, len(cells), size)]


def _page(series: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of some cells and of the controls of which all settings are those of one of them."""
    settings = [_words(setting) for setting in cells["setting"]]
    beside = [any(_words(setting) <= other for other in settings) for setting in series["setting"]]
    own = series["series"].isin(cells["series"].tolist())
    return series.loc[own | (series["is_control"].astype(bool) & pd.Series(beside, index=series.index))]


def _words(setting: str) -> set[str]:
    return set(filter(None, setting.split(", ")))


def looks(series: pd.DataFrame) -> dict[str, Look]:
    """Return the look of each series: a control stands behind the series with its setting in its colour, or is grey."""
    rows = records(once(series, ["series"]))
    settings = list(dict.fromkeys(row["setting"] for row in rows if not row["is_control"]))
    controls = [row["series"] for row in rows if row["is_control"]]
    found = {}
    for row in sorted(rows, key=lambda row: settings.index(row["setting"]) if row["setting"] in settings else MOST):
        index = settings.index(row["setting"]) if row["setting"] in settings else None
        marker = MARKERS[(controls.index(row["series"]) if index is None else index) % len(MARKERS)]
        colour = _GREY if index is None else OKABE_ITO[index % MOST]
        line = _CONTROL_LINE if row["is_control"] else LINES[(index or 0) % len(LINES)]
        found[row["series"]] = Look(colour, line, marker, "white" if row["is_control"] else colour)
    return found


def capitalised(names: Iterable[str]) -> list[str]:
    """Return names as they stand in a legend."""
    return [name[:1].upper() + name[1:] for name in names]
