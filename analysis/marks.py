"""The best cells of an F1 table: which cells are compared, and what is marked."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from analysis.best import Best, compare
from analysis.format import long_name
from analysis.frames import Values, by, first, records
from analysis.methods import METHOD
from analysis.results import column
from analysis.sheet import Places

RULE = (
    "{{best}}: best, distinguishable from every cell it is compared with; {{tied}}: the highest mean, or not"
    " distinguishable from it. Compared: {what}, within an arm, all other settings equal; by differences paired by"
    " seed, p < 0.05 two-sided, corrected for all of a table (Holm).{untested}"
)
UNTESTED = " Where the highest mean has fewer than two seeds in common with another cell, nothing is marked."


def compared_axis(axes: list[str]) -> str:
    """Return the axis whose levels compete: the method, or the first setting; what the data are like does not."""
    return METHOD if METHOD in axes else next((axis for axis in axes if not axis.startswith("data.")), METHOD)


def marked(table: pd.DataFrame, frame: pd.DataFrame, axes: list[str], score: str) -> pd.DataFrame:
    """Return an F1 table with two more columns on one score.

    Args:
        table: what `analysis.cells.f1_table` returned.
        frame: the rows that it was made from.
        axes: the study's axes.
        score: ``macro_f1``, or ``micro_f1_at_half``.

    Returns:
        The table with ``<score>_verdict`` (``best``, ``tied``, ``untested`` or nothing, see `analysis.best`) and
        ``<score>_best_p``, the corrected p of the difference from the highest mean of the cells compared.
    """
    keys = ["arm", "pretrain_method", *(column(axis) for axis in axes if axis != METHOD)]
    beside = [name for name in keys if name != column(compared_axis(axes))]
    sets: dict[str, dict[str, pd.Series]] = {}
    narrow = frame.loc[:, [*keys, "seed", score]]  # most columns are not needed here, and taking out a row costs each
    for cell in by(narrow, keys):
        row = first(cell)
        values = pd.Series(cell[score].to_numpy(), index=cell["seed"].tolist(), dtype="float64")
        sets.setdefault(_name(row, beside), {})[_name(row, keys)] = values
    found = dict(zip(sets, compare(list(sets.values())), strict=True))
    rows = records(table)
    outcomes = [(_name(row, keys), found[_name(row, beside)]) for row in rows]
    return table.assign(
        **{
            f"{score}_verdict": [_verdict(best, name) for name, best in outcomes],
            f"{score}_best_p": [None if best is None else best.p.get(name) for name, best in outcomes],
        }
    ).astype({f"{score}_best_p": "float64"})


def _name(row: Values, keys: list[str]) -> str:
    return repr([row[name] for name in keys])


def _verdict(best: Best | None, name: str) -> str:
    if best is None:
        return ""
    return best.verdict(name) or ("untested" if best.untested and name in (best.leader, *best.untested) else "")


def rule(table: pd.DataFrame, axes: list[str], score: str) -> list[str]:
    """Return the note on a table's marks; none where nothing was compared."""
    verdicts = set(table[f"{score}_verdict"]) - {""}
    untested = UNTESTED if "untested" in verdicts else ""
    return [RULE.format(what=_what(axes), untested=untested)] if verdicts else []


def _what(axes: list[str]) -> str:
    axis = compared_axis(axes)
    return (
        "methods, the control among them"
        if axis == METHOD
        else f"levels of {long_name(axis).partition(' (')[0].lower()}"
    )


def places(marks: Mapping[tuple[int, str], str]) -> dict[str, Places]:
    """Return the fields ``bold`` and ``ties`` of a sheet.

    Args:
        marks: verdict by row and header.
    """
    names = {"bold": "best", "ties": "tied"}
    return {name: frozenset(at for at, found in marks.items() if found == want) for name, want in names.items()}
