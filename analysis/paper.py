"""An F1 table as papers print it: the levels of one axis side by side, everything else in rows."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from analysis.cells import columns, place
from analysis.format import long_name, score_text, setting, short_name
from analysis.frames import Values, records
from analysis.groups import control_axes
from analysis.methods import METHOD
from analysis.published import METRIC
from analysis.results import column
from analysis.statistics import summarise

SCORES = {"macro_f1": "Macro-F1", METRIC: "Micro-F1 at 0.5"}
CONTROL = "control"
"""Header of the controls that have no level of their own."""
_PUBLISHED = ("value", "low", "high", "origin", "source")


def column_axis(axes: list[str]) -> str:
    """Return the axis whose levels stand side by side: the share of labels, or the first that is not the method."""
    if "data.label_fraction" in axes:
        return "data.label_fraction"
    return next((axis for axis in axes if axis != METHOD), METHOD)


def title(axes: list[str], score: str) -> str:
    """Return for example ``Macro-F1 by share of the training labels``."""
    return f"{SCORES[score]} by {long_name(column_axis(axes)).partition(' (')[0].lower()}"


def paper_table(table: pd.DataFrame, axes: list[str], score: str) -> pd.DataFrame:
    """Return the numbers of one score, a row per cell, so that each leads to its trials.

    Args:
        table: an F1 table with verdicts (`analysis.marks.marked`).
        axes: the study's axes.
        score: of `SCORES`.

    Returns:
        arm, method and axes; mean, interval, n and standard deviation; verdict and p; of micro-F1 the published value
        where it is comparable; and the trials.
    """
    keys = ["arm", "pretrain_method", *(column(axis) for axis in axes if axis != METHOD)]
    published = [f"published_{name}" for name in _PUBLISHED] if score == METRIC else []
    numbers = [*columns(score, summarise([])), f"{score}_verdict", f"{score}_best_p"]
    return table.reindex(columns=[*keys, *numbers, *published, "trial_ids"])


@dataclass(frozen=True)
class Layout:
    """A table's text with what belongs to its rows and cells.

    Args:
        rows: the headers, then the cells.
        marks: verdict by row and header.
        trials: ids of every row's trials.
    """

    rows: list[list[str]]
    marks: dict[tuple[int, str], str] = field(default_factory=dict)
    trials: list[str] = field(default_factory=list)


def pivot(table: pd.DataFrame, axes: list[str], score: str) -> Layout:
    """Return a score with the levels of `column_axis` side by side, a control that has no level last.

    Published values, where any are comparable, have a row of their own below the cells they belong to.

    Args:
        table: an F1 table with verdicts (`analysis.marks.marked`).
        axes: the study's axes.
        score: of `SCORES`.
    """
    across = column_axis(axes)
    down = [axis for axis in dict.fromkeys([METHOD, *axes]) if axis != across]
    cells, controls = _apart(records(table), across, axes)
    lines: dict[tuple[str, ...], dict[str, Values]] = {}
    for cell in cells:
        names = (cell["arm"], *(setting(column(axis), cell[column(axis)]) for axis in down))
        lines.setdefault(names, {})[_level(cell, across)] = cell
    shared = ["arm", *map(column, control_axes(axes))]
    for of_level in lines.values():
        one = next(iter(of_level.values()))
        for control in controls:
            if all(control[name] == one[name] for name in shared):
                of_level[CONTROL] = control
    layout = Layout([["arm", *map(short_name, down), *_levels(cells, across), *[CONTROL] * bool(controls)]])
    for names, of_level in lines.items():
        _add(layout, names, of_level, score)
    return layout


def _apart(cells: list[Values], across: str, axes: list[str]) -> tuple[list[Values], list[Values]]:
    """Return the cells that have a level, and the controls where they have none; controls alone are cells."""
    if across == METHOD or across in control_axes(axes):
        return cells, []
    controls = [cell for cell in cells if cell["pretrain_method"] == "none"]
    others = [cell for cell in cells if cell["pretrain_method"] != "none"]
    return (others, controls) if others else (cells, [])


def _levels(cells: list[Values], across: str) -> list[str]:
    """Return the headers of the levels, numbers by size; methods as they come."""
    ranked = cells if across == METHOD else sorted(cells, key=lambda cell: place({**cell, "arm": ""}, [column(across)]))
    return list(dict.fromkeys(_level(cell, across) for cell in ranked))


def _level(cell: Values, across: str) -> str:
    value = setting(column(across), cell[column(across)])
    return value if across == METHOD else f"{short_name(across)} {value}"


def _add(layout: Layout, names: tuple[str, ...], of_level: dict[str, Values], score: str) -> None:
    """Add the row of some cells, and that of their published values."""
    number, headers = len(layout.rows) - 1, layout.rows[0]
    levels = headers[len(names) :]
    texts = (score_text(of_level[level], score) if level in of_level else "-" for level in levels)
    layout.rows.append([*names, *texts])
    layout.marks.update({(number, level): cell[f"{score}_verdict"] for level, cell in of_level.items()})
    layout.trials.append(" ".join(cell["trial_ids"] for cell in of_level.values() if cell["trial_ids"]))
    values = {level: cell["published_value"] for level, cell in of_level.items()}
    if score == METRIC and any(value is not None for value in values.values()):
        known = [values.get(level) for level in levels]
        start = [f"{name}, publ." if header == "method" else name for header, name in zip(headers, names, strict=False)]
        layout.rows.append([*start, *("-" if value is None else f"{value:.4g}" for value in known)])
        layout.trials.append("")
